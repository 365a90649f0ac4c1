"""The sandbox: code of a model runs with limits, and reaches nothing."""

import socket
from pathlib import Path

import pytest

from palaver.evaluation.cases import Program
from palaver.evaluation.sandbox import build_program, run_program, take_code

pytestmark = pytest.mark.slow


def run(body: str, timeout: float = 5.0) -> str:
    """Run a reply that is the body of ``double``; return what went wrong."""
    program = Program(
        prelude='import math\ndef double(x):\n    "Return twice x."\n',
        test="assert double(2) == 4, 'wrong'",
        function="double",
        timeout=timeout,
    )
    return run_program(program, body)


@pytest.mark.parametrize(
    "reply",
    [
        "    return x + x\n",
        "Here it is:\n```python\ndef double(x):\n    return 2 * x\n```\nDone.",
        "```\nimport itertools\n\ndef double(x):\n    return math.floor(2 * x)\n```",
        "    open('scratch', 'w').write('x')\n    return len(open('scratch').read()) * 4\n",
    ],
)
def test_right_code_passes(reply: str) -> None:
    assert run(reply) == ""


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("    return 5\n", "AssertionError: wrong"),
        ("    return undefined\n", "NameError"),
        ("    this is no code\n", "SyntaxError"),
        ("    raise SystemExit(0)\n", "the code ended the process"),
        ("    import os; os._exit(0)\n", "the process ended with code 0"),
        ("    import os; os.kill(os.getpid(), 9)\n", "AssertionError"),  # 1 in its namespace
        ("    return [0] * 10**11\n", "MemoryError"),
        ("    open('big', 'wb').write(bytes(1 << 21)); return 4\n", "OSError"),
        ("    print('4' * 10**6); return 5\n", "AssertionError: wrong"),
    ],
)
def test_what_went_wrong_is_told(body: str, problem: str) -> None:
    assert problem in run(body)


@pytest.mark.parametrize("body", ["    while True: pass\n", "    import time; time.sleep(99)\n"])
def test_code_that_takes_too_long_is_ended(body: str) -> None:
    assert run(body, timeout=1.0) == "it ran for more than 1 seconds"


def test_the_code_reads_and_writes_nothing_of_the_user(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("4")
    assert "PermissionError" in run(f"    return int(open({str(secret)!r}).read())\n")
    assert "PermissionError" in run(f"    import os; os.remove({str(secret)!r}); return 4\n")
    assert "PermissionError" in run("    import os; os.listdir('/home'); return 4\n")
    assert "PermissionError" in run("    import subprocess; subprocess.run(['true']); return 4\n")
    assert secret.read_text() == "4"


def test_the_code_reaches_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        body = f"    import socket; socket.create_connection({address!r}, 2); return 4\n"
        assert "Error" in run(body)
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_the_code_has_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALAVER_SECRET", "4")
    assert "KeyError" in run("    import os; return int(os.environ['PALAVER_SECRET'])\n")


def test_a_reply_without_a_fence_is_code() -> None:
    assert take_code("x = 1") == "x = 1"
    assert take_code("a\n```py\nx = 1\n") == "x = 1\n"


def test_a_function_of_the_reply_replaces_that_of_the_prelude() -> None:
    program = Program(prelude="def f():\n", test="f()", function="f", timeout=1.0)
    assert build_program(program, "    pass\n") == "def f():\n    pass\n\nf()\n"
    assert build_program(program, "def f(): pass") == "def f():\n\ndef f(): pass\nf()\n"
