"""Tool calls: runs the tools of one turn, each call once, as journaled steps with events."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from palaver.errors import (
    Denied,
    InvalidInput,
    LedgerError,
    LedgerUnavailable,
    NotFound,
    OutcomeUnknown,
    PalaverError,
    PluginError,
    SkillError,
    contained,
    find_error_class,
)
from palaver.ledger import Claim, Step
from palaver.messages import Attachment, Citation, Cited, ToolCalled, ToolState, ToolUse
from palaver.tools import Tool, ToolContext
from palaver.turns.approvals import Approvals
from palaver.turns.call_requests import RequestedCall
from palaver.turns.journal import Journal
from palaver.turns.reply_record import MAX_TOOL_RESULT, ReplyRecord
from palaver.turns.skill_tools import SkillTool
from palaver.turns.tool_results import cut_result
from palaver.turns.tool_services import CallServices
from palaver.turns.writer import TurnWriter


class _Failure(msgspec.Struct, frozen=True, tag="failure", omit_defaults=True):
    """Result of a call in the journal, when it ended with an error. ``next_step`` is the number of
    the step after those of a skill that ran as the tool."""

    error: str
    """Name of the error's class."""
    detail: str
    next_step: int | None = None
    uses: tuple[tuple[int, ToolUse], ...] = ()
    """Uses of tools by that skill, with the numbers of their steps."""
    untrusted: bool = False
    """Whether the turn had seen untrusted content by then: its tool may be another one, or gone,
    when the call is replayed."""

    def to_error(self) -> PalaverError:
        known = find_error_class(self.error)
        return known(self.detail) if known else PluginError(f"{self.error}: {self.detail}")


