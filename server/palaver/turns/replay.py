"""Voice: what a turn says, held against what an earlier run of it has said already."""

from palaver.turns.writer import TurnWriter


class Replay:
    """Says each character once, however often the skill is run.

    ``stored`` is what the ledger holds of the reply when the run begins.
    """

    def __init__(self, transcript: TurnWriter, stored: str) -> None:
        self._transcript = transcript
        self._said: list[str] = []
        self._length = 0
        self._before = 0
        """Characters that earlier turns said, in a turn that continues after a question."""
        self._unreplayed = stored
        """What is stored of the reply beyond what this run has said."""

    @property
    def text(self) -> str:
        """What this run has said."""
        return "".join(self._said)

    def say(self, text: str) -> None:
        self._said.append(text)
        if self._unreplayed:
            text = self._beyond_stored(text)
        self._length += len(text)
        if text:
            self._transcript.write_text(text)

    def _beyond_stored(self, text: str) -> str:
        """The part of ``text`` that is not stored yet. Text that differs from what is stored
        withdraws it."""
        held = self._unreplayed[: len(text)]
        if not text.startswith(held):
            self.withdraw_rest()
            return text
        self._unreplayed = self._unreplayed[len(held) :]
        self._length += len(held)
        return text[len(held) :]

    def say_question(self, question: str) -> None:
        """Say it, set apart from what comes before in this turn's reply."""
        # What is stored tells how the question was set apart when it was asked.
        apart = self._unreplayed.startswith("\n\n") or (
            not self._unreplayed and self._length > self._before
        )
        self.say("\n\n" + question if apart else question)

    def replay_rest(self) -> str:
        """Say all that is stored, as the beginning of what comes now."""
        rest = self._unreplayed
        self.say(rest)
        return rest

    def withdraw_rest(self) -> None:
        """Withdraw what is stored and this run does not say."""
        position = max(0, self._length - self._before)
        if self._unreplayed and position < self._transcript.length:
            self._transcript.truncate(position)
        self._unreplayed = ""

    def resume(self, said: str) -> None:
        """Go on from what earlier turns have said."""
        self._before = len(said)
        self._unreplayed = said + self._unreplayed
