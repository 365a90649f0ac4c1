"""Facts about the machine on which figures were measured."""

import contextlib
import os
import platform
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path


@cache
def machine() -> dict[str, str | int | float]:
    """Return the processor, its cores, and the versions of Python and Redis."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count() or 0,
        "python": platform.python_version(),
        "redis": _redis(),
    }


def _cpu() -> str:
    with contextlib.suppress(OSError):
        model = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
        if model:
            return model[1]
    return platform.processor() or platform.machine()


def _redis() -> str:
    if shutil.which("redis-server") is None:
        return ""
    command = ["redis-server", "--version"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    version = re.search(r"v=(\S+)", output)
    return version[1] if version else output.strip()
