"""Questions: says a question, and ends the turn with it."""

from collections.abc import Sequence
from typing import NoReturn

import msgspec

from palaver.ledger import Step
from palaver.messages import Approval, Asked
from palaver.turns.endings import Suspended
from palaver.turns.journal import Journal
from palaver.turns.replay import Replay
from palaver.turns.reply_record import ReplyRecord
from palaver.turns.writer import TurnWriter


class Questions:
    """The questions of one turn, as a part of its reply."""

    def __init__(
        self, turn: str, writer: TurnWriter, journal: Journal, replay: Replay, record: ReplyRecord
    ) -> None:
        self._turn = turn
        self._writer = writer
        self._journal = journal
        self._replay = replay
        self._record = record

    def say(self, question: str) -> None:
        """Say a question, whether it is answered or not: an earlier turn may have said it."""
        self._replay.say_question(question)

    def suspend(
        self,
        step: Step,
        question: str,
        *,
        options: Sequence[str] = (),
        suggestions: Sequence[str] = (),
        approval: Approval | msgspec.UnsetType = msgspec.UNSET,
    ) -> NoReturn:
        """End the turn with a question that was said, and is the journal's ``step``."""
        self._replay.withdraw_rest()
        shown = (*options, *suggestions)
        event = Asked(turn=self._turn, question=question, options=shown, approval=approval)
        self._writer.write(event)
        self._record.set_question(question, shown, approval)
        self._journal.keep_open(step)
        raise Suspended(options, approval)
