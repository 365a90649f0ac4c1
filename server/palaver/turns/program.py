"""Program: the sampling parameters that a program asked for, and its limit of tokens."""

import dataclasses
from typing import Any

from palaver.engine import JsonSchema, Sampling
from palaver.messages import ProgramRequest, Usage
from palaver.turns.endings import ReplyLimitReached

OVERRIDES = (
    *("temperature", "top_p", "presence_penalty", "frequency_penalty"),
    *("seed", "stop", "logprobs"),
)
"""Fields of `ProgramRequest` that `Sampling` has under the same name."""


class ProgramSampling:
    """What a program asked for the reply; nothing without a program. Its limit of tokens is for all
    that the model writes for the reply."""

    def __init__(self, request: ProgramRequest | None) -> None:
        self._changes = {} if request is None else _changes_of(request)
        self._tokens_left = None if request is None else request.max_tokens

    def apply(self, sampling: Sampling) -> Sampling:
        """Return a skill's parameters with those of the program. Raises `ReplyLimitReached` when
        the model may write no more."""
        changes = self._changes
        if self._tokens_left is not None:
            if not self._tokens_left:
                raise ReplyLimitReached
            changes = {**changes, "max_tokens": min(sampling.max_tokens, self._tokens_left)}
        return dataclasses.replace(sampling, **changes) if changes else sampling

    def count(self, usage: Usage) -> None:
        """Count what the model wrote for the reply."""
        if self._tokens_left is not None:
            self._tokens_left = max(0, self._tokens_left - usage.completion_tokens)


def _changes_of(request: ProgramRequest) -> dict[str, Any]:  # by the field's name
    changes: dict[str, Any] = {
        name: value for name in OVERRIDES if (value := getattr(request, name)) is not None
    }
    if request.json_schema is not None:
        changes["structure"] = JsonSchema(request.json_schema)
    return changes
