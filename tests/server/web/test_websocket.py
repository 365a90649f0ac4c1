"""The websocket protocol, as docs/protocol.md describes it."""

import asyncio
import contextlib
import json

import aiohttp
import pytest
from tests.chaos.proxy import Disconnect, FaultProxy
from tests.server.web.live_server import (
    TIMEOUT_SECONDS,
    ConnectionEnded,
    LiveServer,
    WebSocketClient,
    eventually,
    open_live_server,
)

from palaver.config.settings import ConnectionSettings, DispatchSettings
from palaver.errors import LedgerUnavailable, Overloaded
from palaver.ledger import INBOX_LIMIT
from palaver.messages import Conversation
from palaver.testing import MemoryLedger

pytestmark = pytest.mark.slow


async def test_a_message_is_acknowledged_and_answered_in_order(live_server: LiveServer) -> None:
    async with live_server.connect("t") as client:
        turn = await client.send_message("hello there", id="m1")
        assert await client.wait_for_reply(turn) == "hello there "
        kinds = [frame["type"] for frame in client.frames if frame["type"] != "text"]
        assert kinds[0] == "welcome"
        assert sorted(kinds[1:3]) == ["ack", "message"]
        assert kinds[3:] == ["started", "routed", "finished"]


async def test_the_welcome_of_a_new_conversation_is_an_empty_snapshot(
    live_server: LiveServer,
) -> None:
    async with live_server.open_websocket() as client:
        welcome = await client.hello("new")
    assert welcome["recovered"] is False
    assert welcome["snapshot"] == {"history": [], "pending": []}
    assert welcome["person"] == "ada"
    assert welcome["max_message_bytes"] == 1_000_000


async def test_stored_events_have_a_cursor_and_live_text_has_none(
    live_server: LiveServer,
) -> None:
    async with live_server.connect("t") as client:
        turn = await client.send_message("/scripted x")
        live_server.scripted.emit("once ", end=False)
        live = await client.wait_for("text", turn=turn)
        live_server.scripted.emit()
        await client.wait_for_reply(turn)
    assert "cursor" not in live
    recorded = [f["cursor"] for f in client.frames if f["type"] not in ("text", "ack", "welcome")]
    offsets = [int(cursor.rpartition(":")[2]) for cursor in recorded]
    assert offsets == sorted(offsets)
    assert offsets[0] == 1


async def test_live_text_does_not_wait_for_the_ledger(live_server: LiveServer) -> None:
    async with live_server.connect("t") as client:
        turn = await client.send_message("/scripted x")
        live_server.scripted.emit("first", end=False)
        assert (await client.wait_for("text"))["text"] == "first"
        snapshot = await live_server.server.snapshot(_conversation("t"))
        assert snapshot.pending[0].reply == ""
        live_server.scripted.emit()
        await client.wait_for_reply(turn)


def _conversation(thread: str) -> Conversation:
    return Conversation("default", "web", thread)


async def test_the_same_id_twice_is_one_message(live_server: LiveServer) -> None:
    async with live_server.connect("t") as client:
        first = await client.send_message("hello", id="same")
        await client.wait_for_reply(first)
        await client.send({"type": "send", "id": "same", "text": "hello"})
        ack = await client.wait_for("ack")
        assert (ack["turn"], ack["duplicate"]) == (first, True)
        await client.send({"type": "send", "id": "same", "text": "something else"})
        error = await client.wait_for("error")
        assert (error["code"], error["id"]) == ("conflict", "same")


async def test_a_waiting_turn_has_the_number_of_turns_ahead(
    live_server: LiveServer,
) -> None:
    async with live_server.connect("t") as client:
        await client.send_message("/scripted x")
        await client.send({"type": "send", "id": "second", "text": "and then"})
        assert (await client.wait_for("ack"))["ahead"] == 1
        live_server.scripted.emit("done")
        await client.wait_for("finished")
        await client.wait_for("finished")


async def test_a_full_inbox_refuses_with_an_error_frame(live_server: LiveServer) -> None:
    async with live_server.connect("t") as client:
        await client.send_message("/scripted x")
        await client.wait_for("started")
        for number in range(INBOX_LIMIT + 1):
            await client.send({"type": "send", "id": f"m{number}", "text": "/scripted x"})
        error = await client.wait_for("error")
        assert (error["code"], error["id"]) == ("too_many", f"m{INBOX_LIMIT}")


