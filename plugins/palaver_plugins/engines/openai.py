"""Engine ``openai``: servers that speak the OpenAI API, one or several of the same model.

It is made for ``vllm serve``, and uses its extensions: continuation, structured output, priority, a
cache salt per tenant, token counts. With other servers it uses the common API.

A generation runs on the server with the fewest generations. When that server cannot be reached or
fails before its first byte, the next one gets the request; when it fails in the middle, another one
continues after the last delivered character. A failed server gets no requests during a cooldown.
"""

import asyncio
import contextlib
import dataclasses
import functools
import hashlib
import logging
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Literal, TypeVar

import aiohttp
import numpy as np
import pydantic

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
    PromptTooLong,
    Secret,
    ToolDefinition,
    Unsupported,
    UnusableImage,
    check_images,
    check_request,
    check_tools,
    check_url,
    describe_error,
    estimate_image_tokens,
    generation_timeout,
    hookimpl,
    remaining_tokens,
)
from palaver_plugins.engines import openai_wire as wire
from palaver_plugins.engines.openai_stream import CallbackError, CompletionStream
from palaver_plugins.engines.openai_tools import tool_definitions
from palaver_plugins.engines.openai_trials import calls_tools, counts_images
from palaver_plugins.engines.openai_upstream import Upstream
from palaver_plugins.engines.openai_wire import UpstreamFailed
from palaver_plugins.engines.token_healing import generate_healed

log = logging.getLogger(__name__)
T = TypeVar("T")

GENERIC_CAPABILITIES: frozenset[Capability] = frozenset(
    {"generate", "json_schema", "logprobs", "alternatives", "penalties", "seed"}
)
VLLM_CAPABILITIES: frozenset[Capability] = GENERIC_CAPABILITIES | frozenset(
    ("choice", "regex", "continuation", "priority")
)
DEFAULT_CONTEXT_WINDOW = 8192  # tokens
LOAD_STEP = 4
"""Generations. Servers that differ by less count as equal, and the prefix cache decides: the same
beginning of a prompt goes to the same server."""
STATS_TIMEOUT = 5.0  # seconds
LEAST_TEXT = 200
"""Characters to which a text is cut that a server refuses to embed: no model takes fewer."""
BYTES_PER_TOKEN = 2
"""Bytes of the messages' JSON that count as one token where a server counts none."""
TEMPLATE_TOKENS = 64
"""Limit of the tokens that a chat template adds to a message."""
URL_FORMS = "a URL is http://host:port/v1, https://host/v1 or unix:///path.sock"


