"""What a channel has to post, from a snapshot of the conversation."""

from palaver.ledger import PendingTurn, Snapshot
from palaver.messages import (
    Citation,
    Cited,
    Conversation,
    Cursor,
    Finished,
    HistoryEntry,
    Message,
    Received,
    Started,
)
from palaver.platforms.turns import ConversationReplies

CONVERSATION = Conversation("default", "board", "t")
CITATION = Citation(number=1, document="d", title="Handbook", passage="30 days")


def settled(turn: str) -> tuple[HistoryEntry, HistoryEntry]:
    return (
        HistoryEntry(role="user", text=f"question {turn}", turn=turn, at=0.0, person="ada"),
        HistoryEntry(role="assistant", text=f"reply {turn}", turn=turn, at=0.0),
    )


def pending(turn: str, *, cited: bool = False) -> PendingTurn:
    message = Message(conversation=CONVERSATION, id=f"m-{turn}", person="ada", text="How long?")
    events = (Cited(turn=turn, citation=CITATION),) if cited else ()
    return PendingTurn(turn=turn, messages=(message,), running=True, reply="30", events=events)


def replies_of(snapshot: Snapshot, *posted: str) -> ConversationReplies:
    replies = ConversationReplies(Cursor("e", 0), posted)
    replies.on_snapshot(snapshot)
    return replies


def test_a_running_turn_has_what_its_events_have_told() -> None:
    snapshot = Snapshot(cursor=Cursor("e", 5), history=(), pending=(pending("a", cited=True),))
    reply = replies_of(snapshot).first()
    assert reply is not None
    assert (reply.person, reply.request, reply.messages) == ("ada", "How long?", ["m-a"])
    assert (reply.text, reply.citations) == ("30", [CITATION])


def test_settled_turns_that_are_not_posted_come_first() -> None:
    history = tuple(entry for turn in "abc" for entry in settled(turn))
    snapshot = Snapshot(cursor=Cursor("e", 9), history=history, pending=(pending("d"),))
    replies = replies_of(snapshot, "a")
    assert list(replies.turns) == ["b", "c", "d"]
    assert replies.turns["b"].request == "question b"
    assert replies.turns["b"].text == "reply b"


def test_a_turn_that_goes_before_others_comes_first_when_it_begins() -> None:
    replies = ConversationReplies(Cursor("e", 0), ())
    for turn in ("a", "c", "b"):
        replies.on_event(Received(turn=turn, id=f"m-{turn}", person="ada", text=turn), None)
    for turn in ("a", "b"):
        replies.on_event(Started(turn=turn, attempt=1), None)
        replies.on_event(Finished(turn=turn, outcome="done", length=0), None)
    assert list(replies.turns) == ["a", "b", "c"]
    assert [turn.has_begun for turn in replies.turns.values()] == [True, True, False]
