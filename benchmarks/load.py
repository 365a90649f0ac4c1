"""Load generator: websocket clients that send a message, wait for the reply, and repeat.

It parses no frames, to use little of the machine: it searches for the text of a reply's last
frame. Runs in its own process::

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


def client_frame(payload: bytes) -> bytes:
    """Return a client's text frame. The mask of zeros leaves the payload unchanged."""
    size = len(payload)
    header = (
        struct.pack("!BB", 0x81, 0x80 | size) if size < 126 else _LENGTHS.pack(0x81, 0xFE, size)
    )
    return header + bytes(4) + payload


class LoadClient(asyncio.Protocol):
    """One connection. It appends seconds per turn to ``latencies``."""

    def __init__(self, host: str, latencies: list[float]) -> None:
        self._host = host
        self._latencies = latencies
        self._tail = b""
        self._sent = 0.0
        self._number = 0
        self._thread = uuid.uuid4().hex
        self.ready = asyncio.get_running_loop().create_future()
        self.sending = False
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
            self._handle_handshake(self._tail + data)
        elif END in self._tail + data:
            self._tail = b""
            self._latencies.append(time.perf_counter() - self._sent)
            if self.sending:
                self.send_message()
        else:
            self._tail = data[-len(END) :]

    def _handle_handshake(self, data: bytes) -> None:
        self._tail = data
        if b"\r\n\r\n" in data and not self._number:
            self._number = 1
            hello = {"type": "hello", "thread": self._thread, "person": self._thread}
            self.transport.write(client_frame(json.dumps(hello).encode()))
        if b'"welcome"' in data:
            self._tail = b""
            self.ready.set_result(None)

    def send_message(self) -> None:
        self._number += 1
        frame = f'{{"type":"send","id":"{self._number}","text":"go on","skill":"relay"}}'
        self._sent = time.perf_counter()
        self.transport.write(client_frame(frame.encode()))

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()
        if not self.ready.done():
            self.ready.set_exception(exc or ConnectionError("closed before the welcome"))


async def open_clients(url: str, count: int, latencies: list[float]) -> list[LoadClient]:
    """Open ``count`` conversations."""
    address = urllib.parse.urlsplit(url)
    loop = asyncio.get_running_loop()
    clients: list[LoadClient] = []
    for _ in range(count):
        _, client = await loop.create_connection(
            lambda: LoadClient(address.netloc, latencies),
            address.hostname or "",
            address.port or 80,
        )
        clients.append(client)
        await client.ready
    return clients


async def generate_load(url: str, connections: int, seconds: float) -> dict[str, float]:
    """Return turns per second, and seconds per turn (median and 99th percentile)."""
    latencies: list[float] = []
    clients = await open_clients(url, connections, latencies)
    for client in clients:
        client.sending = True
        client.send_message()
    await asyncio.sleep(min(1.0, seconds / 4))  # warm-up
    latencies.clear()
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    took = time.perf_counter() - began
    turns = sorted(latencies)
    for client in clients:
        client.sending = False
        client.transport.abort()
    return {
        "turns": len(turns),
        "turns_per_second": len(turns) / took,
        "p50": turns[len(turns) // 2],
        "p99": turns[len(turns) * 99 // 100],
    }


def main() -> None:
    url, connections, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    sys.stdout.write(json.dumps(asyncio.run(generate_load(url, connections, seconds))) + "\n")


if __name__ == "__main__":
    main()
