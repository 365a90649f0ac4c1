"""Engine ``openai``: any servers that speak the OpenAI API, one or several of the same model.

Made for ``vllm serve``, whose extensions make it complete: continuation, structured output,
priority, a cache salt per tenant, token counts. Of another server it asks what the API has.

A generation runs on the server with the least work. When that one cannot be reached or fails
before its first byte, the next one gets the request; when it dies in the middle, another goes on
after the last character that was said. A server that failed is left alone for a while.
"""

import asyncio
import functools
import hashlib
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, TypeVar

import numpy as np
import pydantic
import yarl

from palaver import (
    Backend,
    BuildContext,
    Capability,
    ChatMessage,
    ConfigurationError,
    ContinuedGeneration,
    Engine,
    EngineError,
    EngineInfo,
    EngineStats,
    EngineTimeout,
    EngineUnavailable,
    Generation,
    GenerationRequest,
    InvalidInput,
    OnText,
    PluginSettings,
    Secret,
    Unsupported,
    hookimpl,
)
from palaver_plugins.engines import openai_wire as wire
from palaver_plugins.engines.openai_upstream import Timeouts, Upstream
from palaver_plugins.engines.openai_wire import CallbackError, CompletionStream, UpstreamFailed
from palaver_plugins.engines.request_checks import check_request, remaining_tokens
from palaver_plugins.engines.token_healing import generate_healed

log = logging.getLogger(__name__)
T = TypeVar("T")

COMMON: frozenset[Capability] = frozenset(
    {"generate", "json_schema", "logprobs", "alternatives", "seed"}
)
"""What the API itself can express."""
EXTENDED: frozenset[Capability] = COMMON | {"choice", "regex", "continuation", "priority"}
"""What vLLM's extensions of the API can express."""
UNKNOWN_CONTEXT = 8192  # tokens
SLACK = 4
"""Requests. Between servers whose work differs by less, the prefix cache decides: the same
beginning goes to the same server."""
LOAD_PATIENCE = 5.0  # seconds
FRAME = 64
"""Tokens, at most, that a chat template puts around a message."""


