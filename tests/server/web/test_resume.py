"""Resuming with a cursor, at any replica, over the websocket or server-sent events."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

import pytest
from tests.server.web.live_server import TIMEOUT_SECONDS, Frame, LiveServer, open_live_server
from tests.server.web.test_api import EVENTS, reading

from palaver.config.settings import AuthKey, DispatchSettings, Secret
from palaver.messages import Conversation
from palaver.testing import MemoryLedger
from palaver.turns.writer import PUBLISH_INTERVAL
from palaver.web import sse

pytestmark = pytest.mark.slow

KEYS = {
    "ada": AuthKey(secret=Secret("env:KEY_ADA"), tenant="acme", person="ada"),
    "bob": AuthKey(secret=Secret("env:KEY_BOB"), tenant="acme", person="bob"),
    "other": AuthKey(secret=Secret("env:KEY_OTHER"), tenant="other", person="ada"),
}


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.setenv(f"KEY_{name.upper()}", f"the secret key of {name}")


@contextlib.asynccontextmanager
async def replicas(
    first: Mapping[str, AuthKey] | None = None, second: Mapping[str, AuthKey] | None = None
) -> AsyncIterator[tuple[LiveServer, LiveServer]]:
    """Yield two servers on one ledger, each with its own keys."""
    ledger = MemoryLedger()
    async with (
        open_live_server(ledger=ledger, keys=first) as one,
        open_live_server(ledger=ledger, keys=second) as two,
    ):
        yield one, two


async def resume_websocket(live_server: LiveServer, since: str) -> tuple[Frame, str, str]:
    """Resume with a cursor; return the welcome, the text of one turn, and the new cursor."""
    async with live_server.connect("t", since=since) as client:
        before = dict(client.texts)
        await client.wait_for("finished")
        assert not before
        (text,) = client.texts.values()
        return client.frames[0], text, client.cursor or ""


async def resume_event_stream(live_server: LiveServer, since: str) -> tuple[Frame, str, str]:
    async with reading(
        live_server, EVENTS + "?person=ada", headers={"Last-Event-ID": since}
    ) as reader:
        await reader.until("finished")
        text = "".join(frame["text"] for _, frame in reader.events if frame["type"] == "text")
        return reader.events[0][1], text, reader.last_id


async def test_a_cursor_is_valid_at_any_replica_over_websocket_and_event_stream() -> None:
    async with replicas() as (one, two):
        async with one.connect("t") as client:
            await client.wait_for_reply(await client.send_message("first"))
            cursor = client.cursor or ""
        for number, (live_server, resume) in enumerate(
            (
                (two, resume_event_stream),
                (one, resume_event_stream),
                (two, resume_websocket),
                (one, resume_websocket),
            )
        ):
            async with (two if live_server is one else one).connect("t") as writer:
                await writer.wait_for_reply(await writer.send_message(f"message {number}"))
            welcome, text, cursor = await resume(live_server, cursor)
            assert (welcome["recovered"], "snapshot" in welcome) == (True, False)
            assert text == f"message {number} "


async def test_a_client_follows_a_reply_across_replicas() -> None:
    async with replicas() as (one, two):
        texts: dict[str, str] = {}
        cursor, turn = "start", ""
        async with one.connect("t") as client:
            turn = await client.send_message("/scripted x")
            await client.wait_for("started")
        scripted = next(h.scripted for h in (one, two) if h.server._dispatcher.running)
        for number, live_server in enumerate((two, one, two, two, one)):
            async with live_server.connect("t", since=cursor) as client:
                client.texts.update(texts)
                scripted.emit(f"piece {number}, ", end=False)
                await client.wait_for_text(turn, f"piece {number}, ")
                texts, cursor = client.texts, client.cursor or ""
        scripted.emit("end")
        async with two.connect("t", since=cursor) as client:
            client.texts.update(texts)
            assert client.frames[0]["recovered"] is True
            assert (
                await client.wait_for_reply(turn)
                == "".join(f"piece {n}, " for n in range(5)) + "end"
            )


async def test_a_cursor_gives_no_access() -> None:
    """Ada's cursor is used with other keys, and with her own key after its removal."""
    left = {name: key for name, key in KEYS.items() if name != "ada"}
    async with replicas(KEYS, left) as (one, two):
        async with one.open_websocket() as client:
            await client.hello("t", person=None, token="the secret key of ada")
            await client.wait_for_reply(await client.send_message("mine"))
            cursor = client.cursor or ""
        for token, code, status in (
            ("the secret key of ada", 4401, 401),
            ("the secret key of bob", 4403, 403),
            (None, 4401, 401),
        ):
            async with two.open_websocket() as client:
                hello = {"type": "hello", "thread": "t", "token": token, "since": cursor}
                await client.send(hello)
                assert await client.close_code() == code
                assert "mine" not in str(client.frames)
            headers = {"Last-Event-ID": cursor}
            if token:
                headers["Authorization"] = f"Bearer {token}"
            given, answer = await two.get(EVENTS, headers=headers)
            assert (given, "mine" in str(answer)) == (status, False)


