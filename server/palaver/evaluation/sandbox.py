"""Sandbox: runs code that a model wrote, in a confined process with limits of time and memory."""

import contextlib
import math
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile

from palaver.errors import ServerError
from palaver.evaluation import sandbox_process
from palaver.evaluation.cases import Program

START_SECONDS = 10.0
"""Seconds that the process may take to start on a busy machine, beside those of the program."""
_MAX_ANSWER_BYTES = 2_000
_FENCE = re.compile(r"^```[^\n`]*\n(.*?)(?:^```|\Z)", re.MULTILINE | re.DOTALL)


def take_code(reply: str) -> str:
    """Return the first fenced block of a reply, else all of it."""
    fenced = _FENCE.search(reply)
    return fenced[1] if fenced else reply


def build_program(program: Program, reply: str) -> str:
    """Return the code of a reply between prelude and test.

    Code that does not define the function is the rest of its body.
    """
    code = take_code(reply)
    is_whole = re.search(rf"^(?:async )?def {re.escape(program.function)}\b", code, re.MULTILINE)
    between = "\n" if is_whole else ""
    return f"{program.prelude}{between}{code}\n{program.test}\n"


def run_program(program: Program, reply: str) -> str:
    """Run the code of a reply with its test. Return what went wrong, empty when it passed.

    Raises `ServerError` where the system cannot confine a process.
    """
    secret = secrets.token_hex()
    source = f"{secret}\n{build_program(program, reply)}".encode(errors="replace")
    # A file in memory: the process can neither fill a pipe nor leave anything on the disk.
    with (
        tempfile.TemporaryDirectory(prefix="palaver-code-") as directory,
        os.fdopen(os.memfd_create("palaver-code"), "rb") as output,
    ):
        code = _run_process(source, directory, output.fileno(), program.timeout)
        output.seek(0)
        answer = output.read(_MAX_ANSWER_BYTES).decode(errors="replace")
    if code == sandbox_process.REFUSED:
        raise ServerError(f"code of a model is not run here: {answer}")
    if code is None:
        return f"it ran for more than {program.timeout:g} seconds"
    return "" if answer == secret else answer or f"the process ended with code {code}"


def _run_process(source: bytes, directory: str, output: int, timeout: float) -> int | None:
    """Return the exit code of the process, None when it took too long."""
    child = subprocess.Popen(
        [sys.executable, "-I", sandbox_process.__file__, str(math.ceil(timeout))],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.DEVNULL,
        cwd=directory,
        env={"HOME": directory, "LANG": "C.UTF-8"},
        start_new_session=True,
    )
    try:
        child.communicate(source, timeout + START_SECONDS)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    return None if child.returncode == -signal.SIGALRM else child.returncode
