"""Measure the memory of a server per idle connection. Print bytes::

python -m benchmarks.idle URL SERVER_PID COUNT
"""

import asyncio
import sys
from pathlib import Path

from benchmarks.load import open_clients


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process in bytes (proc(5), status, VmRSS)."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{pid}/status has no VmRSS")


async def measure_connection_bytes(url: str, pid: int, count: int) -> float:
    await open_clients(url, 50, [])  # warm-up: one-time allocations
    before = resident_bytes(pid)
    clients = await open_clients(url, count, [])
    await asyncio.sleep(1)
    per_connection = (resident_bytes(pid) - before) / count
    for client in clients:
        client.transport.abort()
    return per_connection


def main() -> None:
    url, pid, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    sys.stdout.write(f"{asyncio.run(measure_connection_bytes(url, pid, count)):.0f}\n")


if __name__ == "__main__":
    main()
