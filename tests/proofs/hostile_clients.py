"""Hostile clients of a server, in a process of their own: every attack at once, until SIGTERM.

    python -m tests.proofs.hostile_clients ADDRESS SEED [ATTACK ...]

It prints ``ready`` once the large conversations are stored, starts the attacks after a line on
standard input, prints ``sent`` once every text is sent, and the counts of each attack as JSON at
the end.
"""

import asyncio
import base64
import contextlib
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from tests.proofs.hostile_server import KEYS

TOKEN = KEYS["KEY_HOSTILE"]
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
IDLE_SOCKETS = 1500
SLOW_READERS = 200
EXPORTS = 8
"""Exports that are requested at the same time."""
MUTATED_FRAMES = 10_000
HISTORY_MESSAGES = 20
HISTORY_MESSAGE = "Read this again. " * 53_000
"""900 kB."""
PAUSE_SECONDS = (0.01, 0.03)
"""Range of the pause between two steps of an attack …"""
RECONNECT_SECONDS = {"idle": (5.0, 10.0), "slow": (1.0, 3.0)}
"""… and before clients that hold a connection open another one: all run beside the server."""
FRAME_PAUSE_SECONDS = 0.001
CONNECT_TIMEOUT_SECONDS = 10.0
SMALL_BUFFER = 4096
ATTACKS = ("idle", "slow", "exports", "wrong_keys", "headers", "histories", "texts", "frames")

ROUTES = (
    "GET /",
    "GET /static/palaver-client.js",
    "GET /ws",
    "GET /v1/conversations/t",
    "GET /v1/conversations/t/events",
    "POST /v1/conversations/t/messages",
    "POST /v1/conversations/t/stop",
    "GET /v1/export",
    "POST /v1/erase",
    "GET /v1/skills",
    "GET /v1/about",
    "GET /v1/models",
    "POST /v1/chat/completions",
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
    "GET /openapi.json",
    "PUT /v1/skills",
    "GET /%0a%00",
)
HOSTILE_HEADERS = (
    b"Authorization: Bearer \xff\xfe",
    b"Authorization: Bearer " + b"a" * 7000,
    b"Origin: http://[",
    b"Origin: null\r\nSec-Fetch-Site: cross-site",
    b"Host: [x]",
    b"Content-Encoding: gzip",
    b"Content-Encoding: br",
    b"Content-Length: 99999999999999999999",
    b"Content-Length: -1",
    b"Transfer-Encoding: chunked",
    b"Content-Type: application/json; charset=\xff",
    b"Idempotency-Key: \xff",
    b"X-Palaver-Thread: \xff",
    b"Last-Event-ID: \xff:1",
    b'If-None-Match: "\xff',
    b"Accept-Encoding: \xff",
    b"Range: bytes=\xff-",
    b"Cookie: a=\xff; =; ;;\x01",
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: \xff",
    b"X: " + b"x" * 100_000,
    b"\xff: \xff",
    b": empty",
    b"folded: a\r\n b",
    b"X-Forwarded-For: \xff, 999.1.1.1",
)
TEMPLATES: tuple[dict[str, Any], ...] = (
    {"type": "hello", "thread": "t", "person": "mallory", "token": TOKEN, "since": "start"},
    {"type": "send", "id": "1", "text": "hello", "skill": "engine", "arguments": {"a": [1, {}]}},
    {"type": "stop", "turn": None},
    {"type": "ping"},
)


