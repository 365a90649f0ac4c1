"""Stream: one conversation's stored events, assembled into texts as a client would."""

from tests.chaos.findings import Findings

from palaver.ledger import Ledger
from palaver.messages import (
    Conversation,
    Event,
    Finished,
    Message,
    Received,
    Started,
    Text,
    TextReset,
)

PAGE = 1000
TurnMessages = dict[str, dict[str, Message]]
"""By turn and message id, in the order of the turns."""


class AssembledStream:
    """The replies of a stream, put together event by event. Violations go to ``findings``."""

    def __init__(self, label: str, findings: Findings) -> None:
        self.replies: dict[str, str] = {}
        """Texts of the finished turns."""
        self._label = label
        self._findings = findings
        self._texts: dict[str, str] = {}
        self._turn_of_message: dict[str, str] = {}
        self._moves: list[tuple[str, str, str]] = []
        """Message id, the turn before and the turn after."""

    def apply(self, event: Event) -> None:
        """Apply the next event of the stream."""
        if isinstance(event, Received):
            self._apply_received(event)
        elif isinstance(event, Text):
            self._apply_text(event)
        elif isinstance(event, TextReset):
            self._texts[event.turn] = self._texts.get(event.turn, "")[: event.position]
        elif isinstance(event, Started):
            if event.position != len(self._texts.get(event.turn, "")):
                self._findings.record("gaps", f"{self._label}: {event}")
        elif isinstance(event, Finished):
            self._apply_finished(event)

    def _apply_received(self, event: Received) -> None:
        before = self._turn_of_message.get(event.id)
        if event.moved and before is not None:
            self._moves.append((event.id, before, event.turn))
        elif before is not None:
            self._findings.record("duplicated", f"{self._label}: message {event.id} recorded twice")
        self._turn_of_message[event.id] = event.turn

    def _apply_text(self, event: Text) -> None:
        text = self._texts.get(event.turn, "")
        if event.position != len(text):
            kind = "duplicated" if event.position < len(text) else "gaps"
            self._findings.record(kind, f"{self._label}: {event} after {len(text)} characters")
        self._texts[event.turn] = text[: event.position] + event.text

    def _apply_finished(self, event: Finished) -> None:
        text = self._texts.get(event.turn, "")
        if event.turn in self.replies:
            self._findings.record("duplicated", f"{self._label}: {event.turn} closed twice")
        if event.length != len(text):
            self._findings.record("wrong", f"{self._label}: {event} for {len(text)} characters")
        self.replies[event.turn] = text

    def with_moves(self, turns: TurnMessages) -> TurnMessages:
        """Return ``turns`` after every recorded move of a message to another turn.

        ``turns`` has each message in the turn that its receipt named.
        """
        moved = {turn: dict(messages) for turn, messages in turns.items()}
        for message, before, after in self._moves:
            moved = _insert_after(moved, after, before)
            for turn, messages in moved.items():
                if turn != after and message in messages:
                    moved[after][message] = messages.pop(message)
        return {turn: messages for turn, messages in moved.items() if messages}


def _insert_after(turns: TurnMessages, turn: str, predecessor: str) -> TurnMessages:
    """Return ``turns`` with ``turn``, which may be new, directly after ``predecessor``."""
    own = turns.get(turn, {})
    ordered: TurnMessages = {}
    for other, messages in turns.items():
        if other != turn:
            ordered[other] = messages
        if other == predecessor:
            ordered[turn] = own
    return ordered if turn in ordered else {**ordered, turn: own}


async def assemble_stream(
    ledger: Ledger, conversation: Conversation, findings: Findings
) -> AssembledStream:
    """Read and assemble the whole stored stream of a conversation."""
    stream = AssembledStream(str(conversation), findings)
    offset = 0
    while True:
        page = await ledger.read(conversation, offset, PAGE)
        for item in page.events:
            if item.offset != offset + 1:
                findings.record("gaps", f"{conversation}: {item.offset} after {offset}")
            offset = item.offset
            stream.apply(item.event)
        if offset >= page.last or not page.events:
            return stream
