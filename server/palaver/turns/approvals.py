"""Approvals: a person approves the call of a tool before it runs.

The question is one step of the journal, whose result is the person's answer: nothing else that a
turn reads, such as a model's text or a tool's result, is ever taken for one.
"""

import dataclasses
import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from palaver.control_characters import escape_invisible
from palaver.errors import Denied, InvalidInput
from palaver.ledger import Claim, PendingQuestion
from palaver.messages import Approval, encode_sorted
from palaver.tools import Tool
from palaver.turns.answers import find_option
from palaver.turns.call_requests import RequestedCall
from palaver.turns.journal import Journal
from palaver.turns.questions import Questions

APPROVE, DENY = "Approve", "Deny"
OPTIONS = (APPROVE, DENY)
MAX_SHOWN_ARGUMENTS = 4_000
"""Characters of a call's arguments, as they are shown, above which a person is not asked."""

OVER = "This question is over. Nothing was approved by your answer."
NOT_YOURS = "Only the person who asked for it may approve or deny this. Nothing has changed."
_EXPIRED = "Your approval came too late, so I ask again. "
_CHANGED = "The tool has changed since you approved this, so I ask again. "


class ApprovalAnswer(msgspec.Struct, frozen=True):
    """Answer of the person to the question about a call: ``text``, accepted ``at`` that time by the
    ledger's clock."""

    approval: Approval
    text: str
    at: float

    @property
    def approves(self) -> bool:
        return find_option(self.text, OPTIONS) == APPROVE

    @property
    def is_late(self) -> bool:
        return self.approves and self.at > self.approval.expires_at

    @property
    def denial(self) -> Denied:
        """Return the error for a call that the person did not approve."""
        detail = f"The call of the tool {self.approval.tool!r} was not approved."
        if find_option(self.text, OPTIONS) != DENY:
            detail += f" The answer was: {self.text}"
        return Denied(detail)


class _Call(NamedTuple):
    """Call that the person is asked about, and its position among those of the same step."""

    position: int
    tool: Tool
    arguments: Mapping[str, Any]  # JSON values

    @property
    def fingerprint(self) -> tuple[str, ...]:
        return str(self.position), self.tool.name, repr(sorted(self.arguments.items()))

    @property
    def all_arguments(self) -> dict[str, Any]:
        return self.tool.read_arguments(self.arguments)


