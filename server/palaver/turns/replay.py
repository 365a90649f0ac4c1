"""Replay: skips output that is stored already when a skill runs again."""

from typing import NoReturn

from palaver.errors import LimitExceeded
from palaver.turns.writer import TurnWriter


class Replay:
    """Writer of a reply that skips the text in the ledger when the skill runs again.

    ``stored`` is the text in the ledger when the run begins. The reply has at most ``max_length``
    characters, with the text of earlier turns that it continues.
    """

    def __init__(self, writer: TurnWriter, stored: str, max_length: int) -> None:
        self._writer = writer
        self._max_length = max_length
        self._said: list[str] = []
        self._length = 0
        self._earlier_length = 0
        """Characters of earlier turns, in a turn that continues after a question."""
        self._stored = stored
        """Empty when this run has reached its end."""
        self._reached = 0
        """Characters of the stored text that this run has reached."""

    @property
    def text(self) -> str:
        """Return the text of this run."""
        return "".join(self._said)

    @property
    def pieces(self) -> int:
        """Return the number of pieces said: the start of `text_since` for what is said next."""
        return len(self._said)

    def text_since(self, start: int) -> str:
        """Return the text of this run from piece ``start`` on."""
        return "".join(self._said[start:])

    def say(self, text: str) -> None:
        """Add ``text`` to the reply. Raises `LimitExceeded` when it becomes too long."""
        self._said.append(text)
        if self._stored:
            text = self._skip_stored(text)
        self._length += len(text)
        if self._length > self._max_length:
            self._refuse_more()
        if text:
            self._writer.write_text(text)

    def _refuse_more(self) -> NoReturn:
        raise LimitExceeded(
            f"the reply has more than {self._max_length} characters "
            "(dispatch.max_reply_characters): write less, or in several turns",
            limit="max_reply_characters",
        )

    def _skip_stored(self, text: str) -> str:
        """Return the part of ``text`` that is not stored; withdraw stored text that differs."""
        stored = self._stored[self._reached : self._reached + len(text)]
        if not text.startswith(stored):
            self.withdraw_rest()
            return text
        self._reached += len(stored)
        self._length += len(stored)
        if self._reached == len(self._stored):
            self._stored, self._reached = "", 0
        return text[len(stored) :]

    def say_question(self, question: str) -> None:
        """Say the question, separated from the earlier text of this turn's reply."""
        self.say(self.separator() + question)

    def separator(self) -> str:
        """Return what separates a new paragraph from the earlier text of this turn's reply."""
        # The stored text shows whether it was separated when it was said.
        separated = self._stored.startswith("\n\n", self._reached) or (
            not self._stored and self._length > self._earlier_length
        )
        return "\n\n" if separated else ""

    def replay_rest(self) -> str:
        """Say the stored text, and return it: the run continues after it."""
        rest = self._stored[self._reached :]
        self.say(rest)
        return rest

    def withdraw_rest(self) -> None:
        """Withdraw the stored text that this run has not said."""
        position = max(0, self._length - self._earlier_length)
        if self._stored and position < self._writer.length:
            self._writer.truncate(position)
        self._stored, self._reached = "", 0

    def resume(self, said: str) -> None:
        """Continue after the text of earlier turns."""
        self._earlier_length = len(said)
        self._stored, self._reached = said + self._stored[self._reached :], 0


class CapturedReply(Replay):
    """Reply of a skill that runs as a tool: the text is kept for the result, and only questions go
    to the reply of the turn, which is the ``outer`` one."""

    def __init__(self, outer: Replay) -> None:
        super().__init__(outer._writer, "", outer._max_length)
        self._outer = outer

    def say(self, text: str) -> None:
        self._said.append(text)
        self._length += len(text)
        if self._length > self._max_length:
            self._refuse_more()

    def say_question(self, question: str) -> None:
        self._outer.say_question(question)

    def withdraw_rest(self) -> None:
        self._outer.withdraw_rest()