class _Result(msgspec.Struct, frozen=True, tag="result", omit_defaults=True):
    """Result of a call in the journal, with what the call has added to the reply; where it has
    added nothing, the text alone. The other fields as in `_Failure`."""

    text: str
    next_step: int | None = None
    citations: tuple[Citation, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    uses: tuple[tuple[int, ToolUse], ...] = ()
    untrusted: bool = False


_RECORDED: Any = str | _Failure | _Result  # Any: mypy knows no type[X | Y]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PreparedCall:
    """Call that has its step in the journal and has not been performed."""

    request: RequestedCall
    step: Step

    @property
    def is_parallel(self) -> bool:
        """Return whether it may run beside others."""
        tool = self.request.tool
        return tool is not None and tool.parallel and self.request.error is None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CallLimits:
    """Limits of one call: ``deadline`` on the event loop's clock, ``result_bytes``."""

    deadline: float | None = None
    result_bytes: int | None = None


NO_LIMITS = CallLimits()


@dataclasses.dataclass(slots=True)
class Trust:
    """What a turn knows about the content that its model has seen."""

    saw_untrusted: bool = False
    """Whether a tool that is ``untrusted`` has returned a result or an error in this turn."""


class ToolCalls:
    """The calls of one turn, or of a skill that runs as a tool in it.

    `obtain_approvals` asks the person, `prepare` gives a call the next step of the journal,
    `perform` runs it. So calls that run side by side have the same steps in every attempt,
    whichever ends first.
    """

    def __init__(
        self,
        claim: Claim,
        writer: TurnWriter,
        journal: Journal,
        record: ReplyRecord,
        tools: Mapping[str, Tool],
        open_services: Callable[[], CallServices],
        *,
        trust: Trust,
        is_nested: bool,
        approvals: Approvals,
    ) -> None:
        """``is_nested``: they are those of a skill that runs as a tool, whose citations become the
        reply's with its result."""
        self._claim = claim
        self._writer = writer
        self._journal = journal
        self._record = record
        self._tools = tools
        self._open_services = open_services
        self.trust = trust
        self._is_nested = is_nested
        self._approvals = approvals

    def find(self, name: str) -> Tool:
        """Return a registered tool. Raises `NotFound`."""
        tool = self._tools.get(name)
        if tool is None:
            raise NotFound(f"there is no tool {name!r}; there are: {sorted(self._tools)}")
        return tool

    def obtain_approvals(self, requests: Sequence[RequestedCall]) -> list[RequestedCall]:
        """Ask the person about the calls that need it, before any of them is prepared. Return the
        calls, with an error where one is not to be made. Raises `Suspended` while one is not
        answered."""
        return self._approvals.obtain(requests, saw_untrusted=self.trust.saw_untrusted)

    def prepare(self, request: RequestedCall) -> PreparedCall:
        """Give the call its step."""
        inputs = (request.name, repr(sorted(request.arguments.items())))
        return PreparedCall(request=request, step=self._journal.next_step("call_tool", *inputs))

    async def perform(
        self, call: PreparedCall, *, person: str, limits: CallLimits = NO_LIMITS
    ) -> str:
        """Run the tool for ``person`` and return its result, or the recorded one of an earlier
        attempt.

        Raises what the tool raises, in every attempt, and `OutcomeUnknown` when the server died
        while a tool ran that must not run twice.
        """
        result = await self._complete(call, person, limits)
        if isinstance(result, Exception):
            raise result
        return result

    async def perform_for_model(
        self, call: PreparedCall, *, person: str, limits: CallLimits
    ) -> str:
        """Run the tool as `perform` does, and return its result or its error as a sentence."""
        result = await self._complete(call, person, limits)
        if isinstance(result, Exception):
            return describe_failure(_failure_of(result).to_error())
        return result

    async def _complete(
        self, call: PreparedCall, person: str, limits: CallLimits
    ) -> str | Exception:
        """Return the result, or the error that is recorded as such."""
        recorded = self._journal.recorded_result(call.step, _RECORDED)
        if recorded is not None:
            return self._replay(call, recorded)
        request = call.request
        if request.error is not None or request.tool is None:
            return self._fail(call, request.error or NotFound(f"there is no tool {request.name!r}"))
        if self._journal.was_started(call.step) and not request.tool.idempotent:
            return self._fail(call, _unknown(request, "was started before a takeover"))
        if limits.deadline is not None and asyncio.get_running_loop().time() >= limits.deadline:
            return self._fail(call, InvalidInput("It was not made: the limit of time is reached."))
        await self._store_intent(call)
        services, before = self._open_services(), _Additions(self._record)
        context = ToolContext(
            call=self.call_id(call),
            conversation=self._claim.conversation,
            person=person,
            services=services,
        )
        try:
            result = await self._run(call, request.tool, context, limits)
        except LedgerError:
            services.withdraw_citations()
            self._show(call, "failed")
            raise
        except Exception as error:  # noqa: BLE001 - it is recorded, and the caller gets it
            services.withdraw_citations()
            self._note_result(request.tool)
            return self._fail(call, error)
        self._note_result(request.tool)
        self._show(call, "done", result)
        if isinstance(request.tool, SkillTool):
            self._record_skill(call, result, before)
        else:
            self._record_done(call, result, tuple(services.citations))
        return result

    async def _run(
        self, call: PreparedCall, tool: Tool, context: ToolContext, limits: CallLimits
    ) -> str:
        try:
            async with asyncio.timeout_at(limits.deadline) as timeout:
                with _barrier(tool):
                    result = await tool.run(call.request.validated, context)
        except TimeoutError:
            if not timeout.expired():
                raise
            what = "was stopped at the limit of time"
            if tool.idempotent:
                raise SkillError(f"tool {tool.name!r} {what}") from None
            raise _unknown(call.request, what) from None
        return result if limits.result_bytes is None else cut_result(result, limits.result_bytes)

    def _record_done(
        self, call: PreparedCall, result: str, citations: tuple[Citation, ...]
    ) -> None:
        for citation in citations:
            if not self._is_nested:
                self._writer.write(Cited(turn=self._claim.turn, citation=citation))
        untrusted = self.trust.saw_untrusted
        recorded = _Result(result, citations=citations, untrusted=untrusted)
        is_plain = not (citations or untrusted)
        self._journal.record_result(call.step, result if is_plain else recorded)

    def _record_skill(self, call: PreparedCall, result: str, before: "_Additions") -> None:
        """Record the result of a skill, which stands for its steps, too."""
        recorded = _Result(
            result,
            next_step=self._journal.position,
            citations=before.citations,
            attachments=before.attachments,
            uses=self._record.uses_after(call.step.number),
            untrusted=self.trust.saw_untrusted,
        )
        self._journal.record_result(call.step, recorded)

    def _fail(self, call: PreparedCall, error: Exception) -> Exception:
        """Record the error as the call's result, and return it."""
        public = error.public if isinstance(error, PalaverError) else ""
        self._show(call, _state_of(error), public)
        ran_skill = isinstance(call.request.tool, SkillTool)
        failure = msgspec.structs.replace(_failure_of(error), untrusted=self.trust.saw_untrusted)
        if ran_skill:
            uses = self._record.uses_after(call.step.number)
            position = self._journal.position
            failure = msgspec.structs.replace(failure, next_step=position, uses=uses)
        self._journal.record_result(call.step, failure)
        return error

    def _replay(self, call: PreparedCall, recorded: str | _Failure | _Result) -> str | PalaverError:
        """Return the recorded result or error, and restore what it added to the reply."""
        result: str | PalaverError
        state: ToolState = "done"
        if isinstance(recorded, _Failure):
            result = recorded.to_error()
            shown, state = result.public, _state_of(result)
        else:
            result = shown = recorded if isinstance(recorded, str) else recorded.text
        if call.request.tool is not None:
            self._note_result(call.request.tool)
        self.trust.saw_untrusted |= not isinstance(recorded, str) and recorded.untrusted
        is_own = not self._journal.is_of_earlier_turn(call.step)
        if is_own:
            self._record_use(call, state, shown)
        ran_skill = not isinstance(recorded, str) and recorded.next_step is not None
        if isinstance(recorded, _Result) and (is_own or ran_skill):
            self._record.citations.update({each.number: each for each in recorded.citations})
            self._record.attachments.extend(recorded.attachments)
        if not isinstance(recorded, str) and recorded.next_step is not None:
            self._journal.skip_to(recorded.next_step)
            for number, use in recorded.uses:
                if not self._journal.is_number_of_earlier_turn(number):
                    self._record.set_tool(number, use)
        return result

    async def _store_intent(self, call: PreparedCall) -> None:
        """Return when the ledger has stored that the call begins: before it has an effect."""
        self._show(call, "started")
        self._journal.record_start(call.step)
        try:
            await self._writer.flush()
        except LedgerUnavailable:
            self._journal.withdraw(call.step)
            raise

    def _note_result(self, tool: Tool) -> None:
        self.trust.saw_untrusted = self.trust.saw_untrusted or tool.untrusted

    def call_id(self, call: PreparedCall) -> str:
        """Return the id of a call: the same on every server, and in every attempt. A person who was
        asked for an approval knows the call by the id of that."""
        return call.request.approval or f"{self._claim.turn}-{call.step.number}"

    def _show(self, call: PreparedCall, state: ToolState, result: str = "") -> None:
        """Write the event of the call's new state."""
        self._record_use(call, state, result)
        self._writer.write(
            ToolCalled(
                turn=self._claim.turn,
                call=self.call_id(call),
                name=call.request.name,
                arguments=call.request.arguments,
                state=state,
                result=result[:MAX_TOOL_RESULT],
            )
        )

    def _record_use(self, call: PreparedCall, state: ToolState, result: str) -> None:
        self._record.set_tool(
            call.step.number,
            ToolUse(
                call=self.call_id(call),
                name=call.request.name,
                state=state,
                arguments=call.request.arguments,
                result=result,
            ),
        )


def _barrier(tool: Tool) -> contextlib.AbstractContextManager[None]:
    """Return what keeps a tool from ending the process. A skill has the barrier of its turn, which
    it may end with a question."""
    if isinstance(tool, SkillTool):
        return contextlib.nullcontext()
    return contained(f"tool {tool.name!r}")


class _Additions:
    """What is added to a reply from now on."""

    def __init__(self, record: ReplyRecord) -> None:
        self._record = record
        self._numbers = set(record.citations)
        self._attachments = len(record.attachments)

    @property
    def citations(self) -> tuple[Citation, ...]:
        held = self._record.citations.items()
        return tuple(citation for number, citation in held if number not in self._numbers)

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        return tuple(self._record.attachments[self._attachments :])


def describe_failure(error: PalaverError) -> str:
    """Return what a model is told about a call that ended with an error."""
    if isinstance(error, OutcomeUnknown):
        return (
            "It is not known whether this call had its effect, since it was cut off. "
            "Do not repeat it: tell the person."
        )
    if isinstance(error, Denied):
        return f"{error.public} Do not repeat the call unless the person asks for it."
    return f"The call failed: {error.public}"


def _failure_of(error: Exception) -> _Failure:
    return _Failure(type(error).__name__, str(error)[:MAX_TOOL_RESULT])


def _state_of(error: Exception) -> ToolState:
    if isinstance(error, OutcomeUnknown):
        return "unknown"
    return "denied" if isinstance(error, Denied) else "failed"


def _unknown(request: RequestedCall, what: str) -> OutcomeUnknown:
    return OutcomeUnknown(f"tool {request.name!r} {what}; it may have run")
