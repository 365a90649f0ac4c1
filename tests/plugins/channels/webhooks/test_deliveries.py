"""The outbox of a conversation keeps its deliveries, and never more than the ledger takes."""

import logging

import pytest

from palaver import MAX_RECORD_BYTES, Cursor, encode
from palaver.platforms import TurnReply
from palaver.platforms.outbox import OutboxContent
from palaver_plugins.channels.webhooks.deliveries import (
    MAX_PAUSE,
    RETRY_SECONDS,
    Deliveries,
    read_delivery,
)

NOW = 1_000.0


def add(deliveries: Deliveries, turn: str, *messages: str) -> None:
    reply = TurnReply(turn, messages=list(messages), outcome="done")
    deliveries.add(reply, Cursor("epoch", 1), NOW)


def test_an_outbox_that_is_full_loses_its_oldest_deliveries(
    caplog: pytest.LogCaptureFixture,
) -> None:
    content = OutboxContent()
    deliveries = Deliveries(content, RETRY_SECONDS)
    for number in range(400):
        add(deliveries, f"turn-{number}", *(f"{'m' * 126}{each:02}" for each in range(30)))
    assert 50 < len(content.open) < 400
    assert content.open[-1].turn == "turn-399"
    first = 400 - len(content.open)
    assert content.open[0].turn == f"turn-{first}"
    assert deliveries.knows(f"turn-{first - 1}")
    assert len(encode(content)) < MAX_RECORD_BYTES
    assert caplog.records[-1].levelno == logging.ERROR
    assert "that of turn turn-" in caplog.text


def test_attempts_without_an_end_are_counted_and_wait_as_well() -> None:
    """A process that dies in every attempt must not repeat it for ever."""
    content = OutboxContent()
    deliveries = Deliveries(content, RETRY_SECONDS)
    add(deliveries, "turn")
    now = NOW
    for seconds in (*RETRY_SECONDS, RETRY_SECONDS[-1]):
        turn = deliveries.due(now)
        assert turn is not None
        assert deliveries.begin_attempt(turn, now)
        assert deliveries.due(now + seconds * 0.79) is None
        now += seconds * 1.21
    turn = deliveries.due(now)
    assert turn is not None
    assert not deliveries.begin_attempt(turn, now)


def test_a_clock_that_is_set_back_delays_nothing_for_long() -> None:
    content = OutboxContent()
    deliveries = Deliveries(content, RETRY_SECONDS)
    add(deliveries, "turn")
    turn = deliveries.due(NOW)
    assert turn is not None
    deliveries.begin_attempt(turn, NOW)
    assert deliveries.due(NOW) is None
    assert deliveries.due(NOW - MAX_PAUSE) is turn


def test_a_longer_wait_than_a_day_is_not_granted() -> None:
    content = OutboxContent()
    deliveries = Deliveries(content, RETRY_SECONDS)
    add(deliveries, "turn")
    turn = content.open[0]
    deliveries.begin_attempt(turn, NOW)
    assert deliveries.postpone(turn, NOW, retry_after=1e9)
    assert read_delivery(turn).due_at - NOW <= MAX_PAUSE
    assert deliveries.due(NOW) is None
