"""A pending reply follows its message from turn to turn, without a timer."""

import pytest

from palaver.errors import Overloaded
from palaver.ledger import HistoryEntry, Receipt, Snapshot
from palaver.messages import (
    Attachment,
    Citation,
    Cursor,
    Finished,
    Problem,
    Question,
    Received,
    Text,
    TextReset,
)
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


@pytest.mark.parametrize(("position", "is_cut"), [(9, True), (0, True), (21, False)])
async def test_withdrawn_text_is_not_in_the_reply(position: int, is_cut: bool) -> None:
    reply = joined_reply()
    reply.on_event(TextReset(turn="t", position=position), None)
    assert reply.text == "the first turn's text"[:position]
    assert reply.was_reset is is_cut
    reply.on_event(Finished(turn="t", outcome="done", length=position, messages=("m",)), None)
    assert (await reply.wait()).text == "the first turn's text"[:position]


async def test_text_that_another_attempt_writes_again_replaces_the_first() -> None:
    reply = joined_reply()
    reply.on_event(Text(turn="t", position=4, text="other words"), None)
    assert (reply.text, reply.was_reset) == ("the other words", True)


@pytest.mark.parametrize("is_over", [False, True])
async def test_a_shutdown_before_the_message_is_answered_is_an_error(is_over: bool) -> None:
    reply = joined_reply()
    if is_over:
        reply.on_event(Finished(turn="t", outcome="done", length=21, messages=("a",)), None)
    reply.on_shutdown()
    with pytest.raises(Overloaded, match="repeat the request"):
        await reply.wait()


async def test_a_reply_of_the_history_has_its_parts() -> None:
    citation = Citation(number=1, document="d", title="T", passage="p")
    attachment = Attachment(name="a.txt", media_type="text/plain", url="data:,x")
    entry = HistoryEntry(
        role="assistant",
        text="said [1]",
        turn="t",
        at=1.0,
        outcome="done",
        citations=(citation,),
        attachments=(attachment,),
        question=Question(text="said", options=("a", "b")),
        problem=Problem("skill", "It failed."),
        finish_reason="length",
    )
    reply = PendingReply("m", Receipt(turn="t", ahead=0, duplicate=True))
    reply.on_snapshot(Snapshot(cursor=Cursor("e", 1), history=(entry,), pending=()))
    result = await reply.wait()
    assert (result.text, result.citations, result.attachments) == (
        "said [1]", (citation,), (attachment,)
    )  # fmt: skip
    assert (result.question, result.options) == ("said", ("a", "b"))
    assert (result.problem, result.finish_reason) == (entry.problem, "length")