class Approvals:
    """The approvals of one turn. They are valid for ``timeout`` seconds."""

    def __init__(self, turn: str, journal: Journal, questions: Questions, timeout: float) -> None:
        self._turn = turn
        self._journal = journal
        self._questions = questions
        self._timeout = timeout

    def obtain(
        self, requests: Sequence[RequestedCall], *, saw_untrusted: bool
    ) -> list[RequestedCall]:
        """Ask the person about the calls that need it, one after the other, before any of them has
        its step in the journal. Return the calls, with an error where one is not to be made.

        A tool that is not ``read_only`` needs an approval, too, where the turn ``saw_untrusted``
        content. Arguments that cannot be shown whole are an error. Raises `Suspended` while a call
        is not answered.
        """
        obtained = list(requests)
        answers: dict[int, ApprovalAnswer] = {}
        calls: list[_Call] = []
        for position, request in enumerate(requests):
            if request.tool is None or request.error is not None:
                continue
            call = _Call(position, request.tool, request.arguments)
            if self._needs_answer(call, saw_untrusted):
                try:
                    answers[position] = self._ask(call)
                    calls.append(call)
                except InvalidInput as error:
                    obtained[position] = dataclasses.replace(request, error=error)
        while (invalid := self._find_invalid(calls, answers)) is not None:
            answers[invalid.position] = self._ask(invalid, answers[invalid.position])
        for position, answer in answers.items():
            obtained[position] = dataclasses.replace(
                requests[position],
                error=None if answer.approves else answer.denial,
                approval=answer.approval.id,
            )
        return obtained

    def _needs_answer(self, call: _Call, saw_untrusted: bool) -> bool:
        """Return whether there is a question about the call. What the journal holds decides first:
        another version of the tool must not make a call run again that has run."""
        if self._journal.is_next("approve", *call.fingerprint):
            return True
        required = call.tool.needs_approval or (saw_untrusted and not call.tool.read_only)
        return required and not self._journal.is_next("call_tool")

    def _find_invalid(
        self, calls: Sequence[_Call], answers: Mapping[int, ApprovalAnswer]
    ) -> _Call | None:
        """Return a call that was approved too late, or with another definition of the tool."""
        for call in calls:
            if self._journal.is_next("approve", *call.fingerprint):
                return call  # an earlier run has found that out
        if self._journal.is_next("call_tool"):
            return None
        for call in calls:
            answer = answers[call.position]
            has_changed = answer.approval.definition != call.tool.digest
            if answer.is_late or (answer.approves and has_changed):
                return call
        return None

    def _ask(self, call: _Call, before: ApprovalAnswer | None = None) -> ApprovalAnswer:
        """Return the answer about the call. ``before``: the answer that is not valid any more."""
        shown = show_arguments(call.tool.name, call.all_arguments)
        step = self._journal.next_step("approve", *call.fingerprint)
        answer = self._journal.recorded_result(step, ApprovalAnswer)
        approval = answer.approval if answer else self._new_approval(step.number, call, shown)
        question = format_question(approval)
        if before is not None:
            question = (_EXPIRED if before.is_late else _CHANGED) + question
        self._questions.say(question)
        if answer is None:
            self._questions.suspend(step, question, options=OPTIONS, approval=approval)
        return answer

    def _new_approval(self, step: int, call: _Call, shown: str) -> Approval:
        """Return the approval to ask for. It has the same id in every attempt of the turn."""
        definition = call.tool.digest
        identity = (self._turn, step, call.tool.name, shown, definition)
        return Approval(
            id=hashlib.blake2b(encode_sorted(identity), digest_size=16).hexdigest(),
            tool=call.tool.name,
            description=call.tool.description,
            arguments=call.all_arguments,
            shown_arguments=shown,
            definition=definition,
            expires_at=round(time.time() + self._timeout, 3),
        )


def show_arguments(tool: str, arguments: Mapping[str, Any]) -> str:  # Any: JSON values
    """Return all arguments of a call as a person sees them. Raises `InvalidInput` when they are too
    long to be shown whole."""
    shown = escape_invisible(json.dumps(arguments, ensure_ascii=False, indent=2))
    if len(shown) > MAX_SHOWN_ARGUMENTS:
        raise InvalidInput(
            f"Tool {tool!r} needs an approval, and its arguments take {len(shown)} characters; "
            f"a person is shown up to {MAX_SHOWN_ARGUMENTS}: give shorter ones"
        )
    return shown


def format_question(approval: Approval) -> str:
    """Return the question about a call, as Markdown: nothing in the arguments ends its block."""
    longest = max(map(len, re.findall("`+", approval.shown_arguments)), default=0)
    fence = "`" * max(3, longest + 1)
    return (
        f"May I use the tool `{approval.tool}` with these arguments?\n\n"
        f"{fence}json\n{approval.shown_arguments}\n{fence}\n\n"
        f"Answer “{APPROVE}” or “{DENY}”."
    )


def refuse_answer(claim: Claim) -> str | None:
    """Return a sentence for the person whose message names an approval that it cannot answer."""
    message, question = claim.message, claim.pending_question
    if not message.answers:
        return None
    if question is None or not question.approval or question.approval.id != message.answers:
        return OVER
    return NOT_YOURS if message.person != question.message.person else None


def may_answer(claim: Claim, question: PendingQuestion) -> bool:
    """Return whether the turn's message may answer ``question``.

    Any message may, where it is not about the call of a tool. Calls of a program's tools are
    answered by their results, from the person who sent the message. An answer about another call
    comes from that person, too, and was sent after the question: either it names the approval, or
    it was accepted later.
    """
    if question.client_calls:
        program = claim.message.program or None
        given = program.results if program else {}
        is_same = claim.message.person == question.message.person
        return is_same and all(call.id in given for call in question.client_calls)
    if not question.approval:
        return True
    if claim.message.person != question.message.person:
        return False
    if claim.message.answers:
        return claim.message.answers == question.approval.id
    asked_at = [entry.at for entry in claim.history if entry.turn == question.turns[-1]]
    return bool(asked_at) and claim.accepted_at >= asked_at[-1]
