"""One server of engine ``openai``: its connections, its health, and what runs there."""

import asyncio
import dataclasses
import logging
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import aiohttp
import msgspec
import yarl

from palaver import EngineStats, EngineUnavailable, PalaverError
from palaver_plugins.engines import openai_wire as wire
from palaver_plugins.engines.openai_wire import UpstreamFailed
from palaver_plugins.engines.sse import SseParser

log = logging.getLogger(__name__)
T = TypeVar("T")

FREE_PATIENCE = 0.5  # seconds that a cancelled generation waits for its slot to be free
KEPT = 2.0
"""Seconds that an idle connection is kept; servers close them after five."""
CALL_PATIENCE = 60.0  # seconds for answers that are not streamed
BENCH = (1.0, 30.0)  # seconds on the bench: after the first failure, and at most


@dataclasses.dataclass(frozen=True, slots=True)
class Timeouts:
    """In seconds: for a connection, and for silence within an answer."""

    connect: float
    silence: float


class Upstream:
    """A base URL, ``http://host:port/v1`` or ``unix:///path.sock``.

    Its methods raise `Lost` when another server may do better, else the error that an answer
    stands for.
    """

    def __init__(self, url: str, key: str | None, timeouts: Timeouts) -> None:
        self.url = url
        self.in_flight = 0
        self.flavor: wire.Flavor = "generic"
        self._failures = 0
        self._benched_until = -math.inf
        self._base, connector = place(url)
        self._root = self._base.with_path(self._base.path.removesuffix("/v1") or "/")
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers={"Authorization": f"Bearer {key}"} if key else None,
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=timeouts.connect, sock_read=timeouts.silence
            ),
        )

    async def close(self) -> None:
        await self._session.close()

    @property
    def is_cooling_down(self) -> bool:
        return asyncio.get_running_loop().time() < self._benched_until

    def start_cooldown(self) -> None:
        """Leave the server alone for a while, longer with each failure in a row. What fails while
        it is left alone was lost in the same failure."""
        if self.is_cooling_down:
            return
        shortest, longest = BENCH
        pause = min(longest, shortest * 2**self._failures)
        self._failures += 1
        self._benched_until = asyncio.get_running_loop().time() + pause
        log.warning("engine server %s failed; it is not asked for %g s", self.url, pause)

    def end_cooldown(self) -> None:
        self._failures = 0
        self._benched_until = -math.inf

    async def models(self) -> list[wire.ModelCard]:
        return (await self._ask("GET", "models", wire.ModelList)).data

    async def count(self, body: wire.Body) -> int:
        """Tokens, by vLLM's /tokenize."""
        return (await self._ask("POST", "/tokenize", wire.Counted, body)).count

    async def count_by_completion(self, body: wire.Body) -> int:
        """Prompt tokens, by the bill of a reply of one token."""
        answer = await self._ask("POST", "chat/completions", wire.Completed, body)
        return answer.usage.prompt_tokens

    async def embed(self, body: wire.Body) -> list[list[float]]:
        answer = await self._ask("POST", "embeddings", wire.Embeddings, body)
        return [item.embedding for item in sorted(answer.data, key=lambda item: item.index)]

    async def stats(self) -> EngineStats:
        """By the server's own metrics, else by what we have there."""
        if self.flavor == "vllm":
            async with self._request("GET", "/metrics") as answer:
                if counts := wire.request_counts(await answer.read()):
                    return EngineStats(running=counts[0], waiting=counts[1])
        return EngineStats(running=self.in_flight, waiting=0)

    async def chat(self, body: wire.Body, reply: wire.CompletionStream) -> None:
        """Stream a chat completion into ``reply``, to its end."""
        self.in_flight += 1
        at_work = True
        try:
            await self._stream(body, reply)
            at_work = False
        except (UpstreamFailed, PalaverError):
            at_work = False
            raise
        finally:
            self.in_flight -= 1
            if at_work:
                await self._freed()

    async def _stream(self, body: wire.Body, reply: wire.CompletionStream) -> None:
        events = SseParser()
        async with self._request("POST", "chat/completions", body) as response:
            try:
                async for data in response.content.iter_any():
                    for event in self._events(events, data):
                        if event is None:
                            return
                        reply.take(event)
            except BaseException:
                response.close()  # which is how the server learns to stop
                raise
        if reply.reason is None:
            raise UpstreamFailed(
                EngineUnavailable(f"{self.url} ended the stream before the reply's end")
            )

    def _events(self, events: SseParser, data: bytes) -> Iterator[wire.Chunk | None]:
        """The chunks that ``data`` completes, and None for the end."""
        try:
            for event in events.feed(data):
                chunk = None if event == b"[DONE]" else wire.decode_chunk(event)
                if chunk is not None and chunk.error is not None:
                    raise wire.stream_error(self.url, chunk.error)
                yield chunk
        except ValueError as error:  # the reader's and msgspec's
            detail = f"{self.url} sends what is not a chat completion: {error}"
            raise UpstreamFailed(EngineUnavailable(detail)) from error

    async def _freed(self) -> None:
        """Return once the server counts a request less, or none but ours that still run; at most
        half a second, since others may use the server, too."""
        if self.flavor != "vllm":
            return
        before = None
        with suppress(UpstreamFailed, PalaverError, TimeoutError):
            async with asyncio.timeout(FREE_PATIENCE):
                while True:
                    load = await self.stats()
                    now = load.running + load.waiting
                    before = now if before is None else before
                    if now <= self.in_flight or now < before:
                        return
                    await asyncio.sleep(0.01)

    async def _ask(
        self, method: str, path: str, shape: type[T], body: wire.Body | None = None
    ) -> T:
        try:
            async with (
                asyncio.timeout(CALL_PATIENCE),
                self._request(method, path, body) as response,
            ):
                return msgspec.json.decode(await response.read(), type=shape)
        except TimeoutError as error:
            detail = f"{self.url} did not answer {path!r} in {CALL_PATIENCE:g} s"
            raise UpstreamFailed(EngineUnavailable(detail)) from error
        except msgspec.DecodeError as error:
            detail = f"{self.url} answers {path!r} with something else: {error}"
            raise UpstreamFailed(EngineUnavailable(detail)) from error

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, body: wire.Body | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """``path`` is relative to the base URL, or begins with a slash at the server's root."""
        if self._session.closed:
            raise UpstreamFailed(EngineUnavailable("engine 'openai' is closed"), broken=False)
        url = self._root / path[1:] if path.startswith("/") else self._base / path
        options: dict[str, Any] = {}
        if body is not None:
            options = {
                "data": wire.encode(body),
                "headers": {"Content-Type": "application/json"},
            }
        try:
            async with await self._open(method, url, options) as response:
                if response.status != 200:
                    text = await response.read()
                    raise wire.refusal(self.url, response.status, text, response.headers)
                yield response
        except (aiohttp.ClientError, ConnectionError) as error:
            kind = type(error).__name__
            detail = f"{self.url}: {str(error) or kind} ({kind})"
            raise UpstreamFailed(EngineUnavailable(detail, retry_after=1)) from error

    async def _open(
        self, method: str, url: yarl.URL, options: dict[str, Any]
    ) -> aiohttp.ClientResponse:
        """Send a request, once more when the kept connection it went over had just been closed by
        the server: that happens, and says nothing about the server."""
        try:
            return await self._session.request(method, url, **options)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            if self._session.closed:
                raise
            return await self._session.request(method, url, **options)


def place(url: str) -> tuple[yarl.URL, aiohttp.BaseConnector]:
    """The base URL to ask, and a connector that leads there."""
    parsed = yarl.URL(url)
    if parsed.scheme == "unix":
        unix = aiohttp.UnixConnector(parsed.path, limit=0, keepalive_timeout=KEPT)
        return yarl.URL("http://localhost/v1"), unix
    tcp = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEPT)
    return parsed.with_path(parsed.path.rstrip("/") or "/v1"), tcp
