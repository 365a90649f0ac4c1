"""Engine: generates text, embeddings and scores for all skills.

Implementations are plugins; all pass the suite in ``tests/plugins/engines``. An engine declares its
capabilities in `EngineInfo`, so that the server refuses a skill that needs more when it starts.
"""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

from palaver.images import read_image_header
from palaver.messages import FinishReason as FinishReason
from palaver.messages import Role as Role
from palaver.messages import Usage

Capability = Literal[
    "generate",
    "json_schema",
    "choice",
    "regex",
    "logprobs",
    "alternatives",
    "penalties",
    "seed",
    "continuation",
    "adapter",
    "tools",
    "vision",
    "priority",
    "embed",
    "classify",
]
"""``continuation``: continues a partial reply exactly at its last character. ``alternatives``: also
returns log-probabilities of tokens that were not chosen. ``tools``: chooses tools and their
arguments. ``vision``: sees images."""

MAX_IMAGES = 10
"""Images of all messages of one request together; so are the next two."""
MAX_IMAGE_BYTES = 20 << 20
MAX_IMAGE_PIXELS = 50_000_000
"""A small file may hold very many pixels, which take memory when it is decoded."""
MAX_ASPECT_RATIO = 50
"""Longest side of an image, as a multiple of its shortest: models enlarge the shortest side."""


MAX_TOOLS = 128
"""Tools of one request."""
TOOL_NAME_PATTERN = re.compile(r"[a-zA-Z0-9_-]{1,64}")


@dataclasses.dataclass(frozen=True, slots=True)
class Image:
    """A picture: the content of a file of one of `palaver.images.IMAGE_TYPES`."""

    media_type: str
    data: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class ToolDefinition:
    """What a model is told about a tool. ``name`` matches `TOOL_NAME_PATTERN`. ``parameters`` is
    the JSON Schema of an object."""

    name: str
    description: str
    parameters: dict[str, Any]  # a JSON Schema document

    @property
    def text(self) -> str:
        """Return what the model reads of the tool, as JSON."""
        function = dataclasses.asdict(self)
        return json.dumps({"type": "function", "function": function}, ensure_ascii=False)


@dataclasses.dataclass(frozen=True, slots=True)
class ToolCall:
    """Tool that a model wants to call. ``id`` is unique within the conversation; ``arguments`` is
    what the model wrote: a JSON object, unless the model has made a mistake."""

    id: str
    name: str
    arguments: str


@dataclasses.dataclass(frozen=True, slots=True)
class NamedTool:
    """Choice of a tool that the model must call."""

    name: str


ToolChoice = Literal["auto", "none", "required"] | NamedTool
"""Whether the model calls tools: as it likes, none, at least one, or the one that is named."""