async def test_stop_ends_the_turn_and_keeps_its_text(live_server: LiveServer) -> None:
    async with live_server.connect("t") as client:
        turn = await client.send_message("/scripted x")
        live_server.scripted.emit("once upon", end=False)
        await client.wait_for_text(turn, "once upon")
        await client.send({"type": "stop"})
        assert (await client.wait_for("stopped"))["turn"] == turn
        assert (await client.wait_for("finished"))["outcome"] == "stopped"
        assert client.texts[turn] == "once upon"
        await client.send({"type": "stop", "turn": turn})
        assert (await client.wait_for("stopped"))["state"] == "settled"
        await client.send({"type": "stop"})
        assert await client.wait_for("stopped") == {
            "type": "stopped",
            "turn": "",
            "state": "unknown",
        }


async def test_an_unknown_skill_is_refused_before_anything_is_stored(
    live_server: LiveServer,
) -> None:
    async with live_server.connect("t") as client:
        await client.send({"type": "send", "id": "1", "text": "x", "skill": "nobody"})
        error = await client.wait_for("error")
        assert (error["code"], error["id"]) == ("not_found", "1")
    assert not (await live_server.server.snapshot(_conversation("t"))).pending


async def test_a_skill_named_in_the_frame_answers(live_server: LiveServer) -> None:
    async with live_server.connect("t") as client:
        await client.send_message("please", skill="scholar")
        assert (await client.wait_for("routed"))["skill"] == "scholar"
        citation = (await client.wait_for("citation"))["citation"]
        assert citation["document"] == "handbook.md"
        assert (await client.wait_for("attachment"))["attachment"]["name"] == "leave.txt"


async def test_a_question_has_its_options_and_the_answer_continues_the_skill(
    live_server: LiveServer,
) -> None:
    async with live_server.connect("t") as client:
        await client.send_message("/waiter please")
        assert (await client.wait_for("question"))["options"] == ["tea", "coffee"]
        assert (await client.wait_for("finished"))["outcome"] == "asked"
        assert "One tea, please." in await client.wait_for_reply(await client.send_message("tea"))


async def test_a_failed_turn_has_a_problem_without_internals(
    live_server: LiveServer,
) -> None:
    async with live_server.connect("t") as client:
        await client.send_message("/clumsy go")
        finished = await client.wait_for("finished")
        assert finished["outcome"] == "failed"
        assert finished["problem"]["code"] == "skill"
        assert "ValueError" not in json.dumps(client.frames)


@pytest.mark.parametrize(
    "bad",
    ["", "no json", "[]", '"x"', "{}", '{"type":"dance"}', '{"type":"send","id":1,"text":"x"}',
     '{"type":"send","id":"","text":"x"}', '{"type":"hello","thread":"again"}', "[" * 5000],
)  # fmt: skip
async def test_a_malformed_frame_gets_an_error_and_the_connection_stays_open(
    live_server: LiveServer, bad: str
) -> None:
    async with live_server.connect("t") as client:
        await client.socket.send_str(bad)
        assert (await client.wait_for("error"))["code"] == "invalid_input"
        assert await client.wait_for_reply(await client.send_message("still here")) == "still here "


async def test_binary_frames_and_invalid_unicode_get_errors_too(live_server: LiveServer) -> None:
    async with live_server.connect("t") as client:
        await client.socket.send_bytes(b"{}")
        await client.wait_for("error", code="invalid_input")
        await client.socket.send_frame(
            b'{"type":"send","id":"1","text":"\xff"}', aiohttp.WSMsgType.TEXT
        )
        await client.wait_for("error", code="invalid_input")
        await client.send({"type": "ping"})
        await client.wait_for("pong")


async def test_a_message_above_the_limit_is_refused_and_nothing_is_stored(
    live_server: LiveServer,
) -> None:
    async with live_server.connect("t") as client:
        await client.send({"type": "send", "id": "1", "text": "x" * 1_000_000})
        assert (await client.wait_for("error"))["code"] == "too_large"
        await client.wait_for_reply(await client.send_message("small"))


async def test_ten_megabytes_close_the_connection_with_the_reason(live_server: LiveServer) -> None:
    async with live_server.connect("t") as client:
        sending = asyncio.create_task(
            client.send({"type": "send", "id": "1", "text": "x" * 10_000_000})
        )
        async with asyncio.timeout(TIMEOUT_SECONDS):
            closing = await client.socket.receive()
        await asyncio.gather(sending, return_exceptions=True)
        assert closing.data == 1009
        assert "1000000 bytes" in str(closing.extra)
    assert not (await live_server.server.snapshot(_conversation("t"))).pending


async def test_the_first_frame_must_be_a_hello(live_server: LiveServer) -> None:
    for first in ({"type": "ping"}, {"type": "hello"}, {"type": "hello", "thread": "a/b"},
                  {"type": "hello", "thread": "t", "since": "rubbish"}):  # fmt: skip
        async with live_server.open_websocket() as client:
            await client.send(first)
            await client.wait_for("error", code="invalid_input")
            assert await client.close_code() == 4400