async def test_another_tenants_cursor_gives_no_access() -> None:
    async with replicas(KEYS, KEYS) as (one, two):
        async with one.open_websocket() as client:
            await client.hello("t", person=None, token="the secret key of ada")
            await client.wait_for_reply(await client.send_message("mine"))
            cursor = client.cursor
        async with two.open_websocket() as client:
            welcome = await client.hello(
                "t", person=None, token="the secret key of other", since=cursor
            )
            assert welcome["recovered"] is False
            assert welcome["snapshot"] == {"history": [], "pending": []}


async def test_a_cursor_beyond_any_offset_is_malformed(live_server: LiveServer) -> None:
    for offset in ("9" * 16, "9" * 30, "-1", "1.5", "²", ""):
        since = f"epoch:{offset}"
        async with live_server.open_websocket() as client:
            await client.send({"type": "hello", "thread": "t", "since": since})
            assert await client.close_code() == 4400
        status, answer = await live_server.get(EVENTS, params={"since": since})
        assert (status, answer["error"]["code"]) == (400, "invalid_input")
    async with live_server.connect("t", since="epoch:" + "9" * 15) as client:
        assert client.frames[0]["recovered"] is False


async def test_a_slow_reader_of_an_event_stream_is_disconnected_and_can_resume(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(vars(sse), "CLOSE_TIMEOUT", 0.01)
    piece = "x" * 200_000
    unlimited = DispatchSettings(max_reply_characters=1_000_000_000)
    async with open_live_server(send_queue_bytes=500_000, dispatch=unlimited) as live_server:
        pieces = 0
        async with reading(live_server) as slow:
            await live_server.post("/v1/conversations/t/messages", {"text": "/scripted x"})
            await slow.until("routed")
            cursor = slow.last_id
            async with asyncio.timeout(TIMEOUT_SECONDS):
                while b"palaver_event_streams 1.0" in live_server.server.metrics.exposition():
                    live_server.scripted.emit(piece, end=False)
                    pieces += 1
                    await asyncio.sleep(
                        PUBLISH_INTERVAL
                    )  # several pieces at once would exceed the limit by themselves
        live_server.scripted.emit("the end")
        about = {"headers": {"Last-Event-ID": cursor}, "read_bufsize": 2**24}
        async with reading(live_server, EVENTS + "?until=finished", **about) as again:
            frames = await again.rest()
        assert frames[0]["recovered"] is True
        text = "".join(frame["text"] for frame in frames if frame["type"] == "text")
        assert text == piece * pieces + "the end"


@pytest.mark.parametrize("selected", [None, 0, 1])
async def test_from_the_start_of_a_conversation_with_branches_nothing_is_missing(
    live_server: LiveServer, selected: int | None
) -> None:
    async with live_server.connect("t") as client:
        turns: list[str] = []
        for text, after in (("one", {}), ("two", {}), ("another two", {"after": 0})):
            about = {name: turns[index] for name, index in after.items()}
            turns.append(await client.send_message(f"/parrot {text}", **about))
            await client.wait_for("finished", turn=turns[-1])
        if selected is not None:
            await client.send({"type": "select", "turn": turns[1 + selected]})
            await client.wait_for("selected")
        last = turns[2 if selected is None else 1 + selected]
    async with live_server.connect("t", since="start") as client:
        history = client.frames[0]["snapshot"]["history"]
        assert [entry["turn"] for entry in history] == [turns[0], turns[0], last, last]


class WithoutMembers(MemoryLedger):
    """A ledger that reports no members."""

    async def members(self, conversation: Conversation) -> frozenset[str]:
        return frozenset()


async def test_an_event_stream_is_refused_when_another_person_wrote_first() -> None:
    async with open_live_server(ledger=WithoutMembers()) as live_server:
        _, sent = await live_server.post(
            "/v1/conversations/t/messages?wait=true", {"text": "secret", "person": "ada"}
        )
        assert sent["outcome"] == "done"
        for since in ("", "&since=start"):
            status, answer = await live_server.get(f"{EVENTS}?person=bob{since}")
            assert (status, answer["error"]["code"]) == (403, "forbidden")