class HostileClients:
    """All attacks on one server, and what came of them."""

    def __init__(self, address: str, texts: Sequence[str], seed: int) -> None:
        self.host, self.port = urlsplit(address).hostname or "", urlsplit(address).port or 80
        self.address = address
        self.counts: Counter[str] = Counter()
        self._texts = texts
        self._rng = random.Random(seed)

    async def store_histories(self, session: aiohttp.ClientSession) -> None:
        """Store the conversations that slow readers read and that huge histories continue."""
        for number in range(HISTORY_MESSAGES):
            await self._send(session, "huge", f"{number} {HISTORY_MESSAGE}", wait=True)

    async def _send(
        self, session: aiohttp.ClientSession, thread: str, text: str, *, wait: bool = False
    ) -> int:
        async with session.post(
            f"{self.address}v1/conversations/{thread}/messages",
            params={"wait": "true"} if wait else {},
            json={"text": text, "person": "mallory", "skill": "engine"},
            headers=HEADERS,
        ) as response:
            await response.read()
            return response.status

    async def run(self, names: Collection[str]) -> None:
        """Run the named attacks until cancelled."""
        attacks = (
            [("idle", self._stay_idle, number) for number in range(IDLE_SOCKETS)]
            + [("slow", self._read_nothing, number) for number in range(SLOW_READERS)]
            + [("exports", self._export, number) for number in range(EXPORTS)]
            + [("wrong_keys", self._guess_key, 0), ("headers", self._send_headers, 0)]
            + [("histories", self._continue_history, 0)]
        )
        async with asyncio.TaskGroup() as group:
            for name, attack, number in attacks:
                if name in names:
                    group.create_task(self._forever(name, attack, number))
            if "frames" in names:
                group.create_task(self._send_mutated_frames())
            if "texts" in names:
                await self._send_texts()
            print("sent", flush=True)  # noqa: T201

    async def _forever(
        self, name: str, attack: Callable[[int], Coroutine[Any, Any, None]], number: int
    ) -> None:
        await asyncio.sleep(self._rng.random())
        while True:
            with contextlib.suppress(OSError, TimeoutError, aiohttp.ClientError, EOFError):
                await attack(number)
            self.counts[name] += 1
            await self._pause(RECONNECT_SECONDS.get(name, PAUSE_SECONDS))

    async def _pause(self, seconds: tuple[float, float] = PAUSE_SECONDS) -> None:
        await asyncio.sleep(self._rng.uniform(*seconds))

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
            return await asyncio.open_connection(self.host, self.port, limit=SMALL_BUFFER)

    async def _stay_idle(self, number: int) -> None:
        """Send nothing, half a request, or a websocket's request without a hello."""
        reader, writer = await self._connect()
        try:
            if number % 3 == 1:
                writer.write(b"POST /v1/conversations/t/messages HTTP/1.1\r\nHost: loc")
            elif number % 3 == 2:
                writer.write(self._upgrade_request())
            while await reader.read(SMALL_BUFFER):
                pass
        finally:
            writer.transport.abort()

    def _upgrade_request(self) -> bytes:
        key = base64.b64encode(os.urandom(16)).decode()
        return (
            f"GET /ws HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        ).encode()

    async def _read_nothing(self, number: int) -> None:
        """Request a large conversation and do not read it."""
        _, writer = await self._connect()
        try:
            if number % 2:
                writer.write(self._upgrade_request())
                hello = TEMPLATES[0] | {"thread": "huge"}
                writer.write(client_frame(json.dumps(hello).encode()))
            else:
                path = "/v1/conversations/huge/events?person=mallory&since=start"
                writer.write(
                    f"GET {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n"
                    f"Authorization: Bearer {TOKEN}\r\n\r\n".encode()
                )
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            while not writer.is_closing():
                await asyncio.sleep(1)
                writer.write(client_frame(b"", opcode=9) if number % 2 else b"")
        finally:
            writer.transport.abort()

    async def _export(self, number: int) -> None:
        async with (
            aiohttp.ClientSession(headers=HEADERS) as session,
            session.get(f"{self.address}v1/export", params={"person": "mallory"}) as response,
        ):
            self.counts[f"exports_{response.status}"] += 1
            await response.read()

    async def _guess_key(self, number: int) -> None:
        reader, writer = await self._connect()
        try:
            for _ in range(100):
                writer.write(
                    f"GET /v1/skills HTTP/1.1\r\nHost: {self.host}\r\n"
                    f"Authorization: Bearer guess-{self._rng.random()}\r\n\r\n".encode()
                )
                head = await reader.readuntil(b"\r\n\r\n")
                self.counts[f"wrong_keys_{head[9:12].decode()}"] += 1
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
                await reader.readexactly(int(length or 0))
                await self._pause()
        finally:
            writer.transport.abort()

    async def _send_headers(self, number: int) -> None:
        route, header = self._rng.choice(ROUTES), self._rng.choice(HOSTILE_HEADERS)
        method, path = route.split(" ", 1)
        reader, writer = await self._connect()
        try:
            writer.write(
                f"{method} {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n"
                f"Connection: close\r\n".encode()
                + header
                + b"\r\n\r\nbody"
            )
            writer.write_eof()
            status = (await asyncio.wait_for(reader.read(SMALL_BUFFER), 5))[9:12].decode()
            self.counts[f"headers_{status}"] += 1
            if status.startswith("5") and status != "503":
                self.counts[f"failed: {route} {header[:40]!r}"] += 1
        finally:
            writer.transport.abort()

    async def _continue_history(self, number: int) -> None:
        async with aiohttp.ClientSession() as session:
            status = await self._send(session, "huge", "hi", wait=True)
            self.counts[f"histories_{status}"] += 1

    async def _send_texts(self) -> None:
        """Send each text once to the skill that the router chooses."""
        async with aiohttp.ClientSession(headers=HEADERS) as session:
            for number, text in enumerate(self._texts):
                with contextlib.suppress(aiohttp.ClientError):
                    await self._send_text(session, number, text)
                await self._pause()

    async def _send_text(self, session: aiohttp.ClientSession, number: int, text: str) -> None:
        async with session.post(
            f"{self.address}v1/conversations/text{number}/messages",
            json={"text": text, "person": f"texts{number}"},
        ) as response:
            self.counts[f"texts_{response.status}"] += 1
            await response.read()

    async def _send_mutated_frames(self) -> None:
        while self.counts["frames"] < MUTATED_FRAMES:
            with contextlib.suppress(OSError, TimeoutError):
                await self._send_frames()
            await self._pause()

    async def _send_frames(self) -> None:
        """Send mutated frames over one connection until the server closes it."""
        reader, writer = await self._connect()
        try:
            writer.write(self._upgrade_request())
            if self._rng.random() < 0.8:
                writer.write(client_frame(json.dumps(TEMPLATES[0]).encode()))
            reading = asyncio.create_task(_read_all(reader))
            while not reading.done() and self.counts["frames"] < MUTATED_FRAMES:
                writer.write(self._mutated_frame())
                self.counts["frames"] += 1
                await asyncio.sleep(FRAME_PAUSE_SECONDS)
            reading.cancel()
        finally:
            writer.transport.abort()

    def _mutated_frame(self) -> bytes:
        rng = self._rng
        payload = bytearray(json.dumps(rng.choice(TEMPLATES)).encode())
        for _ in range(rng.randrange(4)):
            position = rng.randrange(len(payload))
            payload[position : position + rng.randrange(3)] = rng.choice(
                (
                    b"",
                    b"\xff",
                    b"\x00",
                    b"\\ud800",
                    b'"',
                    b"[" * 2000,
                    b"9" * 400,
                    b"{",
                    rng.randbytes(3),
                )
            )
        frame = bytearray(client_frame(bytes(payload), opcode=rng.choice((1, 1, 1, 1, 2, 9, 10))))
        if rng.random() < 0.02:
            frame[rng.randrange(2)] = rng.randrange(256)  # reserved bits, opcode, mask, length
        return bytes(frame)


async def _read_all(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(1 << 16):
            pass


def client_frame(payload: bytes, *, opcode: int = 1) -> bytes:
    """Return a final, masked websocket frame; the mask is zero."""
    length = len(payload)
    if length < 126:
        size = bytes((0x80 | length,))
    elif length < 1 << 16:
        size = bytes((0x80 | 126,)) + length.to_bytes(2, "big")
    else:
        size = bytes((0x80 | 127,)) + length.to_bytes(8, "big")
    return bytes((0x80 | opcode,)) + size + bytes(4) + payload


async def main(address: str, seed: int, names: Collection[str]) -> None:
    from tests.server.test_hostile_texts import hostile_messages  # loads every module

    clients = HostileClients(address, hostile_messages(), seed)
    async with aiohttp.ClientSession() as session:
        await clients.store_histories(session)
    print("ready", flush=True)  # noqa: T201
    await asyncio.to_thread(sys.stdin.readline)

    def end() -> None:
        print(json.dumps(clients.counts), flush=True)  # noqa: T201
        os._exit(0)  # thousands of connections need not be closed one by one

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end)
    await clients.run(names)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3:] or ATTACKS))
