"""Helpers for the authors of engines: checks and time limit of a generation request."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from palaver.engine import Capability, Choice, GenerationRequest, JsonSchema, Regex, Sampling
from palaver.errors import EngineTimeout, InvalidInput, PromptTooLong, Unsupported


def check_request(request: GenerationRequest, capabilities: frozenset[Capability]) -> None:
    """Raise `Unsupported` when ``request`` needs a capability outside ``capabilities``, and
    `InvalidInput` for a value out of range."""
    sampling = request.sampling
    structure = sampling.structure
    needs: dict[Capability, bool] = {
        "json_schema": isinstance(structure, JsonSchema),
        "choice": isinstance(structure, Choice),
        "regex": isinstance(structure, Regex),
        "logprobs": sampling.logprobs is not None,
        "alternatives": bool(sampling.logprobs),
        "seed": sampling.seed is not None,
        "continuation": bool(request.partial),
        "adapter": request.adapter is not None,
        "priority": request.priority != 0,
    }
    for capability, needed in needs.items():
        if needed and capability not in capabilities:
            raise Unsupported(
                f"this engine lacks the capability {capability!r}; it has: {sorted(capabilities)}"
            )
    _check_sampling(sampling)
    if request.timeout <= 0:
        raise InvalidInput(f"timeout={request.timeout!r}: expected seconds above 0")


def _check_sampling(sampling: Sampling) -> None:
    for name, valid, expected in (
        ("max_tokens", sampling.max_tokens >= 1, "at least 1"),
        ("temperature", 0 <= sampling.temperature <= 10, "0 to 10"),
        ("top_p", 0 < sampling.top_p <= 1, "above 0, up to 1"),
        ("top_k", sampling.top_k >= 0, "0 (all tokens) or more"),
        ("repetition_penalty", 0 < sampling.repetition_penalty <= 10, "above 0, up to 10"),
        ("stop", all(sampling.stop), "no empty string"),
    ):
        if not valid:
            raise InvalidInput(f"{name}={getattr(sampling, name)!r}: expected {expected}")
    structure = sampling.structure
    if isinstance(structure, Choice) and not (structure.options and all(structure.options)):
        raise InvalidInput("choice: expected at least one option, and no empty one")


def remaining_tokens(
    sampling: Sampling, *, prompt_tokens: int, partial_tokens: int, context_window: int
) -> int:
    """Return the number of tokens that the reply may still get: 0 at its ``max_tokens`` or at the
    end of the context. ``partial_tokens`` of the reply exist already.

    Raises `PromptTooLong` when the prompt fills the context window.
    """
    if prompt_tokens >= context_window:
        raise PromptTooLong(
            f"the prompt has {prompt_tokens} tokens, the context window {context_window}"
        )
    return max(0, min(sampling.max_tokens, context_window - prompt_tokens) - partial_tokens)


@asynccontextmanager
async def generation_timeout(seconds: float) -> AsyncIterator[None]:
    """Raise `EngineTimeout` when the block takes longer than ``seconds``."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise EngineTimeout(f"the generation took longer than {seconds:g} s") from error
