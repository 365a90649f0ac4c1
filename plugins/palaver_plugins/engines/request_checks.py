"""What a request must satisfy before an engine looks at it."""

from collections.abc import Iterator

from palaver import (
    Capability,
    Choice,
    GenerationRequest,
    InvalidInput,
    JsonSchema,
    PromptTooLong,
    Regex,
    Sampling,
    Unsupported,
)


def needed(request: GenerationRequest) -> Iterator[Capability]:
    """The engine_info that ``request`` takes, besides ``generate``."""
    match request.sampling.structure:
        case JsonSchema():
            yield "json_schema"
        case Choice():
            yield "choice"
        case Regex():
            yield "regex"
    if request.sampling.logprobs is not None:
        yield "logprobs"
    if request.sampling.logprobs:
        yield "alternatives"
    if request.sampling.seed is not None:
        yield "seed"
    if request.partial:
        yield "continuation"
    if request.adapter is not None:
        yield "adapter"
    if request.priority:
        yield "priority"


def check_request(request: GenerationRequest, can: frozenset[Capability]) -> None:
    """Raise `Unsupported` for an ability outside ``can``, `InvalidInput` for a senseless value."""
    for ability in needed(request):
        if ability not in can:
            raise Unsupported(f"this engine cannot do {ability!r}; it can: {sorted(can)}")
    for complaint in complaints(request.sampling):
        raise InvalidInput(complaint)
    if request.timeout <= 0:
        raise InvalidInput(f"timeout={request.timeout!r}: expected seconds above 0")


def complaints(sampling: Sampling) -> Iterator[str]:
    if sampling.max_tokens < 1:
        yield f"max_tokens={sampling.max_tokens!r}: expected at least 1"
    if not 0 <= sampling.temperature <= 10:
        yield f"temperature={sampling.temperature!r}: expected 0 to 10"
    if not 0 < sampling.top_p <= 1:
        yield f"top_p={sampling.top_p!r}: expected above 0, up to 1"
    if sampling.top_k < 0:
        yield f"top_k={sampling.top_k!r}: expected 0 (all tokens) or more"
    if not 0 < sampling.repetition_penalty <= 10:
        yield f"repetition_penalty={sampling.repetition_penalty!r}: expected above 0, up to 10"
    if not all(sampling.stop):
        yield "stop: a stop string cannot be empty"
    if isinstance(sampling.structure, Choice) and not all(sampling.structure.options or ("",)):
        yield "choice: expected at least one option, and none of them empty"


def remaining_tokens(sampling: Sampling, *, prompt: int, begun: int, context: int) -> int:
    """Tokens that a reply may still get, of which ``begun`` exist: none when it has reached its
    ``max_tokens`` or the end of the context. Raises `PromptTooLong` when the prompt fills that."""
    if prompt >= context:
        raise PromptTooLong(f"the prompt has {prompt} tokens, the context window {context}")
    return max(0, min(sampling.max_tokens, context - prompt) - begun)
