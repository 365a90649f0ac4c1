"""Connection of engine ``openai`` to one server: requests, health and running generations."""

import asyncio
import logging
import math
import re
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, TypeVar

import aiohttp
import msgspec
import yarl

from palaver import EngineStats, EngineUnavailable, PalaverError
from palaver_plugins.engines import openai_wire as wire
from palaver_plugins.engines.openai_stream import (
    CompletionStream,
    as_object,
    read_count,
    read_object,
)
from palaver_plugins.engines.openai_wire import UpstreamFailed

log = logging.getLogger(__name__)
T = TypeVar("T")
RequestBody = wire.Body | bytes
"""An object of the API, or its JSON."""

RELEASE_TIMEOUT = 0.5
"""Seconds to wait until the server has freed the slot of a cancelled generation."""
KEEPALIVE_TIMEOUT = 2.0
"""Seconds that an idle connection stays open; servers close it after five."""
CALL_TIMEOUT = 60.0  # seconds for responses that are not streamed
MAX_BODY_BYTES = 64 << 20
"""Largest response that is not streamed, such as a batch of embeddings."""
MIN_COOLDOWN_SECONDS, MAX_COOLDOWN_SECONDS = 1.0, 30.0
"""Cooldown after the first failure, and its limit; it doubles with each failure in a row."""


