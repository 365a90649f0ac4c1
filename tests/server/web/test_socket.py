"""The websocket protocol, as docs/protocol.md tells it."""

import asyncio
import contextlib
import json

import aiohttp
import pytest
from tests.chaos.proxy import Cut, CuttingProxy
from tests.server.web.house import PATIENCE, Broken, House, Wire, eventually, open_house

from palaver.errors import LedgerUnavailable, Overloaded
from palaver.ledger import INBOX_LIMIT
from palaver.messages import Conversation
from palaver.testing import MemoryLedger
from palaver.web import socket as socket_module


async def test_a_message_is_acknowledged_and_answered_in_order(house: House) -> None:
    async with house.client("t") as wire:
        turn = await wire.say("hello there", id="m1")
        assert await wire.finish(turn) == "hello there "
        kinds = [frame["type"] for frame in wire.frames if frame["type"] != "text"]
        assert kinds[0] == "welcome"
        assert sorted(kinds[1:3]) == ["ack", "message"]
        assert kinds[3:] == ["started", "routed", "finished"]


async def test_the_welcome_of_a_new_conversation_is_an_empty_snapshot(house: House) -> None:
    async with house.wire() as wire:
        welcome = await wire.hello("new")
    assert welcome["recovered"] is False
    assert welcome["snapshot"] == {"history": [], "pending": []}
    assert welcome["person"] == "ada"
    assert welcome["max_message_bytes"] == 1_000_000


async def test_recorded_events_carry_a_cursor_and_live_text_has_none(house: House) -> None:
    async with house.client("t") as wire:
        turn = await wire.say("/teller x")
        house.teller.tell("once ", end=False)
        live = await wire.until("text", turn=turn)
        house.teller.tell()
        await wire.finish(turn)
    assert "cursor" not in live
    recorded = [f["cursor"] for f in wire.frames if f["type"] not in ("text", "ack", "welcome")]
    offsets = [int(cursor.rpartition(":")[2]) for cursor in recorded]
    assert offsets == sorted(offsets)
    assert offsets[0] == 1


async def test_live_text_is_not_held_back_for_the_ledger(house: House) -> None:
    async with house.client("t") as wire:
        turn = await wire.say("/teller x")
        house.teller.tell("first", end=False)
        assert (await wire.until("text"))["text"] == "first"
        snapshot = await house.server.snapshot(_conversation("t"))
        assert snapshot.pending[0].reply == ""
        house.teller.tell()
        await wire.finish(turn)


def _conversation(thread: str) -> Conversation:
    return Conversation("default", "web", thread)


async def test_the_same_id_twice_is_one_message(house: House) -> None:
    async with house.client("t") as wire:
        first = await wire.say("hello", id="same")
        await wire.finish(first)
        await wire.send({"type": "send", "id": "same", "text": "hello"})
        ack = await wire.until("ack")
        assert (ack["turn"], ack["duplicate"]) == (first, True)
        await wire.send({"type": "send", "id": "same", "text": "something else"})
        error = await wire.until("error")
        assert (error["code"], error["id"]) == ("conflict", "same")


async def test_turns_of_a_conversation_wait_and_say_how_many_are_ahead(house: House) -> None:
    async with house.client("t") as wire:
        await wire.say("/teller x")
        await wire.send({"type": "send", "id": "second", "text": "and then"})
        assert (await wire.until("ack"))["ahead"] == 1
        house.teller.tell("done")
        await wire.until("finished")
        await wire.until("finished")


async def test_a_full_inbox_refuses_and_says_so(house: House) -> None:
    async with house.client("t") as wire:
        await wire.say("/teller x")
        await wire.until("started")
        for number in range(INBOX_LIMIT + 1):
            await wire.send({"type": "send", "id": f"m{number}", "text": "/teller x"})
        error = await wire.until("error")
        assert (error["code"], error["id"]) == ("too_many", f"m{INBOX_LIMIT}")


