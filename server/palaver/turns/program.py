"""Program: what a program asked for the reply: sampling parameters, tools, a limit of tokens."""

import dataclasses
from typing import Any

from palaver.engine import JsonSchema, NamedTool, Sampling, ToolChoice, ToolDefinition
from palaver.messages import ProgramRequest, Usage
from palaver.turns.endings import ReplyLimitReached

OVERRIDES = (
    *("temperature", "top_p", "presence_penalty", "frequency_penalty"),
    *("seed", "stop", "logprobs"),
)
"""Fields of `ProgramRequest` that `Sampling` has under the same name."""


class Program:
    """What a program asked for the reply; nothing without a program. Its limit of tokens is for all
    that the model writes for the reply."""

    def __init__(self, request: ProgramRequest | None) -> None:
        self._request = request or ProgramRequest()
        self._changes = _changes_of(self._request)
        self._tokens_left = self._request.max_tokens

    @property
    def tools(self) -> tuple[ToolDefinition, ...]:
        """Return the tools that the program runs."""
        return tuple(
            ToolDefinition(tool.name, tool.description, tool.parameters)
            for tool in self._request.tools
        )

    @property
    def tool_choice(self) -> ToolChoice:
        forced = self._request.forced_tool
        return NamedTool(forced) if forced else self._request.tool_choice

    @property
    def parallel_tool_calls(self) -> bool:
        return self._request.parallel_tool_calls

    @property
    def call_prefix(self) -> str:
        return self._request.call_prefix

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
