"""A load generator: websocket clients that each send a message, wait for its end, send the next.

It parses no frame, so that it takes little of the machine: a reply's end is recognised by its
last frame's text. Runs in a process of its own::

    python -m benchmarks.load URL CONNECTIONS SECONDS
"""

import asyncio
import base64
import json
import os
import struct
import sys
import time
import urllib.parse
import uuid

END = b'"type":"finished"'
_LENGTHS = struct.Struct("!BBH")


def masked(payload: bytes) -> bytes:
    """A client's text frame. The mask of zeros leaves the payload as it is."""
    size = len(payload)
    header = (
        struct.pack("!BB", 0x81, 0x80 | size) if size < 126 else _LENGTHS.pack(0x81, 0xFE, size)
    )
    return header + bytes(4) + payload


class Talker(asyncio.Protocol):
    """One connection. ``latencies`` gets seconds per turn."""

    def __init__(self, host: str, latencies: list[float]) -> None:
        self._host = host
        self._latencies = latencies
        self._tail = b""
        self._sent = 0.0
        self._number = 0
        self._thread = uuid.uuid4().hex
        self.ready = asyncio.get_running_loop().create_future()
        self.talking = False
        self.closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        key = base64.b64encode(os.urandom(16)).decode()
        transport.write(
            f"GET /ws HTTP/1.1\r\nHost: {self._host}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        if not self.ready.done():
            self._greet(self._tail + data)
        elif END in self._tail + data:
            self._tail = b""
            self._latencies.append(time.perf_counter() - self._sent)
            if self.talking:
                self.say()
        else:
            self._tail = data[-len(END) :]

    def _greet(self, data: bytes) -> None:
        self._tail = data
        if b"\r\n\r\n" in data and not self._number:
            self._number = 1
            hello = {"type": "hello", "thread": self._thread, "person": self._thread}
            self.transport.write(masked(json.dumps(hello).encode()))
        if b'"welcome"' in data:
            self._tail = b""
            self.ready.set_result(None)

    def say(self) -> None:
        self._number += 1
        frame = f'{{"type":"send","id":"{self._number}","text":"go on","skill":"relay"}}'
        self._sent = time.perf_counter()
        self.transport.write(masked(frame.encode()))

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()
        if not self.ready.done():
            self.ready.set_exception(exc or ConnectionError("closed before the welcome"))


async def connect(url: str, count: int, latencies: list[float]) -> list[Talker]:
    """``count`` open conversations."""
    address = urllib.parse.urlsplit(url)
    loop = asyncio.get_running_loop()
    talkers: list[Talker] = []
    for _ in range(count):
        _, talker = await loop.create_connection(
            lambda: Talker(address.netloc, latencies), address.hostname or "", address.port or 80
        )
        talkers.append(talker)
        await talker.ready
    return talkers


async def talk(url: str, connections: int, seconds: float) -> dict[str, float]:
    """Turns per second, and seconds per turn at the median and the 99th percentile."""
    latencies: list[float] = []
    talkers = await connect(url, connections, latencies)
    for talker in talkers:
        talker.talking = True
        talker.say()
    await asyncio.sleep(min(1.0, seconds / 4))  # warm-up
    latencies.clear()
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    took = time.perf_counter() - began
    turns = sorted(latencies)
    for talker in talkers:
        talker.talking = False
        talker.transport.abort()
    return {
        "turns": len(turns),
        "turns_per_second": len(turns) / took,
        "p50": turns[len(turns) // 2],
        "p99": turns[len(turns) * 99 // 100],
    }


def main() -> None:
    url, connections, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    sys.stdout.write(json.dumps(asyncio.run(talk(url, connections, seconds))) + "\n")


if __name__ == "__main__":
    main()
