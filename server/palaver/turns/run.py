"""Run: one turn while this process runs it, with the steps that only the server takes."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

import msgspec

from palaver.config.settings import DispatchSettings
from palaver.ledger import Claim, PendingQuestion
from palaver.messages import Finished, Outcome, Problem, Routed, Started
from palaver.streams.subscriptions import Subscriptions
from palaver.turns.approvals import ApprovalAnswer
from palaver.turns.endings import Suspended
from palaver.turns.interruption import Interruption
from palaver.turns.journal import Journal
from palaver.turns.replay import Replay
from palaver.turns.turn import Turn, TurnServices
from palaver.turns.turn_history import read_transcript
from palaver.turns.writer import TurnWriter

ResultT = TypeVar("ResultT")


class RunResult(NamedTuple):
    """The end of a run. ``dead_letter_reason``: why the turn is given up for good."""

    outcome: Outcome
    problem: Problem | None = None
    pending_question: PendingQuestion | None = None
    dead_letter_reason: str = ""


STOPPED = RunResult("stopped")


class Run:
    """A claimed turn in this process: the `Turn` that its skill works with, the writer of its
    events, and the requests to interrupt it. Made by the task that runs it."""

    def __init__(
        self,
        claim: Claim,
        services: TurnServices,
        subscriptions: Subscriptions,
        settings: DispatchSettings,
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.claim = claim
        self.started_at = asyncio.get_running_loop().time()
        self.interruption = Interruption(claim.turn, task, stop_requested=claim.stop_requested)
        self.writer = TurnWriter(
            claim, services.ledger, subscriptions, self.interruption, lease=settings.lease
        )
        self._journal = Journal(claim.journal, self.writer.write, settings.max_journal_bytes)
        self._replay = Replay(self.writer, claim.reply, settings.max_reply_characters)
        self.turn: Turn[Any] = Turn(  # Any: the skill, and so its Arguments, is not chosen yet
            claim,
            self.writer,
            self._journal,
            self._replay,
            services,
            deadline=self.started_at + settings.turn_timeout,
        )
        self._original_message = self.turn.message
        self._asked_in: tuple[str, ...] = ()
        self._kept_question: PendingQuestion | None = None

    @property
    def log_fields(self) -> dict[str, str]:
        """Return the ``extra`` of a log record about this turn."""
        conversation = self.claim.conversation
        return {
            "turn": self.claim.turn,
            "conversation": str(conversation),
            "tenant": conversation.tenant,
            "skill": self.turn.skill,
        }

    def start(self) -> None:
        """Announce the attempt."""
        claim = self.claim
        position = self.writer.length
        self.writer.write(Started(turn=claim.turn, attempt=claim.attempt, position=position))

    def resume(self, question: PendingQuestion) -> None:
        """Continue the skill that asked: the message of this turn is the answer."""
        turn, program = self.turn, self.turn.message.program
        answer: object = turn.message.text
        if question.approval:
            answer = ApprovalAnswer(question.approval, turn.message.text, self.claim.accepted_at)
        elif question.client_calls and program:
            answer = program.results
        self._journal.resume(question.journal, answer)
        self._replay.resume(question.reply)
        # The skill sees the history that it saw when it asked, not its own question.
        self._asked_in = question.turns
        if question.client_calls:
            history = [it for it in self.claim.history if it.turn not in question.turns]
            claim = msgspec.structs.replace(self.claim, history=tuple(history))
            seen = read_transcript(claim, question.message)
            turn.message, turn.history, turn.following = seen.message, seen.history, seen.following
        else:
            turn.message = question.message
            turn.history = tuple(it for it in turn.history if it.turn not in question.turns)
        self._original_message = turn.message
        turn.messages = (turn.message,)

    def keep_question(self) -> None:
        """Leave the pending question to a later turn: the message of this one does not answer it,
        and another may."""
        self._kept_question = self.claim.pending_question

    async def record(
        self,
        kind: type[ResultT],
        perform: Callable[[], Awaitable[ResultT]],
        verb: str,
        *inputs: str,
    ) -> ResultT:
        """Return the journaled result of a step of the server, performing it when it is new."""
        return await self._journal.run_once(kind, lambda step: perform(), verb, *inputs)

    def set_request(self, text: str, skill: str | None) -> None:
        """Show the skill ``text`` as the message's, a command was taken off its front, and the
        ``skill`` that a command or a program named."""
        message = self.turn.message
        if (text, skill) != (message.text, message.skill):
            self.turn.message = msgspec.structs.replace(message, text=text, skill=skill)

    async def announce_skill(
        self, skill: str, reason: str, score: float | None, *, durable: bool
    ) -> None:
        """Record which skill answers and why. ``durable``: wait until the ledger has stored it."""
        self.turn.skill = skill
        self.turn.record.reason, self.turn.record.score = reason, score
        self.writer.write(Routed(turn=self.claim.turn, skill=skill, reason=reason, score=score))
        if durable:
            await self.writer.flush()

    def pending_question(self, asked: Suspended) -> PendingQuestion:
        """Return all that is needed to continue the skill with the person's answer."""
        message = self._original_message
        if (
            message.program and not asked.client_calls
        ):  # the answer comes with the program's own copy, as does any message
            program = msgspec.structs.replace(
                message.program, history=None, following=0, input=(), note=""
            )
            message = msgspec.structs.replace(message, program=program)
        return PendingQuestion(
            skill=self.turn.skill,
            message=message,
            journal=self._journal.steps,
            reply=self.turn.text,
            turns=(*self._asked_in, self.claim.turn),
            options=asked.options,
            approval=asked.approval,
            client_calls=asked.client_calls or msgspec.UNSET,
        )

    async def settle(self, result: RunResult) -> None:
        """Close the turn in the ledger. Raises `Fenced` when another worker owns it."""
        if result.outcome == "done":
            self._replay.withdraw_rest()
        steered = self.turn.taken_steering
        finished = Finished(
            turn=self.claim.turn,
            outcome=result.outcome,
            length=0,  # the writer sets it
            messages=tuple(message.id for message in (*self.claim.messages, *steered)),
            usage=self.turn.usage,
            problem=result.problem,
            finish_reason=self.turn.finish_reason,
            client_calls=self.turn.record.client_calls or msgspec.UNSET,
            model=self.turn.record.model or msgspec.UNSET,
        )
        await self.writer.settle(
            finished,
            result.pending_question or self._kept_question,
            steered=steered,
            dead_letter_reason=result.dead_letter_reason,
            parts=self.turn.record.parts(result.problem, self.turn.finish_reason),
        )