async def test_stop_ends_the_turn_and_keeps_what_was_said(house: House) -> None:
    async with house.client("t") as wire:
        turn = await wire.say("/teller x")
        house.teller.tell("once upon", end=False)
        await wire.until_text(turn, "once upon")
        await wire.send({"type": "stop"})
        assert (await wire.until("stopped"))["turn"] == turn
        assert (await wire.until("finished"))["outcome"] == "stopped"
        assert wire.texts[turn] == "once upon"
        await wire.send({"type": "stop", "turn": turn})
        assert (await wire.until("stopped"))["state"] == "settled"
        await wire.send({"type": "stop"})
        assert await wire.until("stopped") == {"type": "stopped", "turn": "", "state": "unknown"}


async def test_an_unknown_skill_is_refused_before_anything_is_stored(house: House) -> None:
    async with house.client("t") as wire:
        await wire.send({"type": "send", "id": "1", "text": "x", "skill": "nobody"})
        error = await wire.until("error")
        assert (error["code"], error["id"]) == ("not_found", "1")
    assert not (await house.server.snapshot(_conversation("t"))).pending


async def test_a_skill_named_in_the_frame_answers(house: House) -> None:
    async with house.client("t") as wire:
        await wire.say("please", skill="scholar")
        assert (await wire.until("routed"))["skill"] == "scholar"
        citation = (await wire.until("citation"))["citation"]
        assert citation["document"] == "handbook.md"
        assert (await wire.until("attachment"))["attachment"]["name"] == "leave.txt"


async def test_a_question_carries_its_options_and_the_answer_goes_on(house: House) -> None:
    async with house.client("t") as wire:
        await wire.say("/waiter please")
        assert (await wire.until("question"))["options"] == ["tea", "coffee"]
        assert (await wire.until("finished"))["outcome"] == "asked"
        assert "One tea, please." in await wire.finish(await wire.say("tea"))


async def test_a_failed_turn_says_so_in_a_sentence_without_internals(house: House) -> None:
    async with house.client("t") as wire:
        await wire.say("/clumsy go")
        finished = await wire.until("finished")
        assert finished["outcome"] == "failed"
        assert finished["problem"]["code"] == "skill"
        assert "ValueError" not in json.dumps(wire.frames)


@pytest.mark.parametrize(
    "bad",
    ["", "no json", "[]", '"x"', "{}", '{"type":"dance"}', '{"type":"send","id":1,"text":"x"}',
     '{"type":"send","id":"","text":"x"}', '{"type":"hello","thread":"again"}', "[" * 5000],
)  # fmt: skip
async def test_a_bad_frame_gets_an_error_and_the_socket_lives(house: House, bad: str) -> None:
    async with house.client("t") as wire:
        await wire.socket.send_str(bad)
        assert (await wire.until("error"))["code"] == "invalid_input"
        assert await wire.finish(await wire.say("still here")) == "still here "


async def test_binary_and_broken_unicode_are_bad_frames_too(house: House) -> None:
    async with house.client("t") as wire:
        await wire.socket.send_bytes(b"{}")
        await wire.until("error", code="invalid_input")
        await wire.socket.send_frame(
            b'{"type":"send","id":"1","text":"\xff"}', aiohttp.WSMsgType.TEXT
        )
        await wire.until("error", code="invalid_input")
        await wire.send({"type": "ping"})
        await wire.until("pong")


async def test_a_message_above_the_limit_is_refused_and_nothing_is_stored(house: House) -> None:
    async with house.client("t") as wire:
        await wire.send({"type": "send", "id": "1", "text": "x" * 1_000_000})
        assert (await wire.until("error"))["code"] == "too_large"
        await wire.finish(await wire.say("small"))


async def test_ten_megabytes_close_the_connection_with_the_reason(house: House) -> None:
    async with house.client("t") as wire:
        sending = asyncio.create_task(
            wire.send({"type": "send", "id": "1", "text": "x" * 10_000_000})
        )
        async with asyncio.timeout(PATIENCE):
            closing = await wire.socket.receive()
        await asyncio.gather(sending, return_exceptions=True)
        assert closing.data == 1009
        assert "1000000 bytes" in str(closing.extra)
    assert not (await house.server.snapshot(_conversation("t"))).pending


