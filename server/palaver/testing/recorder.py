"""RecordingSubscriber: a subscriber that keeps what it receives of a conversation."""

import asyncio
from typing import Any

from palaver.ledger import Snapshot
from palaver.messages import Cursor, Event, Finished, Received, Started, Text, TextReset

TIMEOUT_SECONDS = 5.0
"""Seconds within which a test's reply must arrive."""


class RecordingSubscriber:
    """Subscriber that keeps the text and the events of each turn.

    It places text by position, as a client does. Text that leaves a gap raises `AssertionError`.
    """

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        """The reply so far, by turn."""
        self.events: dict[str, list[Event]] = {}
        """Every event except text, by turn."""
        self.turns: dict[str, str] = {}
        """The turn that has a message, by message id; a message may be moved to another turn."""
        self.cursor: Cursor | None = None
        self.snapshots: list[Snapshot] = []
        self.is_shut_down = False
        self._changed = asyncio.Event()

    def on_event(self, event: Event, cursor: Cursor | None) -> None:
        if cursor is not None:
            self.cursor = cursor
        text = self.texts.setdefault(event.turn, "")
        if isinstance(event, Received):
            self.turns[event.id] = event.turn
        if isinstance(event, Text):
            if event.position > len(text):
                raise AssertionError(f"a gap: {event} after {len(text)} characters")
            self.texts[event.turn] = text + event.text[len(text) - event.position :]
        elif isinstance(event, TextReset) or (isinstance(event, Started) and event.attempt > 1):
            self.texts[event.turn] = text[: event.position]
        if not isinstance(event, Text):
            self.events.setdefault(event.turn, []).append(event)
        self._changed.set()

    def on_snapshot(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)
        self.cursor = snapshot.cursor
        for entry in snapshot.history:
            if entry.role == "assistant":
                self.texts[entry.turn] = entry.text
        for turn in snapshot.pending:
            self.turns |= {message.id: turn.turn for message in turn.messages}
            self.texts[turn.turn] = turn.reply
        self._changed.set()

    def on_shutdown(self) -> None:
        self.is_shut_down = True
        self._changed.set()

    def events_of(self, turn: str, kind: type[Any]) -> list[Any]:  # Any: events of that kind
        """Return a turn's events of one class, such as `Finished`."""
        return [event for event in self.events.get(turn, ()) if isinstance(event, kind)]

    async def wait_for(self, turn: str, *, text: str | None = None) -> None:
        """Wait until the turn is finished, or until its reply contains ``text``.

        Raises `TimeoutError` after `TIMEOUT_SECONDS`.
        """
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while not self._has(turn, text):
                self._changed.clear()
                await self._changed.wait()

    def _has(self, turn: str, text: str | None) -> bool:
        if text is not None:
            return text in self.texts.get(turn, "")
        return bool(self.events_of(turn, Finished))