@dataclasses.dataclass(frozen=True, slots=True)
class ChatMessage:
    """Message of a prompt. An engine gets only ``system``, at most once and at the beginning, then
    ``user`` and ``assistant`` in turns: `palaver.engines.normalization`.

    ``images`` stand before the text. Only a user's message has some, and ``content`` may then be
    empty. An assistant's message may have ``tool_calls``; each is followed by a message of role
    ``tool`` with its result, whose ``tool_call_id`` is the id of the call."""

    role: Role
    content: str
    images: tuple[Image, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        """Return what the model reads of the message: the content, and names and arguments of the
        calls."""
        if not self.tool_calls:
            return (self.content,)
        calls = [text for call in self.tool_calls for text in (call.name, call.arguments)]
        return (self.content, *calls)


@dataclasses.dataclass(frozen=True, slots=True)
class JsonSchema:
    """The output is one JSON value that satisfies ``schema``."""

    schema: dict[str, Any]  # a JSON Schema document


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """The output is exactly one of ``options``."""

    options: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Regex:
    """The whole output matches ``pattern``."""

    pattern: str


Structure = JsonSchema | Choice | Regex


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling parameters. An engine accepts all of them or lacks the matching capability.

    ``max_tokens`` limits the whole reply, including ``GenerationRequest.partial``.
    ``temperature`` 0 is greedy, ``top_k`` 0 keeps all tokens. ``logprobs`` is the number of
    alternatives per token (0: only the chosen token; more need the capability ``alternatives``), or
    None for no log-probabilities. ``stop`` strings end the text and are not part of it.
    ``presence_penalty`` and ``frequency_penalty`` other than 0 need the capability ``penalties``.
    """

    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    structure: Structure | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One generation.

    ``id`` is unique. ``partial`` is the existing beginning of the assistant's reply: the generation
    continues after its last character and does not repeat it. It counts as reply, not as prompt,
    in ``max_tokens`` and in the usage. ``timeout`` is in seconds. ``tenant`` salts the prefix
    cache, so that response times reveal nothing about other tenants' prompts. A lower
    ``priority`` runs sooner. ``person`` and ``channel`` are empty for the server's own requests.
    ``on_queued`` is called when the generation has waited for a slot for half a second, with an
    estimate of the number of generations before it. ``tools`` are those that the model may call
    (capability ``tools``), several at once with ``parallel_tool_calls``.
    """

    id: str
    messages: tuple[ChatMessage, ...]
    tenant: str
    person: str = ""
    channel: str = ""
    sampling: Sampling = Sampling()
    partial: str = ""
    adapter: str | None = None
    priority: int = 0
    timeout: float = 120.0
    on_queued: Callable[[int], None] | None = None
    tools: tuple[ToolDefinition, ...] = ()
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural-log probability of a token, and of the most likely alternatives: (text, logprob)."""

    token: str
    logprob: float
    alternatives: tuple[tuple[str, float], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A finished generation: the new text (without ``partial``) and the usage of the whole reply
    (with ``partial``). With ``tool_calls``, the finish reason is ``tool_calls``, or ``length`` when
    the limit of tokens has cut the last one off, which is then left out."""

    text: str
    finish_reason: FinishReason
    usage: Usage
    logprobs: tuple[TokenLogprob, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()

    @property
    def confidence(self) -> float | None:
        """Return the geometric mean of the probabilities of the tokens; None when unknown."""
        if not self.logprobs:
            return None
        return math.exp(sum(token.logprob for token in self.logprobs) / len(self.logprobs))


Task = Literal[
    "knowledge",
    "small_talk",
    "passages",
    "translation",
    "summarization",
    "programming",
    "tools",
]
"""``knowledge``: any request that needs nothing but the model. ``passages``: questions that
passages answer. ``tools``: requests of several steps, with tools."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TaskReach:
    """What a model was made for in one task. ``languages``: codes (ISO 639-1) of the texts, for
    programming names; empty: any. ``requests``: codes of the languages of requests. ``words``: of
    the longest text, or of a sentence to translate; 0: any length. ``confidence``: least mean
    probability of the tokens of a usable reply."""

    languages: tuple[str, ...] = ()
    requests: tuple[str, ...] = ()
    words: int = 0
    confidence: float = 0.0


UNLIMITED = TaskReach()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """Description of a started engine.

    ``context_window``: tokens of prompt and reply together. ``demonstration``: the model is too
    small for real use. ``slots``: the number of concurrent generations, None when unknown.
    ``reach``: the tasks that the model was made for, as its card says; None: any.
    """

    model: str
    context_window: int
    capabilities: frozenset[Capability]
    demonstration: bool = False
    slots: int | None = None
    reach: Mapping[Task, TaskReach] | None = None

    def find_reach(self, task: Task) -> TaskReach | None:
        """Return what the model was made for in a task; None: not for this task."""
        return UNLIMITED if self.reach is None else self.reach.get(task)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """The engine's own count of requests that run in a slot and that wait for one."""

    running: int
    waiting: int


OnText = Callable[[str], None]
"""Callback for each piece of new text, called in the event loop. It must not block."""


MAX_CHARACTERS_PER_TOKEN = 12
"""Average length above which a text certainly does not fit: it is not tokenized, which would take
long. Natural languages and code stay below 6 characters per token."""


def count_characters(messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition] = ()) -> int:
    """Return the length of the texts of ``messages`` and ``tools``."""
    in_messages = sum(len(text) for message in messages for text in message.texts)
    return in_messages + sum(len(tool.text) for tool in tools)


TYPICAL_IMAGE_TOKENS = 1_000
"""Tokens for which an image counts in queues and quotas until the engine has counted them."""
_TILED_IMAGE_TOKENS, _PIXELS_PER_TOKEN = 3_000, 750


def estimate_image_tokens(messages: Sequence[ChatMessage]) -> int:
    """Return an upper estimate of the tokens of the images of ``messages``.

    Models scale an image to a number of tiles, or cut it into patches of 28 × 28 pixels.
    """
    headers = [read_image_header(image.data) for message in messages for image in message.images]
    pixels = sum(header.pixels for header in headers if header is not None)
    return _TILED_IMAGE_TOKENS * len(headers) + pixels // _PIXELS_PER_TOKEN


class Engine(Protocol):
    """One model behind one API. All methods run in the server's event loop.

    Errors: `EngineUnavailable` when the engine has crashed or is not started, `EngineTimeout` after
    the request's timeout (the slot is freed), `PromptTooLong`, `Unsupported` for a capability that
    the engine lacks, `InvalidInput` for an invalid parameter or structure.
    """

    async def start(self) -> EngineInfo:
        """Load the model. Raises `ConfigurationError` when it cannot be loaded."""

    async def close(self) -> None:
        """Release all resources. Idempotent; `start` may be called again."""

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        """Generate a reply and call ``on_text`` with each piece of its text, in order.

        When the awaiting task is cancelled, the engine frees the slot before the cancellation
        propagates.
        """

    async def count_tokens(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition] = ()
    ) -> int:
        """Return the number of prompt tokens of ``messages`` with ``tools``, including the chat
        template.

        The server asks an engine only for texts of at most `MAX_CHARACTERS_PER_TOKEN` characters
        per token of the context window.
        """

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one vector of unit length per text."""

    async def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """Return, for each text, a probability for each label of the model."""

    async def stats(self) -> EngineStats:
        """Return the engine's own count of running and waiting requests."""