async def test_a_client_without_a_hello_is_disconnected() -> None:
    connections = ConnectionSettings(hello_timeout=0.01)
    async with open_live_server(connections=connections) as live_server:
        async with live_server.open_websocket() as client:
            assert await client.close_code() == 4408
        assert b'palaver_limits_total{limit="hello_timeout"} 1.0' in (
            live_server.server.metrics.exposition()
        )


async def test_two_tabs_see_the_same(live_server: LiveServer) -> None:
    async with live_server.connect("t") as one, live_server.connect("t") as two:
        turn = await one.send_message("/scripted x")
        live_server.scripted.emit("both ", "see ", "this")
        assert await one.wait_for_reply(turn) == await two.wait_for_reply(turn) == "both see this"
        assert next(f for f in two.frames if f["type"] == "message")["text"] == "/scripted x"


async def test_a_lost_connection_does_not_stop_the_turn(live_server: LiveServer) -> None:
    async with live_server.connect("t") as client:
        turn = await client.send_message("/scripted x")
        live_server.scripted.emit("begun ", end=False)
        await client.wait_for_text(turn, "begun")
    live_server.scripted.emit("and ended")
    async with live_server.connect("t", since=client.cursor) as again:
        assert again.frames[0]["recovered"] is True
        again.texts = dict(client.texts)
        assert await again.wait_for_reply(turn) == "begun and ended"


async def test_start_replays_every_event(live_server: LiveServer) -> None:
    async with live_server.connect("t") as client:
        turn = await client.send_message("/scholar x")
        text = await client.wait_for_reply(turn)
    async with live_server.connect("t", since="start") as again:
        assert again.frames[0]["recovered"] is True
        assert "snapshot" not in again.frames[0]
        assert await again.wait_for_reply(turn) == text
        assert any(frame["type"] == "citation" for frame in again.frames)


async def test_a_cursor_of_another_epoch_gets_a_snapshot(live_server: LiveServer) -> None:
    async with live_server.connect("t") as client:
        turn = await client.send_message("hello")
        await client.wait_for_reply(turn)
    async with live_server.connect("t", since="otherlife:3") as again:
        welcome = again.frames[0]
        assert welcome["recovered"] is False
        assert [line["text"] for line in welcome["snapshot"]["history"]] == ["hello", "hello "]
        assert welcome["cursor"] == client.cursor


async def test_a_snapshot_has_the_running_reply_and_its_text_follows(
    live_server: LiveServer,
) -> None:
    async with live_server.connect("t") as client:
        turn = await client.send_message("/scripted x")
        live_server.scripted.emit("so far ", end=False)
        await client.wait_for("text", turn=turn)
        await _until_stored(live_server, "so far ")
        async with live_server.connect("t") as late:
            pending = late.frames[0]["snapshot"]["pending"]
            assert [(p["reply"], p["running"], p["messages"][0]["text"]) for p in pending] == [
                ("so far ", True, "/scripted x")
            ]
            live_server.scripted.emit("so good")
            assert await late.wait_for_reply(turn) == "so far so good"


async def _until_stored(live_server: LiveServer, text: str) -> None:
    async def stored() -> bool:
        snapshot = await live_server.server.snapshot(_conversation("t"))
        return snapshot.pending[0].reply == text

    await eventually(stored)


@pytest.mark.slow
async def test_a_reply_survives_a_broken_connection_at_every_byte() -> None:
    """Resuming with the cursor misses and repeats nothing, whichever byte the connection breaks at:
    `WebSocketClient` raises on a gap, and `wait_for_reply` compares the length."""
    text = "naïve 雨 😀 words"
    async with open_live_server() as live_server:
        async with live_server.connect("full") as client:
            expected = await client.wait_for_reply(await client.send_message(text))
        for budget in range(140, 1500, 13):
            await _cut_at(live_server, f"t{budget}", text, budget, expected)


async def _cut_at(
    live_server: LiveServer, thread: str, text: str, budget: int, expected: str
) -> None:
    async with FaultProxy(live_server.address, plan=lambda: Disconnect(budget)) as proxy:
        known = WebSocketClient(None)  # type: ignore[arg-type]
        with contextlib.suppress(ConnectionEnded, aiohttp.ClientError, ConnectionError):
            async with live_server.open_websocket(proxy.address) as client:
                known = client
                await client.hello(thread)
                await client.wait_for_reply(await client.send_message(text, id="m"))
    async with live_server.connect(thread, since=known.cursor) as again:
        again.texts = {**known.texts, **again.texts}
        turn = await again.send_message(text, id="m")
        if not any(f["type"] == "finished" for f in known.frames + again.frames):
            await again.wait_for("finished")
        assert again.texts[turn] == expected, budget


