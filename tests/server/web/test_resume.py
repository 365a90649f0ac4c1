"""Coming back: with a cursor, to any replica, over the websocket or server-sent events."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

import pytest
from tests.server.web.house import PATIENCE, Frame, House, open_house
from tests.server.web.test_api import EVENTS, reading

from palaver.config.settings import AuthKey, Secret
from palaver.messages import Conversation
from palaver.testing import MemoryLedger
from palaver.turns.writer import PUBLISH_INTERVAL
from palaver.web import sse

KEYS = {
    "ada": AuthKey(secret=Secret("env:KEY_ADA"), tenant="acme", person="ada"),
    "bob": AuthKey(secret=Secret("env:KEY_BOB"), tenant="acme", person="bob"),
    "other": AuthKey(secret=Secret("env:KEY_OTHER"), tenant="other", person="ada"),
}


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.setenv(f"KEY_{name.upper()}", f"secret of {name}")


@contextlib.asynccontextmanager
async def replicas(
    first: Mapping[str, AuthKey] | None = None, second: Mapping[str, AuthKey] | None = None
) -> AsyncIterator[tuple[House, House]]:
    """Two servers on one ledger, each with its own keys."""
    ledger = MemoryLedger()
    async with (
        open_house(ledger=ledger, keys=first) as one,
        open_house(ledger=ledger, keys=second) as two,
    ):
        yield one, two


async def over_socket(house: House, since: str) -> tuple[Frame, str, str]:
    """Come back with a cursor and read a piece: the welcome, what came, and the cursor then."""
    async with house.client("t", since=since) as wire:
        before = dict(wire.texts)
        await wire.until("finished")
        assert not before
        (text,) = wire.texts.values()
        return wire.frames[0], text, wire.cursor or ""


async def over_feed(house: House, since: str) -> tuple[Frame, str, str]:
    async with reading(house, EVENTS + "?person=ada", headers={"Last-Event-ID": since}) as reader:
        await reader.until("finished")
        text = "".join(frame["text"] for _, frame in reader.events if frame["type"] == "text")
        return reader.events[0][1], text, reader.last_id


async def test_a_cursor_is_good_at_any_replica_over_socket_and_feed() -> None:
    async with replicas() as (one, two):
        async with one.client("t") as wire:
            await wire.finish(await wire.say("first"))
            cursor = wire.cursor or ""
        for number, (house, come_back) in enumerate(
            ((two, over_feed), (one, over_feed), (two, over_socket), (one, over_socket))
        ):
            async with (two if house is one else one).client("t") as writer:
                await writer.finish(await writer.say(f"message {number}"))
            welcome, text, cursor = await come_back(house, cursor)
            assert (welcome["recovered"], "snapshot" in welcome) == (True, False)
            assert text == f"message {number} "


async def test_a_reply_is_followed_from_one_replica_to_the_other() -> None:
    async with replicas() as (one, two):
        texts: dict[str, str] = {}
        cursor, turn = "start", ""
        async with one.client("t") as wire:
            turn = await wire.say("/teller x")
            await wire.until("started")
        teller = next(h.teller for h in (one, two) if h.server._dispatcher.running)
        for number, house in enumerate((two, one, two, two, one)):
            async with house.client("t", since=cursor) as wire:
                wire.texts.update(texts)
                teller.tell(f"piece {number}, ", end=False)
                await wire.until_text(turn, f"piece {number}, ")
                texts, cursor = wire.texts, wire.cursor or ""
        teller.tell("end")
        async with two.client("t", since=cursor) as wire:
            wire.texts.update(texts)
            assert wire.frames[0]["recovered"] is True
            assert await wire.finish(turn) == "".join(f"piece {n}, " for n in range(5)) + "end"


async def test_a_cursor_gives_no_rights() -> None:
    """Ada's cursor in other hands, and in her own after her key was withdrawn."""
    left = {name: key for name, key in KEYS.items() if name != "ada"}
    async with replicas(KEYS, left) as (one, two):
        async with one.wire() as wire:
            await wire.hello("t", person=None, token="secret of ada")
            await wire.finish(await wire.say("mine"))
            cursor = wire.cursor or ""
        for token, code, status in (
            ("secret of ada", 4401, 401),
            ("secret of bob", 4403, 403),
            (None, 4401, 401),
        ):
            async with two.wire() as wire:
                hello = {"type": "hello", "thread": "t", "token": token, "since": cursor}
                await wire.send(hello)
                assert await wire.close_code() == code
                assert "mine" not in str(wire.frames)
            headers = {"Last-Event-ID": cursor}
            if token:
                headers["Authorization"] = f"Bearer {token}"
            given, answer = await two.get(EVENTS, headers=headers)
            assert (given, "mine" in str(answer)) == (status, False)


async def test_another_tenants_cursor_opens_nothing_of_theirs() -> None:
    async with replicas(KEYS, KEYS) as (one, two):
        async with one.wire() as wire:
            await wire.hello("t", person=None, token="secret of ada")
            await wire.finish(await wire.say("mine"))
            cursor = wire.cursor
        async with two.wire() as wire:
            welcome = await wire.hello("t", person=None, token="secret of other", since=cursor)
            assert welcome["recovered"] is False
            assert welcome["snapshot"] == {"history": [], "pending": []}


async def test_a_cursor_beyond_any_offset_is_malformed(house: House) -> None:
    for offset in ("9" * 16, "9" * 30, "-1", "1.5", "²", ""):
        since = f"epoch:{offset}"
        async with house.wire() as wire:
            await wire.send({"type": "hello", "thread": "t", "since": since})
            assert await wire.close_code() == 4400
        status, answer = await house.get(EVENTS, params={"since": since})
        assert (status, answer["error"]["code"]) == (400, "invalid_input")
    async with house.client("t", since="epoch:" + "9" * 15) as wire:
        assert wire.frames[0]["recovered"] is False


async def test_a_slow_reader_of_a_feed_is_disconnected_and_can_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(vars(sse), "FAREWELL", 0.01)
    piece = "x" * 200_000
    async with open_house(send_queue_bytes=500_000) as house:
        pieces = 0
        async with reading(house) as slow:
            await house.post("/v1/conversations/t/messages", {"text": "/teller x"})
            await slow.until("routed")
            cursor = slow.last_id
            async with asyncio.timeout(PATIENCE):
                while b"palaver_event_streams 1.0" in house.server.metrics.exposition():
                    house.teller.tell(piece, end=False)
                    pieces += 1
                    await asyncio.sleep(
                        PUBLISH_INTERVAL
                    )  # several pieces at once would be too much by themselves
        house.teller.tell("the end")
        about = {"headers": {"Last-Event-ID": cursor}, "read_bufsize": 2**24}
        async with reading(house, EVENTS + "?until=finished", **about) as again:
            frames = await again.rest()
        assert frames[0]["recovered"] is True
        text = "".join(frame["text"] for frame in frames if frame["type"] == "text")
        assert text == piece * pieces + "the end"


class Late(MemoryLedger):
    """Says of every conversation that nobody has written to it."""

    async def members(self, conversation: Conversation) -> frozenset[str]:
        return frozenset()


async def test_a_feed_that_somebody_else_wrote_to_first_is_refused_before_it_begins() -> None:
    async with open_house(ledger=Late()) as house:
        _, sent = await house.post(
            "/v1/conversations/t/messages?wait=true", {"text": "secret", "person": "ada"}
        )
        assert sent["outcome"] == "done"
        for since in ("", "&since=start"):
            status, answer = await house.get(f"{EVENTS}?person=bob{since}")
            assert (status, answer["error"]["code"]) == (403, "forbidden")
