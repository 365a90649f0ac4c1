"""Tool calls: runs the tools of one turn, each call once, as journaled steps with events."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from palaver.errors import (
    LedgerError,
    LedgerUnavailable,
    NotFound,
    OutcomeUnknown,
    PalaverError,
    PluginError,
    contained,
    find_error_class,
)
from palaver.ledger import Claim, Step
from palaver.messages import Citation, Cited, ToolCalled, ToolState
from palaver.tools import Tool, ToolContext
from palaver.turns.journal import Journal
from palaver.turns.reply_record import MAX_TOOL_RESULT, ReplyRecord
from palaver.turns.tool_services import CallServices
from palaver.turns.writer import TurnWriter


class _Failure(msgspec.Struct, frozen=True, tag="failure"):
    """Result of a call in the journal, when the tool raised an error."""

    error: str
    """Name of the error's class."""
    detail: str

    @classmethod
    def of(cls, error: Exception) -> "_Failure":
        return cls(type(error).__name__, str(error)[:MAX_TOOL_RESULT])

    def to_error(self) -> PalaverError:
        known = find_error_class(self.error)
        return known(self.detail) if known else PluginError(f"{self.error}: {self.detail}")


class _CitedResult(msgspec.Struct, frozen=True, tag="cited"):
    """Result of a call in the journal, when the tool has cited something; else it is a text."""

    text: str
    citations: tuple[Citation, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PreparedCall:
    """Call that has its step in the journal and has not been performed. ``arguments`` are those of
    the caller, ``validated`` those that the tool's function gets."""

    tool: Tool
    step: Step
    arguments: dict[str, Any]  # JSON values
    validated: dict[str, Any]  # typed values


class ToolCalls:
    """The calls of one turn.

    `prepare` gives a call the next step of the journal, `perform` runs it. So calls that run side
    by side have the same steps in every attempt, whichever ends first.
    """

    def __init__(
        self,
        claim: Claim,
        writer: TurnWriter,
        journal: Journal,
        record: ReplyRecord,
        tools: Mapping[str, Tool],
        open_services: Callable[[], CallServices],
    ) -> None:
        self._claim = claim
        self._writer = writer
        self._journal = journal
        self._record = record
        self._tools = tools
        self._open_services = open_services
        self.saw_untrusted = False
        """Whether a tool that is ``untrusted`` has returned a result or an error in this turn."""

    def find(self, name: str) -> Tool:
        """Return a registered tool. Raises `NotFound`."""
        tool = self._tools.get(name)
        if tool is None:
            raise NotFound(f"there is no tool {name!r}; there are: {sorted(self._tools)}")
        return tool

    def prepare(self, tool: Tool, arguments: dict[str, Any]) -> PreparedCall:  # Any: JSON values
        """Give the call its step. Raises `InvalidInput` for arguments that do not validate."""
        validated = tool.validate(arguments)
        step = self._journal.next_step("call_tool", tool.name, repr(sorted(arguments.items())))
        return PreparedCall(tool=tool, step=step, arguments=arguments, validated=validated)

    async def perform(self, call: PreparedCall, *, person: str) -> str:
        """Run the tool for ``person`` and return its result, or the recorded one of an earlier
        attempt.

        Raises what the tool raises, in every attempt, and `OutcomeUnknown` when the server died
        while a tool ran that must not run twice.
        """
        if (recorded := self._journal.recorded_result(call.step, _RECORDED)) is not None:
            return self._replay(call, recorded)
        if self._journal.was_started(call.step) and not call.tool.idempotent:
            raise self._give_up(call)
        await self._store_intent(call)
        services = self._open_services()
        try:
            with contained(f"tool {call.tool.name!r}"):
                result = await call.tool.run(call.validated, self._context(call, person, services))
        except LedgerError:
            services.withdraw_citations()
            self._show(call, "failed")
            raise
        except Exception as error:
            services.withdraw_citations()
            self._note_result(call)
            self._show(call, _state_after(error), _public(error))
            self._journal.record_result(call.step, _Failure.of(error))
            raise
        self._note_result(call)
        self._show(call, "done", result)
        self._record_done(call, result, tuple(services.citations))
        return result

    def _record_done(
        self, call: PreparedCall, result: str, citations: tuple[Citation, ...]
    ) -> None:
        for citation in citations:
            self._writer.write(Cited(turn=self._claim.turn, citation=citation))
        self._journal.record_result(
            call.step, _CitedResult(result, citations) if citations else result
        )

    def _replay(self, call: PreparedCall, recorded: str | _CitedResult | _Failure) -> str:
        self._note_result(call)
        is_own = not self._journal.is_of_earlier_turn(call.step)
        if isinstance(recorded, _Failure):
            failure = recorded.to_error()
            if is_own:
                self._record_use(call, _state_after(failure), failure.public)
            raise failure
        text = recorded.text if isinstance(recorded, _CitedResult) else recorded
        if is_own:
            self._record_use(call, "done", text)
            if isinstance(recorded, _CitedResult):
                self._record.citations |= {each.number: each for each in recorded.citations}
        return text

    def _give_up(self, call: PreparedCall) -> OutcomeUnknown:
        """Return the error for a call that was started before a takeover, and record it."""
        error = OutcomeUnknown(
            f"tool {call.tool.name!r} was started before a takeover; it may have run"
        )
        self._show(call, "unknown")
        return error

    async def _store_intent(self, call: PreparedCall) -> None:
        """Return when the ledger has stored that the call begins: before it has an effect."""
        self._show(call, "started")
        self._journal.record_start(call.step)
        try:
            await self._writer.flush()
        except LedgerUnavailable:
            self._journal.withdraw(call.step)
            raise

    def _note_result(self, call: PreparedCall) -> None:
        self.saw_untrusted = self.saw_untrusted or call.tool.untrusted

    def call_id(self, step: Step) -> str:
        """Return the id of a call: the same on every server, and in every attempt."""
        return f"{self._claim.turn}-{step.number}"

    def _context(self, call: PreparedCall, person: str, services: CallServices) -> ToolContext:
        return ToolContext(
            call=self.call_id(call.step),
            conversation=self._claim.conversation,
            person=person,
            services=services,
        )

    def _show(self, call: PreparedCall, state: ToolState, result: str = "") -> None:
        """Write the event of the call's new state."""
        self._record_use(call, state, result)
        self._writer.write(
            ToolCalled(
                turn=self._claim.turn,
                call=self.call_id(call.step),
                name=call.tool.name,
                arguments=call.arguments,
                state=state,
                result=result[:MAX_TOOL_RESULT],
            )
        )

    def _record_use(self, call: PreparedCall, state: ToolState, result: str) -> None:
        self._record.set_tool(call.step.number, call.tool.name, call.arguments, state, result)


_RECORDED: Any = (
    str | _CitedResult | _Failure
)  # Any: msgspec takes unions of types, mypy no type[X | Y]


def _public(error: Exception) -> str:
    return error.public if isinstance(error, PalaverError) else ""


def _state_after(error: Exception) -> ToolState:
    return "unknown" if isinstance(error, OutcomeUnknown) else "failed"
