"""Private redis-server for tests: free loopback port, own directory, killed at the end.

By default its configuration is the one that a ledger needs: every write is on disk before it is
acknowledged, and nothing is evicted.
"""

import asyncio
import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import ClassVar

import hiredis
import pytest
from tests.ports import free_port

DURABLE = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
START_SECONDS = 60.0
"""Timeout for the start of a server, which may load data first."""
CONFIG_FILE = Path(__file__).parents[3] / "config" / "redis.conf"
PASSWORD = "s3cret"


class RedisServer:
    """One redis-server process at a time on ``port``, with ``directory``. Its methods block."""

    defaults: ClassVar[dict[str, str]] = DURABLE

    def __init__(self, directory: Path, **directives: str) -> None:
        self.directory = directory
        self.port = free_port()
        given = {name.replace("_", "-"): value for name, value in directives.items()}
        self.directives = self.defaults | given
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Return the URL of a user with all permissions."""
        password = self.directives.get("requirepass", "")
        if "include" in self.directives:
            return self.url_for("admin")
        return f"redis://{password and f':{password}@'}127.0.0.1:{self.port}/0"

    def url_for(self, user: str) -> str:
        """Return the URL of a user of `write_user_config`."""
        return f"redis://{user}:{PASSWORD}@127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None, "not running"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Start it and wait until it answers. Raises `RuntimeError` with its log on failure."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), cwd=self.directory, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.directory / "log").read_text(errors="replace"))
            time.sleep(0.01)

    def kill(self) -> None:
        """Send SIGKILL, and wait for its end."""
        self._end(signal.SIGKILL)

    def terminate(self) -> None:
        """Send SIGTERM, so that it saves, and wait for its end."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """Send SIGSTOP: connections stay open without an answer. `resume` undoes it."""
        assert self._process is not None, "not running"
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None, "not running"
        self._process.send_signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(START_SECONDS)
            self._process = None

    def _command(self) -> list[str]:
        settings = {
            "port": str(self.port), "bind": "127.0.0.1", "dir": str(self.directory), "save": "",
        }  # fmt: skip
        given = sorted((settings | self.directives).items(), key=lambda item: item[0] != "include")
        return ["redis-server", *(word for name, value in given for word in (f"--{name}", value))]

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as link:
                link.sendall(b"PING\r\n")
                return link.recv(64).startswith((b"+PONG", b"-NOAUTH", b"-NOPERM"))
        except OSError:
            return False


def write_user_config(directory: Path) -> str:
    """Write the project's configuration with `PASSWORD` for every user and an admin; return the
    path to ``include``."""
    path = directory / "redis.conf"
    lines = CONFIG_FILE.read_text().replace(" on ", f" on >{PASSWORD} ")
    path.write_text(f"{lines}\nuser admin on >{PASSWORD} ~* &* +@all\n")
    return str(path)


@contextlib.asynccontextmanager
async def run_server(
    kind: type[RedisServer], directives: Mapping[str, str]
) -> AsyncIterator[RedisServer]:
    """Start a server of that ``kind``, which the test may kill and start again.

    Skips the test where redis-server is not installed.
    """
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    directory = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="palaver-redis-"))
    server = kind(directory, **directives)
    try:
        await asyncio.to_thread(server.start)
        yield server
    finally:
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


def run_redis(**directives: str) -> AbstractAsyncContextManager[RedisServer]:
    """Start a `RedisServer`; directives with ``_`` for ``-`` change its defaults."""
    return run_server(RedisServer, directives)


@contextlib.asynccontextmanager
async def redis_server(**directives: str) -> AsyncIterator[str]:
    """Start a `RedisServer` and return its URL; see `run_redis`."""
    async with run_redis(**directives) as server:
        yield server.url


class RecordingProxy:
    """Proxy before a Redis that records commands and can drop a reply."""

    def __init__(self, server: RedisServer) -> None:
        self.commands: list[list[bytes]] = []
        self.reply_bytes = 0
        """Bytes of replies."""
        self.drop_next_reply = False
        """True: cut the connection instead of the next reply; Redis has run the command."""
        self.port = 0
        self._server = server
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def command_names(self) -> list[bytes]:
        """Return the names of the commands since the last `clear_record`."""
        return [command[0] for command in self.commands]

    def clear_record(self) -> None:
        self.commands.clear()
        self.reply_bytes = 0

    def cut_connections(self) -> None:
        """Cut every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection until either side ends it."""
        try:
            back, forth = await asyncio.open_connection("127.0.0.1", self._server.port)
        except OSError:
            writer.transport.abort()
            return
        writers = {writer, forth}
        self._writers |= writers
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._relay_commands(reader, forth, writers))
                group.create_task(self._relay_replies(back, writer, writers))
        finally:
            self._writers -= writers

    async def _relay_commands(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        writers: set[asyncio.StreamWriter],
    ) -> None:
        parser = hiredis.Reader()
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                parser.feed(data)
                while (command := parser.gets()) is not False:
                    self.commands.append(command)
                writer.write(data)
        _abort(writers)

    async def _relay_replies(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        writers: set[asyncio.StreamWriter],
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self.drop_next_reply:
                    self.drop_next_reply = False
                    break
                self.reply_bytes += len(data)
                writer.write(data)
        _abort(writers)


def _abort(writers: set[asyncio.StreamWriter]) -> None:
    for writer in writers:
        writer.transport.abort()


@contextlib.asynccontextmanager
async def run_proxy(server: RedisServer) -> AsyncIterator[RecordingProxy]:
    """Start a `RecordingProxy` before ``server``."""
    proxy = RecordingProxy(server)
    listener = await asyncio.start_server(proxy.relay, "127.0.0.1")
    proxy.port = listener.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        listener.close()
        proxy.cut_connections()
        await listener.wait_closed()