async def test_a_slow_reader_is_disconnected_and_can_resume() -> None:
    unlimited = DispatchSettings(max_reply_characters=1_000_000_000)
    async with open_live_server(send_queue_bytes=10_000, dispatch=unlimited) as live_server:
        pieces = 0
        async with live_server.connect("t") as slow:
            turn = await slow.send_message("/scripted x")
            protocol = slow.socket._response.connection.protocol  # type: ignore[union-attr]
            protocol.pause_reading()  # type: ignore[union-attr]
            async with asyncio.timeout(TIMEOUT_SECONDS):
                while live_server.server.metrics.exposition().count(b"palaver_subscriptions 1.0"):
                    live_server.scripted.emit("x" * 50_000, end=False)
                    pieces += 1
                    await asyncio.sleep(0)
            protocol.resume_reading()  # type: ignore[union-attr]
            assert await slow.close_code() == 4429
        assert b"palaver_slow_readers_total 1.0" in live_server.server.metrics.exposition()
        live_server.scripted.emit("the end")
        async with live_server.connect("t", since=slow.cursor) as again:
            again.texts = dict(slow.texts)
            assert await again.wait_for_reply(turn) == "x" * 50_000 * pieces + "the end"


async def test_a_large_snapshot_does_not_count_as_slow_reading() -> None:
    async with open_live_server(send_queue_bytes=10_000) as live_server:
        _, reply = await live_server.post(
            "/v1/conversations/t/messages?wait=true&person=ada", {"text": "word " * 40_000}
        )
        assert reply["outcome"] == "done"
        for since in (None, "start"):
            async with live_server.connect("t", since=since) as client:
                assert await client.wait_for_reply(await client.send_message("x")) == "x "


async def test_a_stopping_server_closes_with_1012(live_server: LiveServer) -> None:
    async with live_server.connect("t") as client:
        await client.send_message("/scripted x")
        stopping = asyncio.create_task(live_server.stop_listening())
        assert await client.close_code() == 1012
        await stopping


async def test_a_new_epoch_resets_the_connection() -> None:
    """An erased conversation has a new epoch, and its subscribers get a reset."""
    ledger = MemoryLedger()
    async with open_live_server(ledger=ledger) as live_server:
        async with live_server.connect("t") as client:
            await client.wait_for_reply(await client.send_message("secret"))
            await ledger.erase("default", "ada")
            (subscription,) = live_server.server._subscriptions._subscriptions[_conversation("t")]
            subscription.check()
            restart = await client.wait_for("reset")
            assert restart["recovered"] is False
            assert "secret" not in json.dumps(restart)


async def test_an_unexpected_error_fails_one_frame_and_not_the_connection(
    live_server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **about: object) -> None:
        raise ValueError("inside")

    async with live_server.connect("t") as client:
        with monkeypatch.context() as broken:
            broken.setitem(vars(live_server.server), "accept", fail)
            await client.send({"type": "send", "id": "1", "text": "x"})
            error = await client.wait_for("error")
        assert (error["code"], error["id"]) == ("internal", "1")
        assert "inside" not in str(error)
        await client.wait_for_reply(await client.send_message("still here"))
    monkeypatch.setitem(vars(live_server.server), "subscribe", fail)
    async with live_server.open_websocket() as other:
        await other.send({"type": "hello", "thread": "t", "person": "ada"})
        assert await other.close_code() == 1011


async def test_an_overloaded_subscription_closes_with_1012(
    live_server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **about: object) -> None:
        raise Overloaded("it stops", retry_after=1)

    monkeypatch.setitem(vars(live_server.server), "subscribe", fail)
    async with live_server.open_websocket() as client:
        await client.send({"type": "hello", "thread": "t", "person": "ada"})
        assert (await client.wait_for("error"))["code"] == "overloaded"
        assert await client.close_code() == 1012


async def test_an_unavailable_ledger_closes_with_1013(
    live_server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **about: object) -> None:
        raise LedgerUnavailable("gone", retry_after=2)

    async with live_server.connect("t") as client:
        monkeypatch.setitem(vars(live_server.server), "accept", fail)
        await client.send({"type": "send", "id": "1", "text": "x"})
        error = await client.wait_for("error")
        assert (error["code"], error["retry_after"]) == ("ledger_unavailable", 2)
    monkeypatch.setitem(vars(live_server.server), "members", fail)
    async with live_server.open_websocket() as other:
        await other.send({"type": "hello", "thread": "t", "person": "ada"})
        assert await other.close_code() == 1013
    assert (await live_server.get("/v1/conversations/t"))[0] == 503