async def test_the_first_frame_must_be_a_hello(house: House) -> None:
    for first in ({"type": "ping"}, {"type": "hello"}, {"type": "hello", "thread": "a/b"},
                  {"type": "hello", "thread": "t", "since": "rubbish"}):  # fmt: skip
        async with house.wire() as wire:
            await wire.send(first)
            await wire.until("error", code="invalid_input")
            assert await wire.close_code() == 4400


async def test_a_client_without_a_hello_is_let_go(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(socket_module), "HELLO_TIMEOUT", 0.01)
    async with house.wire() as wire:
        assert await wire.close_code() == 4408


async def test_two_tabs_see_the_same(house: House) -> None:
    async with house.client("t") as one, house.client("t") as two:
        turn = await one.say("/teller x")
        house.teller.tell("both ", "see ", "this")
        assert await one.finish(turn) == await two.finish(turn) == "both see this"
        assert next(f for f in two.frames if f["type"] == "message")["text"] == "/teller x"


async def test_losing_the_socket_does_not_stop_the_turn(house: House) -> None:
    async with house.client("t") as wire:
        turn = await wire.say("/teller x")
        house.teller.tell("begun ", end=False)
        await wire.until_text(turn, "begun")
    house.teller.tell("and ended")
    async with house.client("t", since=wire.cursor) as again:
        assert again.frames[0]["recovered"] is True
        again.texts = dict(wire.texts)
        assert await again.finish(turn) == "begun and ended"


async def test_everything_comes_again_from_the_start(house: House) -> None:
    async with house.client("t") as wire:
        turn = await wire.say("/scholar x")
        text = await wire.finish(turn)
    async with house.client("t", since="start") as again:
        assert again.frames[0]["recovered"] is True
        assert "snapshot" not in again.frames[0]
        assert await again.finish(turn) == text
        assert any(frame["type"] == "citation" for frame in again.frames)


async def test_a_cursor_of_another_life_gets_a_snapshot(house: House) -> None:
    async with house.client("t") as wire:
        turn = await wire.say("hello")
        await wire.finish(turn)
    async with house.client("t", since="otherlife:3") as again:
        welcome = again.frames[0]
        assert welcome["recovered"] is False
        assert [line["text"] for line in welcome["snapshot"]["history"]] == ["hello", "hello "]
        assert welcome["cursor"] == wire.cursor


async def test_a_snapshot_shows_the_running_reply_and_it_goes_on(house: House) -> None:
    async with house.client("t") as wire:
        turn = await wire.say("/teller x")
        house.teller.tell("so far ", end=False)
        await wire.until("text", turn=turn)
        await _until_stored(house, "so far ")
        async with house.client("t") as late:
            pending = late.frames[0]["snapshot"]["pending"]
            assert [(p["reply"], p["running"], p["text"]) for p in pending] == [
                ("so far ", True, "/teller x")
            ]
            house.teller.tell("so good")
            assert await late.finish(turn) == "so far so good"


async def _until_stored(house: House, text: str) -> None:
    async def stored() -> bool:
        snapshot = await house.server.snapshot(_conversation("t"))
        return snapshot.pending[0].reply == text

    await eventually(stored)


async def test_a_reply_survives_a_cut_at_every_byte() -> None:
    """Whatever byte the connection breaks at, coming back with the cursor misses nothing and
    doubles nothing: `Wire` raises on a gap, and `finish` compares the length."""
    text = "naïve 雨 😀 words"
    async with open_house() as house:
        async with house.client("full") as wire:
            expected = await wire.finish(await wire.say(text))
        for budget in range(140, 1500, 13):
            await _cut_at(house, f"t{budget}", text, budget, expected)


async def _cut_at(house: House, thread: str, text: str, budget: int, expected: str) -> None:
    async with CuttingProxy(house.address, plan=lambda: Cut(budget)) as proxy:
        known = Wire(None)  # type: ignore[arg-type]
        with contextlib.suppress(Broken, aiohttp.ClientError, ConnectionError):
            async with house.wire(proxy.address) as wire:
                known = wire
                await wire.hello(thread)
                await wire.finish(await wire.say(text, id="m"))
    async with house.client(thread, since=known.cursor) as again:
        again.texts = {**known.texts, **again.texts}
        turn = await again.say(text, id="m")
        if not any(f["type"] == "finished" for f in known.frames + again.frames):
            await again.until("finished")
        assert again.texts[turn] == expected, budget


