"""Engine: generates text, embeddings and scores for all skills.

Implementations are plugins; all pass the suite in ``tests/plugins/engines``. What an
engine cannot do it
declares in `Abilities`, and the caller is told at start-up, not in the middle of a turn.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from palaver.messages import Usage

Capability = Literal[
    "generate",
    "json_schema",
    "choice",
    "regex",
    "logprobs",
    "alternatives",
    "seed",
    "continuation",
    "adapter",
    "priority",
    "embed",
    "classify",
]
"""What an engine may be able to do. ``continuation``: goes on from a partial reply exactly.
``alternatives``: log-probabilities of other tokens than the chosen one, too."""

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length"]


@dataclasses.dataclass(frozen=True, slots=True)
class ChatMessage:
    role: Role
    content: str


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
    """The parameters that may be asked for; an engine accepts all of them or declares otherwise.

    ``max_tokens`` bounds the whole reply, the part of it that exists already included.
    ``temperature`` 0 is greedy. ``logprobs`` is the number of alternatives wanted per token
    (0: only the chosen one; more need the ability ``alternatives``), or None for no
    log-probabilities. ``stop`` strings end the text and are not part of it.
    """

    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    structure: Structure | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One generation.

    ``partial`` is the beginning of the assistant's reply that exists already; the generation
    goes on after its last character and does not repeat it. It counts as reply, not as prompt:
    in ``max_tokens`` and in the usage. ``timeout`` is the time allowed in
    seconds. ``tenant`` salts the prefix cache, so that no tenant can tell what another has asked.
    ``priority``: lower runs sooner. ``id`` is ours and unique. ``person`` and ``channel`` tell for
    whom it is, where there is a person. ``on_queued`` is called when the generation has waited for
    a slot for half a second, with about how many generations come before it.
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


@dataclasses.dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural-log probability of a token, and of the most likely alternatives by text."""

    token: str
    logprob: float
    alternatives: tuple[tuple[str, float], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A finished generation: the whole new text (without ``partial``), and the usage of the whole
    reply (with it)."""

    text: str
    finish_reason: FinishReason
    usage: Usage
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What a started engine is. ``context`` is in tokens, prompt and reply together; ``slots`` is
    the number of generations that it runs at once, where it is known."""

    model: str
    context_window: int
    capabilities: frozenset[Capability]
    demonstration: bool = False
    """The model is too small for real use, and says so."""
    slots: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """The engine's own count of requests that hold a slot and that wait for one."""

    running: int
    waiting: int


OnText = Callable[[str], None]
"""Receives each piece of new text as a plain call in the event loop; must not block."""


class Engine(Protocol):
    """One model behind one API. All methods run in the server's event loop.

    Errors: `EngineUnavailable` when it is dead or not started, `EngineTimeout` when the timeout
    passes (the slot is freed), `PromptTooLong`, `Unsupported` for an ability that it lacks,
    `InvalidInput` for a parameter or structure that cannot work.
    """

    async def start(self) -> EngineInfo:
        """Load the model. Raises `ConfigurationError` when it cannot be loaded."""

    async def close(self) -> None:
        """Free everything. Idempotent; `start` may be called again."""

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        """Generate, calling ``on_text`` with each piece of new text in order. The pieces joined
        are the generation's text.

        Cancelling the awaiting task frees the engine's slot before the cancellation propagates.
        """

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        """Prompt tokens that ``messages`` take, chat template included."""

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector of unit length per text."""

    async def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """Per text, a probability for each label of the model."""

    async def stats(self) -> EngineStats:
        """Running and waiting requests, by the engine's own count."""
