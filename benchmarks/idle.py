"""Memory of a server per idle connection. Prints bytes::

python -m benchmarks.idle URL SERVER_PID COUNT
"""

import asyncio
import sys
from pathlib import Path

from benchmarks.load import connect


def resident(pid: int) -> int:
    """Bytes of memory that a process holds (proc(5), status, VmRSS)."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} tells no memory")


async def measure(url: str, pid: int, count: int) -> float:
    await connect(url, 50, [])  # what the first connections bring is not theirs
    before = resident(pid)
    talkers = await connect(url, count, [])
    await asyncio.sleep(1)
    per_connection = (resident(pid) - before) / count
    for talker in talkers:
        talker.transport.abort()
    return per_connection


def main() -> None:
    url, pid, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    sys.stdout.write(f"{asyncio.run(measure(url, pid, count)):.0f}\n")


if __name__ == "__main__":
    main()
