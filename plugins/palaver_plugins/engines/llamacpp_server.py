"""The process of engine ``llamacpp``, and requests to the HTTP server in it."""

import asyncio
import contextlib
import json
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from palaver import ConfigurationError, EngineError, EngineUnavailable, InvalidInput, PalaverError
from palaver_plugins.engines.engine_process import EngineProcess, process_environment
from palaver_plugins.engines.openai_wire import error_message, error_status
from palaver_plugins.engines.sse import SseParser

Json = dict[str, Any]  # a JSON object
PROGRAM = Path(__file__).with_name("llamacpp_process.py")
SOCKET = "server.sock"
RELEASE_TIMEOUT = 2.0
"""Seconds to wait until the slot of a cancelled generation is free."""
RELEASE_INTERVAL = 0.01  # seconds between two looks at the slot
LOAD_ERROR = re.compile(r"error loading model: (?:error loading [^:]*: )?(.*)")


class LlamaServer:
    """A running process. Its methods raise `EngineUnavailable` when it has ended."""

    def __init__(self, process: asyncio.subprocess.Process, directory: Path) -> None:
        self._process = EngineProcess("llama.cpp", process, process.stderr)
        self._child = process
        self._process.is_closing = True  # until the model is loaded, no end of it is a crash
        self._directory = directory
        self._is_lost = False
        connector = aiohttp.UnixConnector(
            str(directory / SOCKET),
            limit=0,
            force_close=True,  # llama.cpp closes idle connections without a warning
        )
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=None)
        )

    @classmethod
    async def start(cls, parameters: Json, timeout: float) -> "LlamaServer":  # noqa: ASYNC109
        """Start a process and load the model ``model.path``. Raises `ConfigurationError` with the
        reason when it cannot be loaded."""
        directory = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="palaver-llamacpp-"))
        given = parameters | {"hostnames": [str(directory / SOCKET)]}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", str(PROGRAM), json.dumps(given)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=process_environment(),
            start_new_session=True,  # the server itself handles Ctrl-C of a terminal
        )
        server = cls(process, directory)
        try:
            await server._wait_until_ready(parameters["model.path"], timeout)
        except BaseException:
            await server.close()
            raise
        return server

    async def _wait_until_ready(self, model: str, timeout: float) -> None:  # noqa: ASYNC109
        assert self._child.stdout is not None
        reason = f"not loaded within startup_timeout of {timeout:g} s"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                if await self._child.stdout.readline():
                    self._process.is_closing = False
                    return
                await self._process.wait()
                reason = self._load_error()
        raise ConfigurationError(f"model {model!r}: llama.cpp cannot load it: {reason}")

    def _load_error(self) -> str:
        """Return the reason in llama.cpp's log, or the end of the log."""
        found = [match[1] for line in self._process.log_tail if (match := LOAD_ERROR.search(line))]
        if found:
            return found[0]
        status = self._child.returncode
        return f"it ended with status {status}; the end of its log:\n{self._process.log_end}"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._is_lost or self._child.returncode is not None

    async def close(self) -> None:
        """End the process. Idempotent."""
        self._process.is_closing = self._process.is_closing or not self.has_ended
        await self._session.close()
        await self._process.close(timeout=0)
        await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)

    async def call(self, path: str, body: Json | None = None) -> Any:  # Any: a JSON value
        """Return the response to a request: POST with ``body``, else GET."""
        async with self._request(path, body) as response:
            return msgspec.json.decode(await response.read())

    async def complete(self, body: Json) -> AsyncIterator[Json]:
        """Stream a completion: yield its chunks. The last one has ``stop``. When the caller ends
        early, the slot is freed first."""
        slot, ended = body["id_slot"], False
        try:
            async with self._request("/completion", body) as response:
                async for event in read_events(response):
                    chunk = msgspec.json.decode(event, type=Json)
                    if "error" in chunk:
                        raise request_error(error_status(chunk["error"]), event)
                    ended = bool(chunk.get("stop"))
                    yield chunk
            if not ended:
                self._is_lost = True
                raise process_ended()
        except PalaverError:
            ended = True
            raise
        finally:
            if not ended:
                await self._wait_until_free(slot)

    @contextlib.asynccontextmanager
    async def _request(self, path: str, body: Json | None) -> AsyncIterator[aiohttp.ClientResponse]:
        method, data = ("GET", None) if body is None else ("POST", msgspec.json.encode(body))
        try:
            async with self._session.request(
                method, f"http://llamacpp{path}", data=data
            ) as response:
                if response.status != 200:
                    raise request_error(response.status, await response.read())
                try:
                    yield response
                except BaseException:
                    response.close()  # makes llama.cpp stop
                    raise
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not self._session.closed:
                raise
            self._is_lost = True
            raise process_ended() from error

    async def _wait_until_free(self, slot: int) -> None:
        with contextlib.suppress(PalaverError, TimeoutError):
            async with asyncio.timeout(RELEASE_TIMEOUT):
                while (await self.call("/slots"))[slot]["is_processing"]:  # noqa: ASYNC110
                    await asyncio.sleep(RELEASE_INTERVAL)


async def read_events(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield the JSON objects of a streamed response."""
    parser = SseParser()
    async for data in response.content.iter_any():
        for event in parser.feed(data):
            yield event


def process_ended() -> EngineUnavailable:
    return EngineUnavailable("the llama.cpp process has ended", retry_after=5)


def request_error(status: int, body: bytes) -> PalaverError:
    """Return the exception for an error of llama.cpp."""
    kind = InvalidInput if status == 400 else EngineError
    return kind("llama.cpp refuses the request", quoted=error_message(body))
