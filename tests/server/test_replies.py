"""A pending reply follows its message from turn to turn, without a timer."""

import pytest

from palaver.errors import Overloaded
from palaver.ledger import Receipt
from palaver.messages import Finished, Received, Text
from palaver.replies import PendingReply


def joined_reply() -> PendingReply:
    """Return the reply to message ``m``, which was handed to the running turn ``t``."""
    reply = PendingReply("m", Receipt(turn="t", ahead=0, duplicate=False, joined=True))
    reply.on_event(Text(turn="t", position=0, text="the first turn's text"), None)
    return reply


async def test_a_turn_that_took_the_message_completes_its_reply_at_once() -> None:
    reply = joined_reply()
    reply.on_event(Finished(turn="t", outcome="done", length=21, messages=("a", "m")), None)
    assert reply.is_finished
    result = await reply.wait()
    assert (result.turn, result.text) == ("t", "the first turn's text")
    assert not reply.was_reset


async def test_a_turn_that_did_not_take_the_message_does_not_complete_its_reply() -> None:
    reply = joined_reply()
    reply.on_event(Finished(turn="t", outcome="done", length=21, messages=("a",)), None)
    assert not reply.is_finished
    reply.on_event(Received(turn="u", id="m", person="ada", text="x", moved=True), None)
    reply.on_event(Text(turn="u", position=0, text="its own"), None)
    assert not reply.is_finished
    reply.on_event(Finished(turn="u", outcome="done", length=7, messages=("m",)), None)
    result = await reply.wait()
    assert (result.turn, result.text) == ("u", "its own")
    assert reply.was_reset


async def test_a_message_of_another_client_that_moves_changes_nothing() -> None:
    reply = joined_reply()
    reply.on_event(Received(turn="u", id="other", person="ada", text="x", moved=True), None)
    reply.on_event(Finished(turn="u", outcome="done", length=0, messages=("other",)), None)
    assert not reply.is_finished
    assert reply.receipt.turn == "t"


@pytest.mark.parametrize("is_over", [False, True])
async def test_a_shutdown_before_the_message_is_answered_is_an_error(is_over: bool) -> None:
    reply = joined_reply()
    if is_over:
        reply.on_event(Finished(turn="t", outcome="done", length=21, messages=("a",)), None)
    reply.on_shutdown()
    with pytest.raises(Overloaded, match="repeat the request"):
        await reply.wait()