class OpenAISettings(PluginSettings):
    """``[engine.openai]``."""

    urls: tuple[str, ...] = pydantic.Field(("http://127.0.0.1:8000/v1",), min_length=1)
    """Base URLs of servers of the same model: ``http://host:port/v1`` or ``unix:///path.sock``."""
    api_key: Secret | None = None
    """Key that is sent to the servers as a bearer token."""
    model: str | None = None
    """Name of the model at the servers. None: the first one that they list."""
    context_window: int | None = pydantic.Field(default=None, ge=16)
    """Tokens of prompt and reply together. None: the servers' own limit, or 8192."""
    flavor: Literal["auto", "vllm", "generic"] = "auto"
    """Extensions of the API that the servers offer. ``auto`` detects them."""
    capabilities: tuple[Capability, ...] | None = None
    """Capabilities of the servers, where they differ from what ``flavor`` implies."""
    vision: bool | None = None
    """Whether the model sees images. None: as the servers tell; most tell nothing."""
    tools: bool | None = None
    """Whether the servers call tools themselves. None: as they tell, or show in a trial at the
    start. Without, the model writes calls as JSON."""
    embedding_model: str | None = None
    """Model for ``embed``, at ``embedding_urls``, or at ``urls`` where none are given."""
    embedding_urls: tuple[str, ...] = ()
    """Base URLs of servers of the embedding model."""
    connect_timeout: float = pydantic.Field(default=5.0, gt=0)
    """Seconds for opening a connection."""
    read_timeout: float = pydantic.Field(default=120.0, gt=0)
    """Seconds without a byte of a response after which the server counts as failed."""

    @pydantic.field_validator("urls", "embedding_urls", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(re.split(r"[,\s]+", value.strip())) if isinstance(value, str) else value

    @pydantic.field_validator("urls", "embedding_urls")
    @classmethod
    def _check_urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for url in value:
            check_url(url, ("http", "https", "unix"), URL_FORMS)
        return value


class OpenAIEngine:
    """`Engine` over the servers."""

    def __init__(self, settings: OpenAISettings) -> None:
        self._settings = settings
        self._upstreams: list[Upstream] = []
        self._embedding_upstreams: list[Upstream] = []
        self._engine_info: EngineInfo | None = None
        self._adapters: frozenset[str] = frozenset()

    async def start(self) -> EngineInfo:
        """Connect. Raises `ConfigurationError` for a refused key or an unknown model, and
        `EngineUnavailable` while no server can be reached; some servers may be missing."""
        await self.close()
        settings = self._settings
        key = await asyncio.to_thread(_read_key, settings)
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=settings.connect_timeout, sock_read=settings.read_timeout
        )
        self._upstreams = [Upstream(url, key, timeout) for url in settings.urls]
        self._embedding_upstreams = [Upstream(url, key, timeout) for url in settings.embedding_urls]
        try:
            self._engine_info = await self._inspect()
        except BaseException:
            await self.close()
            raise
        return self._engine_info

    async def close(self) -> None:
        upstreams = self._upstreams + self._embedding_upstreams
        self._upstreams, self._embedding_upstreams = [], []
        self._engine_info = None
        await asyncio.gather(*(upstream.close() for upstream in upstreams))

    async def _inspect(self) -> EngineInfo:
        """Return what all servers that can be reached have in common."""
        listed = await asyncio.gather(*map(self._list_models, self._upstreams))
        reached = {
            upstream: cards
            for upstream, cards in zip(self._upstreams, listed, strict=True)
            if cards
        }
        urls = ", ".join(upstream.url for upstream in self._upstreams)
        if not reached and not any(upstream.is_cooling_down for upstream in self._upstreams):
            raise ConfigurationError(
                f"{urls} lists no model; set engine.openai.model, and check that "
                f"engine.openai.urls holds base URLs: {URL_FORMS}"
            )
        if not reached:
            raise EngineUnavailable(f"no server can be reached at {urls}", retry_after=5)
        first = next(iter(reached))
        for upstream in self._upstreams:
            if upstream not in reached:  # assume that it equals the others
                upstream.flavor = first.flavor
        model = self._settings.model or reached[first][0].id
        context_windows = []
        for upstream, cards in reached.items():
            card = next((card for card in cards if card.id == model), None)
            if card is None:
                names = ", ".join(sorted(card.id for card in cards))
                raise ConfigurationError(f"{upstream.url} has no model {model!r}; it has: {names}")
            context_windows.append(card.max_model_len or DEFAULT_CONTEXT_WINDOW)
        self._adapters = frozenset.intersection(
            *(frozenset(card.id for card in cards if card.parent) for cards in reached.values())
        )
        return EngineInfo(
            model=model,
            context_window=self._settings.context_window or min(context_windows),
            capabilities=self._capabilities(
                sees_images=await self._sees_images(model, reached),
                calls_tools=await self._calls_tools(model, reached),
            ),
        )

    async def _sees_images(
        self, model: str, reached: Mapping[Upstream, Sequence[wire.ModelCard]]
    ) -> bool:
        """Return whether all servers in ``reached`` take images, as far as they tell."""
        if self._settings.vision is not None:
            return self._settings.vision
        for upstream, cards in reached.items():
            card = next(card for card in cards if card.id == model)
            sees = card.vision
            if sees is None and upstream.flavor == "vllm":
                sees = await counts_images(upstream, model)
            if not sees:
                return False
        return True

    async def _calls_tools(
        self, model: str, reached: Mapping[Upstream, Sequence[wire.ModelCard]]
    ) -> bool:
        """Return whether all servers in ``reached`` call tools, as far as they tell or show."""
        if self._settings.capabilities is not None:
            return "tools" in self._settings.capabilities
        if self._settings.tools is not None:
            return self._settings.tools
        for upstream, cards in reached.items():
            calls = next(card.tools for card in cards if card.id == model)
            if calls is None:
                calls = await calls_tools(upstream, model)
            if not calls:
                return False
        return True

    async def _list_models(self, upstream: Upstream) -> list[wire.ModelCard]:
        """Return the server's models; none when it cannot be reached."""
        try:
            cards = await upstream.models()
        except UpstreamFailed as failure:
            log.warning(
                "engine server %s cannot be reached yet: %s",
                upstream.url,
                describe_error(failure.error),
            )
            upstream.start_cooldown()
            return []
        except EngineError as error:
            raise ConfigurationError(str(error)) from error
        if not cards and self._settings.model is not None:
            cards = [wire.ModelCard(self._settings.model)]
        flavor = self._settings.flavor
        is_vllm = any(card.owned_by == "vllm" for card in cards)
        upstream.flavor = flavor if flavor != "auto" else "vllm" if is_vllm else "generic"
        return cards

    def _capabilities(self, *, sees_images: bool, calls_tools: bool) -> frozenset[Capability]:
        if self._settings.capabilities is not None:
            return frozenset(self._settings.capabilities)
        reached = [upstream for upstream in self._upstreams if not upstream.is_cooling_down]
        found = set(GENERIC_CAPABILITIES)
        if all(upstream.flavor == "vllm" for upstream in reached):
            found |= VLLM_CAPABILITIES
            if self._adapters:
                found.add("adapter")
        if self._settings.embedding_model is not None:
            found.add("embed")
        if sees_images:
            found.add("vision")
        if calls_tools:
            found.add("tools")
        return frozenset(found)

    def _require_started(self) -> EngineInfo:
        if self._engine_info is None:
            raise EngineUnavailable("engine 'openai' is not started")
        return self._engine_info

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        capabilities = self._require_started().capabilities
        check_request(request, capabilities)
        if request.adapter is not None and request.adapter not in self._adapters:
            names = sorted(self._adapters)
            raise InvalidInput(f"adapter {request.adapter!r} is unknown; there are {names}")
        generation = ContinuedGeneration(request, on_text)
        tried: list[Upstream] = []

        async def attempt(upstream: Upstream) -> Generation:
            tried.append(upstream)
            chat = functools.partial(self._chat, upstream)
            rest = await generate_healed(generation.next_request(), generation.on_text, chat)
            upstream.end_cooldown()
            return generation.finish(rest)

        def may_retry() -> bool:
            return not generation.text or "continuation" in capabilities

        try:
            async with generation_timeout(request.timeout):
                return await self._call_any(self._by_preference(request), attempt, may_retry)
        except EngineTimeout:
            if tried and not generation.text:  # it may hang: the next request uses another one
                tried[-1].start_cooldown()
            raise

    async def _chat(
        self, upstream: Upstream, request: GenerationRequest, on_text: OnText
    ) -> Generation:
        partial_tokens = 0
        if request.partial:
            body = {"prompt": request.partial, "add_special_tokens": False}
            partial_tokens = await upstream.count(body)
        completion = CompletionStream(request, on_text, partial_tokens)
        max_tokens = await self._max_tokens(upstream, request, partial_tokens)
        if max_tokens is not None and max_tokens < 1:
            return completion.generation("length")
        model = self._require_started().model
        make_body = functools.partial(wire.chat_body, request, model, upstream.flavor, max_tokens)
        try:
            with explaining_refusals(request.messages):
                await upstream.chat(await encode_body(make_body, request.messages), completion)
        except CallbackError as error:
            raise error.error from None
        return completion.generation()

    async def _max_tokens(
        self, upstream: Upstream, request: GenerationRequest, partial_tokens: int
    ) -> int | None:
        """Return the tokens that the reply may still get; None: as many as the server allows.

        A server refuses a request for more than fits into the context, so the prompt is counted
        when it may be too long."""
        engine_info = self._require_started()
        wanted = request.sampling.max_tokens
        if "continuation" not in engine_info.capabilities:  # only vLLM counts without a generation
            return wanted if wanted < engine_info.context_window else None
        texts = [text for message in request.messages for text in message.texts]
        texts += [request.partial, *(tool.text for tool in request.tools)]
        upper_bound = sum(len(text.encode()) + TEMPLATE_TOKENS for text in texts)
        upper_bound += estimate_image_tokens(request.messages)
        if upper_bound + wanted <= engine_info.context_window:
            return wanted - partial_tokens
        return remaining_tokens(
            request.sampling,
            prompt_tokens=await self._count(upstream, request.messages, request.tools),
            partial_tokens=partial_tokens,
            context_window=engine_info.context_window,
        )

    def _by_preference(self, request: GenerationRequest | None = None) -> list[Upstream]:
        """Return the servers: healthy ones first, then by load, then by prefix affinity."""
        messages = request.messages[:2] if request else ()
        tenant = request.tenant if request else ""
        prefix = "\0".join([tenant, *(message.content for message in messages)])

        def rank(upstream: Upstream) -> tuple[bool, int, bytes]:
            digest = hashlib.blake2b(f"{upstream.url}\0{prefix}".encode(), digest_size=8)
            return upstream.is_cooling_down, upstream.in_flight // LOAD_STEP, digest.digest()

        return sorted(self._upstreams, key=rank)

    async def _call_any(
        self,
        upstreams: Sequence[Upstream],
        call: Callable[[Upstream], Awaitable[T]],
        may_retry: Callable[[], bool] = lambda: True,
    ) -> T:
        """Return the result of the first server that succeeds, or raise the last error."""
        error = None
        for upstream in upstreams:
            try:
                return await call(upstream)
            except UpstreamFailed as failure:
                log.info("engine server %s: %s", upstream.url, describe_error(failure.error))
                if failure.unhealthy:
                    upstream.start_cooldown()
                error = failure.error
                if not may_retry():
                    break
        assert error is not None  # there is at least one server
        raise error

    async def count_tokens(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition] = ()
    ) -> int:
        check_images(messages, self._require_started().capabilities)
        check_tools(tools, self._require_started().capabilities)
        return await self._call_any(
            self._by_preference(), lambda upstream: self._count(upstream, messages, tools)
        )

    async def _count(
        self, upstream: Upstream, messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition]
    ) -> int:
        model = self._require_started().model
        is_vllm = upstream.flavor == "vllm"
        defined = {"tools": tool_definitions(tools, strict=is_vllm)} if tools else {}

        def make_body() -> wire.Body:
            more = {"model": model} if is_vllm else {"model": model, "max_tokens": 1}
            return wire.prompt_body(messages) | more | defined

        with explaining_refusals(messages):
            body = await encode_body(make_body, messages)
            if is_vllm:
                return await upstream.count(body)
            return await upstream.count_by_completion(body) or estimate_tokens(messages, tools)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        self._require_started()
        model = self._settings.embedding_model
        if model is None:
            raise Unsupported("engine 'openai' cannot embed: set engine.openai.embedding_model")
        if not texts:
            return []
        # OpenAI's own server refuses an empty text.
        vectors = np.asarray(await self._embed(model, [text.strip() or "." for text in texts]))
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: list[list[float]] = (vectors / np.maximum(lengths, 1e-12)).tolist()
        return unit

    async def _embed(self, model: str, texts: Sequence[str]) -> list[list[float]]:
        """Return vectors of any length. Of texts that a server refuses, perhaps since one is longer
        than its model takes, each is cut until the server takes it."""
        body = {"model": model, "input": list(texts), "encoding_format": "float"}
        upstreams = self._embedding_upstreams or self._by_preference()
        try:
            return await self._call_any(upstreams, lambda upstream: upstream.embed(body))
        except (InvalidInput, PromptTooLong):
            if len(texts) == 1 and len(texts[0]) <= LEAST_TEXT:
                raise
        if len(texts) == 1:
            return await self._embed(model, [texts[0][: len(texts[0]) // 2]])
        return [vector for text in texts for vector in await self._embed(model, [text])]

    async def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        self._require_started()
        raise Unsupported("engine 'openai' cannot classify: the API has no such call")

    async def stats(self) -> EngineStats:
        self._require_started()
        answers = await asyncio.gather(*map(self._stats_of, self._upstreams))
        reached = [answer for answer in answers if answer is not None]
        if not reached:
            raise EngineUnavailable("no server can be reached", retry_after=1)
        return EngineStats(
            running=sum(stats.running for stats in reached),
            waiting=sum(stats.waiting for stats in reached),
        )

    @staticmethod
    async def _stats_of(upstream: Upstream) -> EngineStats | None:
        """Return None for a server that cannot be reached."""
        try:
            async with asyncio.timeout(STATS_TIMEOUT):
                return await upstream.stats()
        except (UpstreamFailed, TimeoutError):
            return None


def estimate_tokens(messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition]) -> int:
    """Return a number of prompt tokens that is rather too high."""
    texts = [dataclasses.replace(message, images=()) for message in messages]
    size = len(wire.encode(wire.prompt_body(texts)["messages"]))
    size += sum(len(tool.text.encode()) for tool in tools)
    return size // BYTES_PER_TOKEN + estimate_image_tokens(messages)


async def encode_body(make: Callable[[], wire.Body], messages: Sequence[ChatMessage]) -> bytes:
    """Return the JSON of a body, made in a thread where it has images: they are long."""
    if not any(message.images for message in messages):
        return wire.encode(make())
    return await asyncio.to_thread(lambda: wire.encode(make()))


@contextlib.contextmanager
def explaining_refusals(messages: Sequence[ChatMessage]) -> Iterator[None]:
    """Raise `UnusableImage` when a server refuses a request with images."""
    try:
        yield
    except InvalidInput as error:
        if not any(message.images for message in messages):
            raise
        raise UnusableImage(str(error)) from error


def _read_key(settings: OpenAISettings) -> str | None:
    if settings.api_key is None:
        return None
    key = settings.api_key.reveal()
    if not key.isprintable():  # a header cannot carry it
        raise ConfigurationError(
            f"engine.openai.api_key: {settings.api_key.root} holds several lines or a control "
            f"character; expected one key in one line"
        )
    return key


def build(settings: OpenAISettings, build_context: BuildContext) -> Engine:
    return OpenAIEngine(settings)


@hookimpl
def palaver_register_engines() -> list[Backend[Engine]]:
    return [Backend(name="openai", settings=OpenAISettings, build=build)]
