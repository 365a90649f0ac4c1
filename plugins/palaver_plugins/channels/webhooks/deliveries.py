"""Deliveries: the events of a conversation that its endpoint has not taken, as its outbox has them.

A delivery is noted before it is tried, with the number of attempts and the time of the next one, so
that another process continues where one has died. The reply itself stays in the ledger alone: it is
read again for every attempt, and an erased one is not delivered.
"""

import logging
import random
from collections.abc import Iterator, Sequence

import msgspec

from palaver import MAX_RECORD_BYTES, Cursor, encode
from palaver.platforms import TurnReply
from palaver.platforms.outbox import MAX_POSTED_TURNS, OpenTurn, OutboxContent, Post
from palaver_plugins.channels.webhooks.events import event_id

RETRY_SECONDS = (
    *(5.0, 30.0, 120.0, 600.0, 1_800.0, 3_600.0, 7_200.0, 14_400.0, 28_800.0),
    *(43_200.0,) * 5,
)
"""Default of the pauses after failed attempts, about three days in all. After the last attempt, a
delivery is parked: it stays in the outbox and is not tried again until an operator asks for it."""
JITTER = 0.2
MAX_RETRY_AFTER = 86_400.0
"""Seconds for which a receiver may ask to be left alone."""
MAX_PAUSE = MAX_RETRY_AFTER * (1 + JITTER)
MAX_MESSAGES = 20
"""Ids of messages that an event names."""
MAX_CONTENT_BYTES = MAX_RECORD_BYTES * 3 // 4

log = logging.getLogger(__name__)


class Delivery(msgspec.Struct, omit_defaults=True):
    """State of a delivery, which its `Post` keeps in its notes. ``due_at`` is by the ledger's
    clock. ``problem``: why it is parked. ``is_forced``: an operator has asked for it."""

    due_at: float = 0.0
    attempts: int = 0
    cursor: str = ""
    messages: str = ""
    problem: str = ""
    is_forced: bool = False


class Deliveries:
    """The deliveries of one outbox, the oldest first."""

    def __init__(self, content: OutboxContent, pauses: Sequence[float]) -> None:
        self._content = content
        self._pauses = pauses

    def add(self, reply: TurnReply, cursor: Cursor, now: float) -> None:
        """Note the event of a turn that has ended."""
        assert reply.outcome is not None
        post = Post(id=event_id(reply.turn, reply.outcome))
        messages = " ".join(reply.messages[:MAX_MESSAGES])
        _write(post, Delivery(due_at=now, cursor=str(cursor), messages=messages))
        self._content.open.append(OpenTurn(reply.turn, [post]))
        self._make_room()

    def knows(self, turn: str) -> bool:
        return turn in self._content.posted or any(each.turn == turn for each in self._content.open)

    def due(self, now: float) -> OpenTurn | None:
        """Return the first turn whose delivery is due."""
        return next((turn for turn, due_in in self._waiting(now) if due_in <= 0), None)

    def next_due_in(self, now: float) -> float | None:
        """Return the seconds until the next attempt; None when nothing waits for one."""
        return min((due_in for _, due_in in self._waiting(now)), default=None)

    def _waiting(self, now: float) -> Iterator[tuple[OpenTurn, float]]:
        for turn in self._content.open:
            delivery = read_delivery(turn)
            if not delivery.problem:
                due_in = delivery.due_at - now
                # Later than any pause ends: the ledger's clock was set back.
                yield turn, due_in if due_in <= MAX_PAUSE else 0.0

    def begin_attempt(self, turn: OpenTurn, now: float) -> bool:
        """Count an attempt before it is made, and note when the next one is due if nothing is heard
        of this one. Return False when there were enough."""
        delivery = read_delivery(turn)
        if delivery.attempts > len(self._pauses):
            return False
        delivery.attempts += 1
        delivery.due_at = now + self._pause(delivery)
        turn.posts[0].is_sent = True
        _write(turn.posts[0], delivery)
        return True

    def postpone(self, turn: OpenTurn, now: float, retry_after: float) -> bool:
        """Let a delivery wait for its next attempt. Return False when there were enough."""
        delivery = read_delivery(turn)
        if delivery.attempts > len(self._pauses):
            return False
        wanted = min(retry_after, MAX_RETRY_AFTER) * random.uniform(1, 1 + JITTER)
        delivery.due_at = now + max(self._pause(delivery), wanted)
        _write(turn.posts[0], delivery)
        return True

    def park(self, turn: OpenTurn, problem: str) -> None:
        """Keep a delivery that failed for good, and tell why in the outbox's own problem."""
        delivery = read_delivery(turn)
        delivery.problem = problem
        _write(turn.posts[0], delivery)
        self._content.problem = problem

    def revive(self, now: float) -> None:
        """Try parked deliveries again, when an operator has removed the outbox's problem."""
        if self._content.problem:
            return
        for turn in self._content.open:
            delivery = read_delivery(turn)
            if delivery.problem:
                revived = Delivery(
                    due_at=now,
                    cursor=delivery.cursor,
                    messages=delivery.messages,
                    is_forced=True,
                )
                _write(turn.posts[0], revived)

    def _pause(self, delivery: Delivery) -> float:
        """Return the seconds between an attempt and the next one."""
        seconds = self._pauses[min(delivery.attempts, len(self._pauses)) - 1]
        return seconds * random.uniform(1 - JITTER, 1 + JITTER)

    def _make_room(self) -> None:
        """Give up the oldest deliveries where the outbox would be too large for the ledger."""
        content = self._content
        while len(content.open) > 1 and len(encode(content)) > MAX_CONTENT_BYTES:
            lost = content.open.pop(0)
            content.posted = [*content.posted, lost.turn][-MAX_POSTED_TURNS:]
            log.error("too many events wait for an endpoint: that of turn %s is lost", lost.turn)


def read_delivery(turn: OpenTurn) -> Delivery:
    return msgspec.convert(turn.posts[0].notes, Delivery, strict=False)


def _write(post: Post, delivery: Delivery) -> None:
    values = msgspec.to_builtins(delivery).items()
    post.notes = {name: str(value) for name, value in values}
