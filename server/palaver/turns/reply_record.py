"""Reply record: what a reply has beside its text, in the form and size that the history keeps.

The history is read with every turn of its conversation, within `palaver.ledger.HISTORY_BYTES`: all
that is kept here is bounded.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from palaver.history import cut_text
from palaver.messages import (
    Approval,
    Attachment,
    Citation,
    ClientCall,
    FinishReason,
    Problem,
    Question,
    ReplyParts,
    ToolUse,
    encode,
)

MAX_TOOL_RESULT = 1_000
"""Characters of a tool's result that its event and the history carry; the skill gets all of it."""
MAX_TOOL_ARGUMENTS = 1_000
"""Bytes of a tool's arguments, as JSON, above which the history has the long ones cut."""
MAX_TOOL_USES = 100
"""Number of the last uses of tools that the history keeps for a reply."""
TOOLS_BYTES = 16_384
"""Bytes, as JSON, of a reply's newest uses of tools; the older ones keep only name and state."""
OPTIONS_BYTES = 4_096
"""Bytes of a question's options, as JSON, about; the history leaves the following ones out."""
MAX_PROBLEM_MESSAGE = 1_000
"""Characters of the sentence that tells why a reply failed."""


class ReplyRecord:
    """Parts of a reply, collected while its turn runs."""

    def __init__(self) -> None:
        self.citations: dict[int, Citation] = {}
        self.attachments: list[Attachment] = []
        self.reason = ""
        self.score: float | None = None
        self.client_calls: tuple[ClientCall, ...] = ()
        self.model = ""
        """The model that wrote the text."""
        self._tools: dict[int, ToolUse] = {}
        """By the number of their step: a use has one state after the other."""
        self._question: Question | None = None

    def set_tool(self, step: int, use: ToolUse) -> None:
        """Record the state of a tool's use, which is the turn's step number ``step``."""
        self._tools[step] = msgspec.structs.replace(
            use, arguments=_cut_arguments(use.arguments), result=use.result[:MAX_TOOL_RESULT]
        )

    def uses_after(self, step: int) -> tuple[tuple[int, ToolUse], ...]:
        """Return the uses of tools in the steps after ``step``, with their numbers."""
        return tuple((number, use) for number, use in self._tools.items() if number > step)

    def set_question(
        self,
        text: str,
        options: Sequence[str],
        approval: Approval | msgspec.UnsetType = msgspec.UNSET,
    ) -> None:
        """Record the question with which the reply ends."""
        self._question = Question(text=text, options=_take_options(options), approval=approval)

    def parts(self, problem: Problem | None, finish_reason: FinishReason) -> ReplyParts:
        """Return the parts of the reply that ends now."""
        if problem is not None:
            problem = Problem(problem.code, cut_text(problem.message, MAX_PROBLEM_MESSAGE))
        return ReplyParts(
            citations=tuple(self.citations[number] for number in sorted(self.citations)),
            attachments=tuple(self.attachments),
            reason=self.reason,
            score=self.score,
            tools=_take_tools(list(self._tools.values())),
            question=self._question,
            problem=problem,
            finish_reason=finish_reason,
            client_calls=self.client_calls,
            model=self.model,
        )


class SkillRecord(ReplyRecord):
    """Parts that a skill collects that runs as a tool. Uses of tools and questions are those of the
    reply, which is the ``outer`` record; the rest goes there with the skill's result."""

    def __init__(self, outer: ReplyRecord) -> None:
        super().__init__()
        self._outer = outer

    def set_tool(self, step: int, use: ToolUse) -> None:
        self._outer.set_tool(step, use)

    def uses_after(self, step: int) -> tuple[tuple[int, ToolUse], ...]:
        return self._outer.uses_after(step)

    def set_question(
        self,
        text: str,
        options: Sequence[str],
        approval: Approval | msgspec.UnsetType = msgspec.UNSET,
    ) -> None:
        self._outer.set_question(text, options, approval)


def _cut_arguments(arguments: dict[str, Any]) -> dict[str, Any]:  # JSON values
    """Return arguments of about `MAX_TOOL_ARGUMENTS` bytes: of a long one, the beginning."""
    if len(encode(arguments)) <= MAX_TOOL_ARGUMENTS:
        return arguments
    share = MAX_TOOL_ARGUMENTS // len(arguments)
    return {name: _cut_value(value, share) for name, value in arguments.items()}


def _cut_value(value: Any, size: int) -> Any:  # a JSON value
    encoded = encode(value)
    if len(encoded) <= size:
        return value
    return cut_text(value if isinstance(value, str) else encoded.decode(), size)


def _take_tools(uses: Sequence[ToolUse]) -> tuple[ToolUse, ...]:
    """Return the last uses, with arguments and results as far as `TOOLS_BYTES` reach. One that the
    end of the turn has cut off may or may not have run."""
    kept: list[ToolUse] = []
    left = TOOLS_BYTES
    for use in reversed(uses[-MAX_TOOL_USES:]):
        left -= len(encode(use))
        if left < 0:
            use = ToolUse(call=use.call, name=use.name, state=use.state)
        if use.state == "started":
            use = msgspec.structs.replace(use, state="unknown")
        kept.append(use)
    return tuple(reversed(kept))


def _take_options(options: Sequence[str]) -> tuple[str, ...]:
    """Return the first options, as far as `OPTIONS_BYTES` reach."""
    kept: list[str] = []
    left = OPTIONS_BYTES
    for option in options:
        left -= len(encode(option))
        if left < 0:
            break
        kept.append(option)
    return tuple(kept)