async def test_a_slow_reader_is_disconnected_and_can_come_back() -> None:
    async with open_house(send_queue_bytes=10_000) as house:
        pieces = 0
        async with house.client("t") as slow:
            turn = await slow.say("/teller x")
            protocol = slow.socket._response.connection.protocol  # type: ignore[union-attr]
            protocol.pause_reading()  # type: ignore[union-attr]
            async with asyncio.timeout(PATIENCE):
                while house.server.metrics.exposition().count(b"palaver_subscriptions 1.0"):
                    house.teller.tell("x" * 50_000, end=False)
                    pieces += 1
                    await asyncio.sleep(0)
            protocol.resume_reading()  # type: ignore[union-attr]
            assert await slow.close_code() == 4429
        assert b"palaver_slow_readers_total 1.0" in house.server.metrics.exposition()
        house.teller.tell("the end")
        async with house.client("t", since=slow.cursor) as again:
            again.texts = dict(slow.texts)
            assert await again.finish(turn) == "x" * 50_000 * pieces + "the end"


async def test_what_is_asked_for_on_opening_is_no_slowness() -> None:
    async with open_house(send_queue_bytes=10_000) as house:
        _, reply = await house.post(
            "/v1/conversations/t/messages?wait=true&person=ada", {"text": "word " * 40_000}
        )
        assert reply["outcome"] == "done"
        for since in (None, "start"):
            async with house.client("t", since=since) as wire:
                assert await wire.finish(await wire.say("x")) == "x "


async def test_a_stopping_server_tells_clients_to_come_back(house: House) -> None:
    async with house.client("t") as wire:
        await wire.say("/teller x")
        stopping = asyncio.create_task(house.stop_listening())
        assert await wire.close_code() == 1012
        await stopping


async def test_events_that_are_gone_restart_the_view() -> None:
    """An erased conversation begins a new life; a viewer is told, not left with the old."""
    ledger = MemoryLedger()
    async with open_house(ledger=ledger) as house:
        async with house.client("t") as wire:
            await wire.finish(await wire.say("secret"))
            await ledger.erase("default", "ada")
            (subscription,) = house.server._subscriptions._subscriptions[_conversation("t")]
            subscription.check()
            restart = await wire.until("restart")
            assert restart["recovered"] is False
            assert "secret" not in json.dumps(restart)


async def test_an_unexpected_error_costs_one_frame_not_the_connection(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise ValueError("inside")

    async with house.client("t") as wire:
        with monkeypatch.context() as broken:
            broken.setitem(vars(house.server), "accept", fail)
            await wire.send({"type": "send", "id": "1", "text": "x"})
            error = await wire.until("error")
        assert (error["code"], error["id"]) == ("internal", "1")
        assert "inside" not in str(error)
        await wire.finish(await wire.say("still here"))
    monkeypatch.setitem(vars(house.server), "subscribe", fail)
    async with house.wire() as other:
        await other.send({"type": "hello", "thread": "t", "person": "ada"})
        assert await other.close_code() == 1011


async def test_a_server_that_takes_nobody_in_any_more_says_that_it_restarts(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise Overloaded("it stops", retry_after=1)

    monkeypatch.setitem(vars(house.server), "subscribe", fail)
    async with house.wire() as wire:
        await wire.send({"type": "hello", "thread": "t", "person": "ada"})
        assert (await wire.until("error"))["code"] == "overloaded"
        assert await wire.close_code() == 1012


async def test_a_store_that_is_away_says_come_back_later(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise LedgerUnavailable("gone", retry_after=2)

    async with house.client("t") as wire:
        monkeypatch.setitem(vars(house.server), "accept", fail)
        await wire.send({"type": "send", "id": "1", "text": "x"})
        error = await wire.until("error")
        assert (error["code"], error["retry_after"]) == ("ledger_unavailable", 2)
    monkeypatch.setitem(vars(house.server), "members", fail)
    async with house.wire() as other:
        await other.send({"type": "hello", "thread": "t", "person": "ada"})
        assert await other.close_code() == 1013
    assert (await house.get("/v1/conversations/t"))[0] == 503
