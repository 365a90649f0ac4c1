"""Replies of a conversation that a channel has to post, put together from its events."""

import asyncio
import copy
from collections.abc import Collection

from palaver.ledger import HistoryEntry, Snapshot
from palaver.messages import Cursor, Event, Received, Started
from palaver.replies import TurnReply, settled_reply


class ConversationReplies:
    """The turns of a conversation whose replies are not posted yet, as a `Subscriber`."""

    def __init__(self, since: Cursor, posted: Collection[str]) -> None:
        self.turns: dict[str, TurnReply] = {}
        """By id, in the order in which they run."""
        self.cursor = since
        self.changed = asyncio.Event()
        """Set after every change; the reader clears it."""
        self.is_shut_down = False
        self._posted = posted
        """The newest turns whose replies are posted."""

    def first(self) -> TurnReply | None:
        """Return the first turn as it is now: it may go on while it is posted."""
        return next((copy.deepcopy(turn) for turn in self.turns.values()), None)

    def on_event(self, event: Event, cursor: Cursor | None) -> None:
        self.cursor = cursor or self.cursor
        if isinstance(event, Received):
            self._receive(event)
        elif turn := self.turns.get(event.turn):
            if isinstance(event, Started):
                self._begin(turn)
            turn.apply(event)
        self.changed.set()

    def _begin(self, turn: TurnReply) -> None:
        """Put a turn before those that wait: it may have been accepted after them."""
        earlier = {id: each for id, each in self.turns.items() if each.has_begun or each.outcome}
        self.turns = {**earlier, turn.turn: turn, **self.turns}

    def _receive(self, event: Received) -> None:
        if event.moved:
            for turn in self.turns.values():
                if event.id in turn.messages:
                    turn.messages.remove(event.id)
        if event.turn in self._posted:
            return
        turn = self.turns.setdefault(event.turn, TurnReply(event.turn, event.person, event.text))
        if event.id not in turn.messages:
            turn.messages.append(event.id)

    def on_snapshot(self, snapshot: Snapshot) -> None:
        self.cursor = snapshot.cursor
        self.turns = {}
        requests: dict[str, HistoryEntry] = {}
        for entry in snapshot.history:
            if entry.role == "user":
                requests.setdefault(entry.turn, entry)
            else:
                self.turns[entry.turn] = settled_reply(entry, requests.get(entry.turn))
            if entry.turn in self._posted:
                self.turns = {}  # and those before it were posted too
        for pending in snapshot.pending:
            if pending.turn in self._posted:
                continue
            turn = self.turns[pending.turn] = TurnReply(
                pending.turn,
                pending.messages[0].person,
                pending.messages[0].text,
                [message.id for message in pending.messages],
                text=pending.reply,
                skill=pending.skill,
                has_begun=pending.running or bool(pending.reply),
            )
            for event in pending.events:
                turn.apply(event)
        self.changed.set()

    def on_shutdown(self) -> None:
        self.is_shut_down = True
        self.changed.set()
