"""The events of a run, made of those of the ledger: also when text is withdrawn."""

import json

from tests.plugins.channels.agui.support import Client, Json, read_event, run_input, user

from palaver.ledger import PendingTurn, Receipt, Snapshot
from palaver.messages import (
    Conversation,
    Cursor,
    Event,
    HistoryEntry,
    Message,
    Received,
    Started,
    Text,
    TextReset,
    ToolCalled,
    ToolState,
    ToolUse,
    encode,
)
from palaver_plugins.channels.agui.reply import AguiReply
from palaver_plugins.channels.agui.run_events import RunEvents
from palaver_plugins.channels.agui.run_input import read_run

TURN = "turn-1"


def begin(*messages: Json) -> tuple[AguiReply, RunEvents]:
    run = read_run(json.dumps(run_input(*(messages or (user("hello"),)))).encode())
    return AguiReply("id-1", Receipt(turn=TURN, ahead=0, duplicate=False)), RunEvents(run)


def changes(reply: AguiReply, events: RunEvents, *stored: Event) -> list[Json]:
    for event in stored:
        reply.on_event(event, None)
    return [read_event(encode(event)) for event in events.changes(reply)]


def text(position: int, words: str, turn: str = TURN) -> Text:
    return Text(turn=turn, position=position, text=words)


def call(state: ToolState, result: str = "") -> ToolCalled:
    arguments = {"n": 1}
    return ToolCalled(
        turn=TURN, call="c-1", name="add", arguments=arguments, state=state, result=result
    )


async def test_a_takeover_shortens_the_message_and_continues_it() -> None:
    reply, events = begin()
    client = Client(user("hello"))
    client.apply(changes(reply, events, Started(turn=TURN, attempt=1), text(0, "one two")))
    client.apply(changes(reply, events, call("started")))
    assert client.reply == "one two"
    fresh = changes(reply, events, Started(turn=TURN, attempt=2, position=4))
    assert [event["type"] for event in fresh] == ["MESSAGES_SNAPSHOT"]
    assert client.apply(fresh).reply == "one "
    fresh = changes(reply, events, text(4, "three"), call("done", "2"))
    assert [event["type"] for event in fresh] == ["TOOL_CALL_RESULT", "TEXT_MESSAGE_CONTENT"]
    message = client.apply(fresh).message(TURN)
    assert message is not None
    assert message["content"] == "one three"
    assert [each["id"] for each in message["toolCalls"]] == ["c-1"]


async def test_a_reset_withdraws_all_text() -> None:
    reply, events = begin()
    client = Client(user("hello")).apply(changes(reply, events, text(0, "wrong")))
    client.apply(changes(reply, events, TextReset(turn=TURN, position=0), text(0, "right")))
    assert client.reply == "right"
    client = Client(user("hello"))
    reply, events = begin()
    client.apply(changes(reply, events, text(0, "wrong")))
    fresh = changes(reply, events, TextReset(turn=TURN, position=0))
    assert client.apply(fresh).messages == [user("hello")]


async def test_a_message_that_moves_to_another_turn_leaves_nothing_of_the_first() -> None:
    reply, events = begin()
    client = Client(user("hello")).apply(changes(reply, events, text(0, "for others")))
    moved = Received(turn="turn-2", id="id-1", person="ada", text="hello", moved=True)
    client.apply(changes(reply, events, moved, text(0, "for you", "turn-2")))
    assert [message["content"] for message in client.messages] == ["hello", "for you"]
    assert client.messages[-1]["id"] == "turn-2"
    assert TURN not in client.open_texts


async def test_a_snapshot_of_a_running_turn_replaces_what_was_sent() -> None:
    reply, events = begin()
    client = Client(user("hello")).apply(changes(reply, events, text(0, "old text")))
    message = Message(
        conversation=Conversation("default", "agui", "t"), id="id-1", person="ada", text="hello"
    )
    pending = PendingTurn(
        turn=TURN, messages=(message,), running=True, reply="new", events=(call("done", "2"),)
    )
    reply.on_snapshot(Snapshot(cursor=Cursor("e", 1), history=(), pending=(pending,)))
    client.apply(changes(reply, events))
    assert [it["content"] for it in client.messages] == ["hello", "new", "2"]


async def test_a_reply_that_is_read_from_the_history_has_its_calls() -> None:
    reply, events = begin()
    entry = HistoryEntry(
        role="assistant",
        text="three",
        turn=TURN,
        at=1.0,
        outcome="done",
        skill="chat",
        tools=(ToolUse(name="add", state="done", result="3"),),
    )
    reply.on_snapshot(Snapshot(cursor=Cursor("e", 1), history=(entry,), pending=()))
    client = Client(user("hello")).apply(changes(reply, events))
    assert [it["content"] for it in client.messages] == ["hello", "three", "3"]
    finished = [read_event(encode(event)) for event in events.finished(await reply.wait())]
    assert [event["type"] for event in finished] == ["RUN_FINISHED"]


async def test_messages_of_the_reply_in_the_transcript_are_not_doubled() -> None:
    part = {"id": TURN, "role": "assistant", "content": "on", "name": None}
    result = {"id": "x", "role": "tool", "toolCallId": "c-1", "content": "2"}
    reply, events = begin(user("hello"), part, result)
    reply.was_reset = True
    client = Client(user("hello"), part, result)
    client.apply(changes(reply, events, call("done", "2"), text(0, "one")))
    assert [it["id"] for it in client.messages] == ["m-1", TURN, "c-1.result"]