class OpenAISettings(PluginSettings):
    """``[engine.openai]``."""

    urls: tuple[str, ...] = ("http://127.0.0.1:8000/v1",)
    """Base URLs of servers of the same model: ``http://host:port/v1`` or ``unix:///path.sock``."""
    api_key: Secret | None = None
    """What the servers ask for as a bearer token."""
    model: str | None = None
    """The model's name at the servers. None: the first that they list."""
    context_window: int | None = pydantic.Field(default=None, ge=16)
    """Context in tokens. None: what the servers say, or 8192."""
    flavor: Literal["auto", "vllm", "generic"] = "auto"
    """What may be asked of the servers beyond the common API. ``auto`` finds out."""
    capabilities: tuple[Capability, ...] | None = None
    """What the servers can do, where that is known better than ``flavor`` tells."""
    embedding_model: str | None = None
    """The model for ``embed``, at ``embedding_urls``, or at ``urls`` where none are given."""
    embedding_urls: tuple[str, ...] = ()
    """Base URLs of servers of the embedding model."""
    connect_timeout: float = pydantic.Field(default=5.0, gt=0)
    """Seconds in which a connection must be made."""
    read_timeout: float = pydantic.Field(default=120.0, gt=0)
    """Seconds without a byte of an answer after which a server is taken for dead."""

    @pydantic.field_validator("urls", "embedding_urls", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(re.split(r"[,\s]+", value.strip())) if isinstance(value, str) else value

    @pydantic.field_validator("urls", "embedding_urls")
    @classmethod
    def _usable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for url in value:
            parsed = yarl.URL(url)
            reachable = parsed.host or (parsed.scheme == "unix" and parsed.path)
            if parsed.scheme not in ("http", "https", "unix") or not reachable:
                raise ValueError(f"{url!r} is neither http://host:port/v1 nor unix:///path.sock")
        return value

    @pydantic.field_validator("urls")
    @classmethod
    def _some(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("at least one URL is needed")
        return value


class OpenAIEngine:
    """Implements `palaver.engine.Engine`."""

    def __init__(self, settings: OpenAISettings) -> None:
        self._settings = settings
        self._servers: list[Upstream] = []
        self._embedders: list[Upstream] = []
        self._engine_info: EngineInfo | None = None
        self._adapters: frozenset[str] = frozenset()

    async def start(self) -> EngineInfo:
        """Raises `ConfigurationError` for a refused key or an unknown model, `EngineUnavailable`
        while no server can be reached. Servers that cannot be reached yet are tried later."""
        await self.close()
        settings = self._settings
        secret = settings.api_key
        key = None if secret is None else await asyncio.to_thread(secret.reveal)
        timeouts = Timeouts(settings.connect_timeout, settings.read_timeout)
        self._servers = [Upstream(url, key, timeouts) for url in settings.urls]
        self._embedders = [Upstream(url, key, timeouts) for url in settings.embedding_urls]
        try:
            self._engine_info = await self._inspect()
        except BaseException:
            await self.close()
            raise
        return self._engine_info

    async def close(self) -> None:
        servers, self._servers = self._servers + self._embedders, []
        self._embedders = []
        self._engine_info = None
        await asyncio.gather(*(server.close() for server in servers))

    async def _inspect(self) -> EngineInfo:
        """What the servers that can be reached have in common."""
        answers = await asyncio.gather(*map(self._cards, self._servers))
        known = [(server, cards) for server, cards in answers if cards]
        if not known:
            urls = ", ".join(self._settings.urls)
            raise EngineUnavailable(f"no server can be reached at {urls}", retry_after=5)
        for server in self._servers:
            if server not in (it for it, _ in known):  # it will be like the others
                server.flavor = known[0][0].flavor
        model = self._settings.model or known[0][1][0].id
        contexts = []
        for server, cards in known:
            card = next((card for card in cards if card.id == model), None)
            if card is None:
                there = ", ".join(sorted(card.id for card in cards))
                raise ConfigurationError(f"{server.url} has no model {model!r}; it has: {there}")
            contexts.append(card.max_model_len or UNKNOWN_CONTEXT)
        self._adapters = frozenset.intersection(
            *(frozenset(card.id for card in cards if card.parent) for _, cards in known)
        )
        context = self._settings.context_window or min(contexts)
        return EngineInfo(model=model, context_window=context, capabilities=self._can())

    async def _cards(self, server: Upstream) -> tuple[Upstream, list[wire.ModelCard]]:
        """The server's models; none when it cannot be reached."""
        try:
            cards = await server.models()
        except UpstreamFailed as lost:
            log.warning("engine server %s cannot be reached yet: %s", server.url, lost)
            server.start_cooldown()
            return server, []
        except EngineError as error:
            raise ConfigurationError(str(error)) from error
        flavor = self._settings.flavor
        vllm = any(card.owned_by == "vllm" for card in cards)
        server.flavor = flavor if flavor != "auto" else "vllm" if vllm else "generic"
        return server, cards

    def _can(self) -> frozenset[Capability]:
        if self._settings.capabilities is not None:
            return frozenset(self._settings.capabilities)
        reached = [server for server in self._servers if not server.is_cooling_down]
        extended = all(server.flavor == "vllm" for server in reached)
        can = EXTENDED if extended else COMMON
        if extended and self._adapters:
            can |= {"adapter"}
        if self._settings.embedding_model is not None:
            can |= {"embed"}
        return can

    def _started(self) -> EngineInfo:
        if self._engine_info is None:
            raise EngineUnavailable("engine 'openai' is not started")
        return self._engine_info

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        engine_info = self._started()
        check_request(request, engine_info.capabilities)
        if request.adapter is not None and request.adapter not in self._adapters:
            there = sorted(self._adapters)
            raise InvalidInput(f"adapter {request.adapter!r} is unknown; there are {there}")
        limit = asyncio.timeout(request.timeout)
        writing = ContinuedGeneration(request, on_text)
        asked: list[Upstream] = []
        try:
            async with limit:
                return await self._write(writing, self._order(request), asked)
        except TimeoutError as error:
            if not limit.expired():
                raise
            if asked and not writing.text:  # it may hang: the next request tries another one
                asked[-1].start_cooldown()
            detail = f"the generation took longer than {request.timeout:g} s"
            raise EngineTimeout(detail) from error

    async def _write(
        self, writing: ContinuedGeneration, servers: Sequence[Upstream], asked: list[Upstream]
    ) -> Generation:
        continues = "continuation" in self._started().capabilities
        failed: UpstreamFailed | None = None
        for server in servers:
            asked.append(server)
            ask = functools.partial(self._chat, server)
            try:
                rest = await generate_healed(writing.next_request(), writing.on_text, ask)
            except UpstreamFailed as lost:
                self._blame(server, lost)
                failed = lost
                if writing.text and not continues:
                    break
            else:
                server.end_cooldown()
                return writing.finish(rest)
        assert failed is not None  # there is at least one server
        raise failed.error

    async def _chat(
        self, server: Upstream, request: GenerationRequest, on_text: OnText
    ) -> Generation:
        begun = 0
        if request.partial:
            begun = await server.count({"prompt": request.partial, "add_special_tokens": False})
        reply = CompletionStream(request, on_text, begun)
        left = await self._room(server, request, begun)
        if left < 1:
            return reply.generation("length")
        body = wire.chat_body(request, self._started().model, server.flavor, left)
        try:
            await server.chat(body, reply)
        except CallbackError as error:
            raise error.error from None
        return reply.generation(reply.reason or "stop")

    @staticmethod
    def _blame(server: Upstream, lost: UpstreamFailed) -> None:
        log.info("engine server %s: %s", server.url, lost)
        if lost.broken:
            server.start_cooldown()

    async def _room(self, server: Upstream, request: GenerationRequest, begun: int) -> int:
        """Tokens that the reply may still get. A server refuses to be asked for more than fits."""
        engine_info = self._started()
        wanted = request.sampling.max_tokens
        if "continuation" not in engine_info.capabilities:  # only vLLM counts for nothing
            return wanted
        texts = [*(message.content for message in request.messages), request.partial]
        at_most = sum(len(text.encode()) + FRAME for text in texts)
        if at_most + wanted <= engine_info.context_window:
            return wanted - begun
        taken = await server.count(wire.prompt_body(request.messages))
        return remaining_tokens(
            request.sampling, prompt=taken, begun=begun, context=engine_info.context_window
        )

    def _order(self, request: GenerationRequest | None = None) -> list[Upstream]:
        """The servers, best first: those that work, have the least to do, and remember most."""
        messages = request.messages[:2] if request else ()
        tenant = request.tenant if request else ""
        beginning = "\0".join([tenant, *(message.content for message in messages)])

        def place(server: Upstream) -> tuple[bool, int, bytes]:
            digest = hashlib.blake2b(f"{server.url}\0{beginning}".encode(), digest_size=8)
            return server.is_cooling_down, server.in_flight // SLACK, digest.digest()

        return sorted(self._servers, key=place)

    async def _first_of(
        self, servers: Sequence[Upstream], ask: Callable[[Upstream], Awaitable[T]]
    ) -> T:
        failed: UpstreamFailed | None = None
        for server in servers:
            try:
                return await ask(server)
            except UpstreamFailed as lost:
                self._blame(server, lost)
                failed = lost
        assert failed is not None
        raise failed.error

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        engine_info = self._started()

        def ask(server: Upstream) -> Awaitable[int]:
            body = wire.prompt_body(messages) | {"model": engine_info.model}
            if server.flavor == "vllm":
                return server.count(body)
            return server.count_by_completion(body | {"max_tokens": 1})

        return await self._first_of(self._order(), ask)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        self._started()
        model = self._settings.embedding_model
        if model is None:
            raise Unsupported("engine 'openai' cannot embed: set engine.openai.embedding_model")
        if not texts:
            return []
        body = {"model": model, "input": list(texts), "encoding_format": "float"}
        servers = self._embedders or self._order()
        vectors = np.asarray(await self._first_of(servers, lambda server: server.embed(body)))
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: list[list[float]] = (vectors / np.maximum(lengths, 1e-12)).tolist()
        return unit

    async def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        self._started()
        raise Unsupported("engine 'openai' cannot classify: the API has no such call")

    async def stats(self) -> EngineStats:
        self._started()
        answers = await asyncio.gather(*map(self._load_of, self._servers))
        loads = [answer for answer in answers if answer is not None]
        if not loads:
            raise EngineUnavailable("no server can be reached", retry_after=1)
        return EngineStats(
            running=sum(load.running for load in loads),
            waiting=sum(load.waiting for load in loads),
        )

    @staticmethod
    async def _load_of(server: Upstream) -> EngineStats | None:
        """None for a server that cannot be reached."""
        try:
            async with asyncio.timeout(LOAD_PATIENCE):
                return await server.stats()
        except (UpstreamFailed, TimeoutError):
            return None


def build(settings: OpenAISettings, build_context: BuildContext) -> Engine:
    return OpenAIEngine(settings)


@hookimpl
def palaver_register_engines() -> list[Backend[Engine]]:
    return [Backend(name="openai", settings=OpenAISettings, build=build)]