class Upstream:
    """A server at a base URL: ``http://host:port/v1`` or ``unix:///path.sock``.

    Its methods raise `UpstreamFailed` when another server may succeed, else the `PalaverError` for
    the server's response.
    """

    def __init__(self, url: str, key: str | None, timeout: aiohttp.ClientTimeout) -> None:
        self.url = re.sub("//[^/]*@", "//", url)
        """Without a password, for logs and errors."""
        self.in_flight = 0
        self.flavor: wire.Flavor = "generic"
        self._failures = 0
        self._cooldown_end = -math.inf  # loop time
        self._base, connector = make_connector(url)
        self._root = self._base.with_path(self._base.path.removesuffix("/v1") or "/")
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers={"Authorization": f"Bearer {key}"} if key else None,
            timeout=timeout,
        )

    async def close(self) -> None:
        await self._session.close()

    @property
    def is_cooling_down(self) -> bool:
        return asyncio.get_running_loop().time() < self._cooldown_end

    def start_cooldown(self) -> None:
        """Send no requests for a while, longer with each failure in a row. Requests that fail
        during a cooldown were lost in the same failure."""
        if self.is_cooling_down:
            return
        seconds = min(MAX_COOLDOWN_SECONDS, MIN_COOLDOWN_SECONDS * 2**self._failures)
        self._failures += 1
        self._cooldown_end = asyncio.get_running_loop().time() + seconds
        log.warning("engine server %s failed; cooldown of %g s", self.url, seconds)

    def end_cooldown(self) -> None:
        self._failures = 0
        self._cooldown_end = -math.inf

    async def models(self) -> list[wire.ModelCard]:
        """Return the models that the server lists; some servers have no such list."""
        return wire.read_cards(await self._call("GET", "models", object, optional=True))

    async def count(self, body: RequestBody) -> int:
        """Return the number of tokens, by vLLM's /tokenize."""
        return (await self._call("POST", "/tokenize", wire.TokenCount, body)).count

    async def count_by_completion(self, body: RequestBody) -> int:
        """Return the number of prompt tokens, by the usage of a completion of one token; 0 where
        the server tells none."""
        answer = await self._call("POST", "chat/completions", dict, body)
        return read_count(as_object(answer.get("usage")), "prompt_tokens") or 0

    async def embed(self, body: RequestBody) -> list[list[float]]:
        answer = await self._call("POST", "embeddings", wire.Embeddings, body)
        return [item.embedding for item in sorted(answer.data, key=lambda item: item.index)]

    async def stats(self) -> EngineStats:
        """Return vLLM's own counts, or the number of our requests at another server."""
        if self.flavor == "vllm":
            async with self._request("GET", "/metrics") as response:
                if counts := wire.request_counts(await self._read_body(response)):
                    return EngineStats(running=counts[0], waiting=counts[1])
        return EngineStats(running=self.in_flight, waiting=0)

    async def chat(self, body: RequestBody, completion: CompletionStream) -> None:
        """Stream a chat completion into ``completion``."""
        self.in_flight += 1
        ended = False
        try:
            await self._stream(body, completion)
            ended = True
        except (UpstreamFailed, PalaverError):
            ended = True
            raise
        finally:
            self.in_flight -= 1
            if not ended:
                await self._wait_until_released()

    async def _stream(self, body: RequestBody, completion: CompletionStream) -> None:
        try:
            async with self._request("POST", "chat/completions", body) as response:
                try:
                    await self._read(response, completion)
                except BaseException:
                    response.close()  # makes the server stop
                    raise
        except UpstreamFailed:
            if completion.finish_reason is None:  # else only the usage is missing
                raise
        if not completion.is_complete:
            detail = f"{self.url} ended the stream before the reply's end"
            raise UpstreamFailed(EngineUnavailable(detail))
        completion.end()

    async def _read(self, response: aiohttp.ClientResponse, completion: CompletionStream) -> None:
        """Read the response: a stream, or a whole completion from a server without streams."""
        if response.content_type == "application/json":
            body = await self._read_body(response)
            if body.lstrip().startswith(b"{"):
                with self._reading():
                    return self._add(completion, read_object(body))
            self._feed(completion, body)
        async for data in response.content.iter_any():
            if self._feed(completion, data):
                return
        self._feed(completion, b"\n\n")  # where the last event has no empty line after it

    def _feed(self, completion: CompletionStream, data: bytes) -> bool:
        """Add the chunks that ``data`` completes; return True at the end of the stream."""
        with self._reading():
            for chunk in completion.parse(data):
                self._add(completion, chunk)
        return completion.is_done

    def _add(self, completion: CompletionStream, chunk: wire.Body) -> None:
        if error := wire.find_error(chunk):
            raise wire.stream_error(self.url, error)
        completion.add(chunk)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, RecursionError) as error:  # of the parsers
            detail = f"the response of {self.url} is not a chat completion: {error}"
            raise UpstreamFailed(EngineUnavailable(detail)) from error

    async def _wait_until_released(self) -> None:
        """Wait, at most `RELEASE_TIMEOUT`, until vLLM counts one request less, or none but those
        that we still run there. Others may use the server too."""
        if self.flavor != "vllm":
            return
        before = None
        with suppress(UpstreamFailed, PalaverError, TimeoutError):
            async with asyncio.timeout(RELEASE_TIMEOUT):
                while True:
                    stats = await self.stats()
                    total = stats.running + stats.waiting
                    before = total if before is None else before
                    if total <= self.in_flight or total < before:
                        return
                    await asyncio.sleep(0.01)

    async def _call(
        self,
        method: str,
        path: str,
        result_type: type[T],
        body: RequestBody | None = None,
        *,
        optional: bool = False,
    ) -> T:
        """Return the response. ``optional``: no response where the server has no such path."""
        statuses = (200, 404, 405) if optional else (200,)
        try:
            async with (
                asyncio.timeout(CALL_TIMEOUT),
                self._request(method, path, body, statuses) as response,
            ):
                if response.status != 200:
                    return msgspec.convert(None, result_type)
                return msgspec.json.decode(await self._read_body(response), type=result_type)
        except TimeoutError as error:
            detail = f"{self.url} did not answer {path!r} in {CALL_TIMEOUT:g} s"
            raise UpstreamFailed(EngineUnavailable(detail)) from error
        except (msgspec.DecodeError, RecursionError) as error:
            detail = f"unexpected response of {self.url} to {path!r}: {error}"
            raise UpstreamFailed(EngineUnavailable(detail)) from error

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        body: RequestBody | None = None,
        statuses: Collection[int] = (200,),
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request; other ``statuses`` of the response are errors. ``path`` is relative to
        the base URL, or to the server's root when it begins with a slash."""
        if self._session.closed:
            raise UpstreamFailed(EngineUnavailable("engine 'openai' is closed"), unhealthy=False)
        url = self._root / path[1:] if path.startswith("/") else self._base / path
        options: dict[str, Any] = {}
        if body is not None:
            content = body if isinstance(body, bytes) else wire.encode(body)
            options = {"data": content, "headers": {"Content-Type": "application/json"}}
        try:
            async with await self._send(method, url, options) as response:
                if response.status not in statuses:
                    content = await self._read_body(response)
                    raise wire.response_error(self.url, response.status, content, response.headers)
                yield response
        except (aiohttp.ClientError, ConnectionError) as error:
            raise UpstreamFailed(wire.connection_error(self.url, error)) from error

    async def _read_body(self, response: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for piece in response.content.iter_any():
            body += piece
            if len(body) > MAX_BODY_BYTES:
                response.close()
                detail = f"the response of {self.url} is longer than {MAX_BODY_BYTES:_} bytes"
                raise UpstreamFailed(EngineUnavailable(detail))
        return bytes(body)

    async def _send(
        self, method: str, url: yarl.URL, options: dict[str, Any]
    ) -> aiohttp.ClientResponse:
        """Send a request, and repeat it when the server had just closed the idle connection: that
        happens with healthy servers too."""
        # A redirect would carry conversations to a server that the operator has not named.
        options["allow_redirects"] = False
        try:
            return await self._session.request(method, url, **options)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            if self._session.closed:
                raise
            return await self._session.request(method, url, **options)


def make_connector(url: str) -> tuple[yarl.URL, aiohttp.BaseConnector]:
    """Return the base URL for requests, and a connector to the server."""
    parsed = yarl.URL(url)
    if parsed.scheme == "unix":
        unix = aiohttp.UnixConnector(parsed.path, limit=0, keepalive_timeout=KEEPALIVE_TIMEOUT)
        return yarl.URL("http://localhost/v1"), unix
    tcp = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_TIMEOUT)
    return parsed.with_path(parsed.path.rstrip("/") or "/v1"), tcp
