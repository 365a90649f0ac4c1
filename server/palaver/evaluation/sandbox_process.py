"""Program of the process that runs code which a model wrote; `palaver.evaluation.sandbox` runs it.

Standard input is the code, after a line with a secret; standard output gets the secret when the
code has run to its end, else what went wrong. Before that, the process gives up, by Landlock and
namespaces: the network, other programs, and all files but Python's own, which it may read, and the
directory in which it was started. It imports nothing but the standard library.
"""

import contextlib
import ctypes
import os
import resource
import signal
import struct
import sys
from collections.abc import Iterator

REFUSED = 70
"""Exit code when this system cannot confine the process."""
KILLED_BY = 128
"""Added to the number of the signal that ended the code, as shells do."""
MEMORY_BYTES = 1 << 30
FILE_BYTES = 1 << 20
OPEN_FILES = 64
MAX_ERROR_CHARACTERS = 300

# Numbers of the kernel: linux/sched.h, linux/prctl.h, linux/landlock.h.
NEW_IPC, NEW_USER, NEW_PID, NEW_NET = 0x08000000, 0x10000000, 0x20000000, 0x40000000
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
CREATE_RULESET_VERSION, RULE_PATH_BENEATH = 1, 1
READ_FILES = 1 << 2 | 1 << 3
ACCESS_BITS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""Rights on files that each version of Landlock knows."""
TCP_VERSION, TCP_BITS = 4, 2

libc = ctypes.CDLL(None, use_errno=True)


def confine(directory: str) -> None:
    """Give up what the code does not need. Raises `OSError` where the kernel cannot do that."""
    os.set_inheritable(0, False)
    separate = NEW_USER | NEW_NET | NEW_IPC | NEW_PID
    has_no_network = libc.unshare(separate) == 0
    version = libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), CREATE_RULESET_VERSION)
    if version < 1 or not (has_no_network or version >= TCP_VERSION):
        raise OSError("the kernel has no Landlock")
    bits = ACCESS_BITS[min(version, max(ACCESS_BITS))]
    attributes = struct.pack("QQ", (1 << bits) - 1, (1 << TCP_BITS) - 1)
    size = 16 if version >= TCP_VERSION else 8
    rules = _check(libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(size), 0))
    for path in {sys.prefix, sys.base_prefix, "/usr/lib", "/lib", "/lib64"}:
        if os.path.isdir(path):
            _allow(rules, path, READ_FILES)
    _allow(rules, directory, ((1 << bits) - 1) & ~1)
    _check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _check(libc.syscall(RESTRICT_SELF, rules, 0))
    os.close(rules)


def _allow(rules: int, path: str, rights: int) -> None:
    folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
    rule = struct.pack("=Qi", rights, folder)
    _check(libc.syscall(ADD_RULE, rules, RULE_PATH_BENEATH, rule, 0))
    os.close(folder)


def _check(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def limit_resources() -> None:
    for kind, limit in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))


@contextlib.contextmanager
def hidden_output() -> Iterator[int]:
    """Send what the code prints nowhere; yield a descriptor of the real output."""
    output = os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    yield output


def run(code: str, secret: str) -> str:
    """Run the code; return the secret, else what went wrong."""
    try:
        exec(compile(code, "<reply>", "exec"), {"__name__": "reply"})
    except SystemExit:
        return "the code ended the process"
    except BaseException as error:  # noqa: BLE001 - the barrier around foreign code
        return f"{type(error).__name__}: {error}"[:MAX_ERROR_CHARACTERS]
    return secret


def main(seconds: str) -> None:
    secret, _, code = sys.stdin.buffer.read().decode().partition("\n")
    with hidden_output() as output:
        try:
            confine(os.getcwd())
        except OSError as error:
            os.write(output, str(error).encode())
            os._exit(REFUSED)
        child = os.fork()  # the first process of the new namespace: all others end with it
        if child:
            signal.alarm(int(seconds))
            _, status = os.waitpid(child, 0)
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else KILLED_BY - code)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        limit_resources()
        os.write(output, run(code, secret).encode(errors="replace"))
        os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
