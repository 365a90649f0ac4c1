"""Two strangers at once in a new conversation: one becomes its member, the other sees nothing."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import msgspec
import pytest
from tests.server.web.live_server import LiveServer, eventually, open_live_server
from tests.server.web.test_api import EVENTS, MESSAGES, reading

from palaver.channels import ConversationAccess
from palaver.ledger import HistoryEntry, PendingTurn, Snapshot
from palaver.messages import Conversation, Cursor, Finished, Message, Received, Text
from palaver.testing import MemoryLedger

pytestmark = pytest.mark.slow

CONVERSATION = Conversation("default", "web", "t")
SECRET = "secret of the first"
ROUNDS = 30


class OvertakenLedger(MemoryLedger):
    """A ledger in which another person writes right after the members were read."""

    def __init__(self) -> None:
        super().__init__()
        self.is_overtaken = True

    async def members(self, conversation: Conversation) -> frozenset[str]:
        found = await super().members(conversation)
        if self.is_overtaken and not found:
            await self.accept(
                Message(conversation=conversation, id="first", person="first", text=SECRET)
            )
        return found


class SimultaneousLedger(MemoryLedger):
    """A ledger that tells the members only after two callers have read them."""

    def __init__(self) -> None:
        super().__init__()
        self._both = asyncio.Barrier(2)

    async def members(self, conversation: Conversation) -> frozenset[str]:
        found = await super().members(conversation)
        await self._both.wait()
        return found


class CutLedger(MemoryLedger):
    """A ledger with one snapshot, of a conversation whose members it does not know yet."""

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__()
        self._cut = snapshot

    async def snapshot(self, conversation: Conversation, *limits: Any, **more: Any) -> Snapshot:
        return self._cut


@pytest.fixture
async def overtaken() -> AsyncIterator[LiveServer]:
    async with open_live_server(ledger=OvertakenLedger()) as live_server:
        yield live_server


async def test_of_two_strangers_who_post_at_once_one_is_admitted() -> None:
    ledger = SimultaneousLedger()
    async with open_live_server(ledger=ledger) as one, open_live_server(ledger=ledger) as other:
        for number in range(ROUNDS):
            path = MESSAGES.replace("/t/", f"/t{number}/")
            answers = await asyncio.gather(
                one.post(path, {"text": "mine", "person": "ada"}),
                other.post(path, {"text": "mine", "person": "bob"}),
            )
            assert sorted(status for status, _ in answers) == [202, 403]


async def is_begun(live_server: LiveServer, where: Conversation) -> bool:
    return bool(await live_server.server.members(where))


@pytest.mark.slow
async def test_of_two_websockets_that_send_at_once_one_sees_nothing(
    live_server: LiveServer,
) -> None:
    for number in range(ROUNDS):
        async with (
            live_server.connect(f"t{number}", person="ada") as ada,
            live_server.connect(f"t{number}", person="bob") as bob,
        ):
            clients = {"ada": ada, "bob": bob}
            for person, client in clients.items():
                frame = {"type": "send", "id": person, "text": f"secret of {person}"}
                await client.send(frame)
            where = Conversation("default", "web", f"t{number}")
            await eventually(partial(is_begun, live_server, where))
            members = await live_server.server.members(where)
            (winner,) = members
            (loser,) = clients.keys() - members
            assert await clients[loser].close_code() == 4403
            assert f"secret of {winner}" not in str(clients[loser].frames)
            ack = await clients[winner].wait_for("ack")
            await clients[winner].wait_for_reply(ack["turn"])


async def test_a_reader_of_a_new_conversation_that_another_person_begins_sees_nothing(
    live_server: LiveServer,
) -> None:
    async with reading(live_server, f"{EVENTS}?person=bob") as bob:
        await bob.until("welcome")
        await live_server.post(f"{MESSAGES}?wait=true", {"text": SECRET, "person": "ada"})
        frames = await bob.rest()
    assert [frame["type"] for frame in frames] == ["welcome", "error"]


@pytest.mark.parametrize("since", ["", "&since=start"])
async def test_a_person_who_is_overtaken_reads_no_events(overtaken: LiveServer, since: str) -> None:
    status, body = await overtaken.get(f"{EVENTS}?person=eve{since}")
    assert (status, SECRET in str(body)) == (403, False)


async def test_a_person_who_is_overtaken_gets_no_snapshot(overtaken: LiveServer) -> None:
    status, body = await overtaken.get("/v1/conversations/t", params={"person": "eve"})
    assert (status, SECRET in str(body)) == (403, False)


async def test_a_person_who_is_overtaken_stops_nothing(overtaken: LiveServer) -> None:
    path, eve = "/v1/conversations/t/stop", {"person": "eve"}
    status, body = await overtaken.post(path, {}, params=eve)
    assert (status, body["state"]) == (200, "unknown")
    assert (await overtaken.post(path, {}, params=eve))[0] == 403

    async def is_answered() -> bool:
        history = (await overtaken.server.snapshot(CONVERSATION)).history
        return [entry.outcome for entry in history] == [None, "done"]

    await eventually(is_answered)


@pytest.mark.parametrize("since", [None, "start"])
async def test_a_person_who_is_overtaken_gets_no_welcome(
    overtaken: LiveServer, since: str | None
) -> None:
    async with overtaken.open_websocket() as client:
        await client.send({"type": "hello", "thread": "t", "person": "eve", "since": since})
        assert await client.close_code() == 4403
        assert SECRET not in str(client.frames)


async def test_a_cursor_beyond_the_first_message_shows_nothing(overtaken: LiveServer) -> None:
    """A stranger guesses the cursor so that the first message is behind it."""
    epoch = (await overtaken.server.snapshot(CONVERSATION)).cursor.epoch
    for offset in (1, 2, 3):
        async with overtaken.open_websocket() as client:
            since = f"{epoch}:{offset}"
            await client.send({"type": "hello", "thread": "t", "person": "eve", "since": since})
            assert await client.close_code() == 4403
            assert SECRET not in str(client.frames)


def test_only_the_own_first_message_opens_a_stream(live_server: LiveServer) -> None:
    access = ConversationAccess(live_server.server, CONVERSATION, "eve")
    for event in (
        Text(turn="1", position=0, text=SECRET),
        Received(turn="1", id="a", person="ada", text=SECRET),
        Finished(turn="1", outcome="done", length=0),
    ):
        assert not access.allows_event(event)
    assert access.allows_event(Received(turn="2", id="b", person="eve", text="mine"))
    assert access.allows_event(Text(turn="2", position=0, text="yours"))


REPLY = HistoryEntry(role="assistant", text=SECRET, turn="1", at=1.0, outcome="done")


@pytest.mark.parametrize(
    "seen",
    [
        {"history": (REPLY,)},
        {"earlier": "7"},
        {"pending": (PendingTurn(turn="1", messages=(), running=True, reply=SECRET),)},
    ],
)
async def test_a_part_of_a_state_that_shows_no_member_is_hidden(
    live_server: LiveServer, seen: dict[str, Any]
) -> None:
    """Check a snapshot whose limits have cut every message of its only member off."""
    cut = msgspec.structs.replace(await live_server.server.snapshot(CONVERSATION), **seen)

    access = ConversationAccess(live_server.server, CONVERSATION, "eve")
    assert not access.allows_snapshot(cut)
    async with open_live_server(ledger=CutLedger(cut)) as cutting:
        assert (await cutting.get("/v1/conversations/t", params={"person": "eve"}))[0] == 403
        assert (await cutting.get(f"{EVENTS}?person=eve"))[0] == 403


async def test_an_erased_person_sees_nothing_of_the_next_owner(live_server: LiveServer) -> None:
    async with live_server.connect("t") as ada:
        await ada.wait_for_reply(await ada.send_message("from ada"))
        await live_server.post("/v1/erase", params={"person": "ada"})
        await ada.wait_for("reset")
        assert (await live_server.post(MESSAGES, {"text": SECRET, "person": "bob"}))[0] == 202
        assert await ada.close_code() == 4403
        assert SECRET not in str(ada.frames)
    assert (await live_server.post(MESSAGES, {"text": "again", "person": "ada"}))[0] == 403


async def test_a_stranger_who_repeats_an_id_is_refused(live_server: LiveServer) -> None:
    body = {"text": SECRET, "id": "one"}
    assert (await live_server.post(f"{MESSAGES}?wait=true", body | {"person": "ada"}))[0] == 200
    for text in (SECRET, "other"):
        status, answer = await live_server.post(
            f"{MESSAGES}?wait=true", body | {"person": "eve", "text": text}
        )
        assert (status, answer["error"]["code"]) == (403, "forbidden")
    status, answer = await live_server.get("/v1/export", params={"person": "eve"})
    assert (answer["conversations"], answer["pending"]) == ({}, [])


async def test_a_cursor_of_a_new_conversation_belongs_to_no_other(live_server: LiveServer) -> None:
    cursor = (await live_server.server.snapshot(CONVERSATION)).cursor
    assert cursor == Cursor(cursor.epoch, 0)
    await live_server.post(f"{MESSAGES}?wait=true", {"text": SECRET, "person": "ada"})
    assert (await live_server.get(f"{EVENTS}?person=eve&since={cursor}"))[0] == 403
