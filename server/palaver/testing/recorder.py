"""Screen: what one viewer of a conversation shows."""

import asyncio
from typing import Any

from palaver.ledger import Snapshot
from palaver.messages import Cursor, Event, Finished, Received, Started, Text, TextReset

TIMEOUT_SECONDS = 5.0
"""Seconds that a reply may take in a test."""


class RecordingSubscriber:
    """What one viewer of a conversation shows: a `Viewer` that keeps each turn's text and events.

    It heals text by position as a client does, so it also proves the stream: text that does not
    continue what is shown raises `AssertionError`.
    """

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.events: dict[str, list[Event]] = {}
        self.turns: dict[str, str] = {}
        """By message id the turn that has it: a message may be moved to another one."""
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
        for line in snapshot.history:
            if line.role == "assistant":
                self.texts[line.turn] = line.text
        for turn in snapshot.pending:
            self.turns |= {message.id: turn.turn for message in turn.messages}
            self.texts[turn.turn] = turn.reply
        self._changed.set()

    def events_of(self, turn: str, kind: type[Any]) -> list[Any]:  # Any: events of that kind
        return [event for event in self.events.get(turn, ()) if isinstance(event, kind)]

    def on_shutdown(self) -> None:
        self.is_shut_down = True
        self._changed.set()

    async def wait_for(self, turn: str, *, text: str | None = None) -> None:
        """Wait until the turn is finished, or has said ``text``."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while not self._has(turn, text):
                self._changed.clear()
                await self._changed.wait()

    def _has(self, turn: str, text: str | None) -> bool:
        if text is not None:
            return text in self.texts.get(turn, "")
        return bool(self.events_of(turn, Finished))
