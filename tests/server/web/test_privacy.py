"""Export and erasure of a person's data."""

import pytest
from tests.server.web.live_server import LiveServer, eventually, open_live_server
from tests.server.web.test_api import EVENTS, MESSAGES, reading

from palaver.channels import BrokenChannel
from palaver.config.settings import AuthKey, Right, Secret
from palaver.conversations import ConversationChange
from palaver.feedback import Feedback
from palaver.messages import Conversation, Message
from palaver.platforms import ApprovedPerson, Pairings

ADA = {"person": "ada"}


async def test_an_export_has_the_persons_messages_and_replies(live_server: LiveServer) -> None:
    async with live_server.connect("t") as ada, live_server.connect("other", person="bob") as bob:
        await ada.wait_for_reply(await ada.send_message("my secret"))
        await bob.wait_for_reply(await bob.send_message("his secret"))
    status, held = await live_server.get("/v1/export", params=ADA)
    assert status == 200
    (lines,) = held["conversations"].values()
    assert [line["text"] for line in lines] == ["my secret", "my secret "]
    assert (held["person"], held["pending"]) == ("ada", [])
    assert "his secret" not in str(held)


async def test_a_summary_counts_what_an_export_has(live_server: LiveServer) -> None:
    ledger = live_server.server.ledger
    async with live_server.connect("t") as ada, live_server.connect("other", person="bob") as bob:
        for text in ("one", "two"):
            turn = await ada.send_message(text)
            await ada.wait_for_reply(turn)
        await bob.wait_for_reply(await bob.send_message("his"))
        await ada.send_message("/scripted go")
        await ada.wait_for("started")
        await ada.send_message("three")
    await ledger.change_conversation(
        Conversation("default", "web", "t"), "ada", ConversationChange(title="Numbers")
    )
    feedback = Feedback(turn=turn, rating="up")
    await ledger.give_feedback(Conversation("default", "web", "t"), "ada", feedback)
    file = {"name": "a.txt", "person": "ada"}
    assert (await live_server.post("/v1/files", json=None, data=b"hi", params=file))[0] == 201
    status, summary = await live_server.get("/v1/export/summary", params=ADA)
    assert status == 200
    counts = {"conversations": 1, "messages": 4, "waiting": 2, "replies": 2, "titles": 1}
    assert summary == counts | {"feedback": 1, "memories": 0, "files": 1}
    status, _ = await live_server.get("/v1/export/summary")
    assert status == 403  # several people may stand behind the shared identity
    live_server.scripted.emit()


async def test_approvals_and_open_codes_are_exported_and_erased() -> None:
    async with open_live_server(channels=(BrokenChannel("x"), BrokenChannel("y"))) as live_server:
        pairings = Pairings(live_server.server.records, "channel-1")
        await pairings.allow(ApprovedPerson(tenant="default", person="ada", at=5.0))
        for person in ("ada", "bob"):
            await pairings.request("default", person)
        held = (await live_server.get("/v1/export", params=ADA))[1]
        assert held["approvals"] == {"channel-1": 5.0}
        conversation = "/v1/conversations/t"
        async with live_server.connect("t") as ada:
            await ada.wait_for_reply(await ada.send_message("hello"))
        assert (await live_server.session.delete(live_server.url(conversation), params=ADA)).ok
        assert (await live_server.get("/v1/export", params=ADA))[1]["approvals"]
        assert (await live_server.post("/v1/erase", params=ADA))[0] == 200
        assert (await live_server.get("/v1/export", params=ADA))[1]["approvals"] == {}
        assert [each.person for each in await pairings.requests()] == ["bob"]


async def test_an_erasure_resets_open_connections(live_server: LiveServer) -> None:
    async with (
        live_server.connect("t") as client,
        reading(live_server, EVENTS + "?person=ada") as reader,
    ):
        await client.wait_for_reply(await client.send_message("my secret"))
        status, receipt = await live_server.post("/v1/erase", params=ADA)
        assert (status, receipt["messages"], receipt["conversations"]) == (200, 1, 1)
        restart = await client.wait_for("reset")
        assert restart["snapshot"] == {"history": [], "pending": []}
        assert (await reader.until("reset"))["snapshot"]["history"] == []
        assert (
            await client.wait_for_reply(await client.send_message("hello again")) == "hello again "
        )
    assert "my secret" not in str(await live_server.get("/v1/export", params=ADA))
    assert (await live_server.post("/v1/erase", params=ADA))[1]["messages"] == 1
    assert (await live_server.post("/v1/erase", params=ADA))[1]["messages"] == 0


async def test_an_erasure_at_one_replica_resets_connections_at_another(
    live_server: LiveServer,
) -> None:
    async with (
        open_live_server(ledger=live_server.server.ledger) as other,
        live_server.connect("t") as client,
    ):
        await client.wait_for_reply(await client.send_message("my secret"))
        await other.post("/v1/erase", params=ADA)
        assert (await client.wait_for("reset"))["snapshot"] == {"history": [], "pending": []}


async def test_an_erasure_stops_the_persons_running_turn(live_server: LiveServer) -> None:
    async with live_server.connect("t") as client:
        turn = await client.send_message("/scripted my secret")
        live_server.scripted.emit("I heard your secret", end=False)
        await client.wait_for_text(turn, "I heard")
        await live_server.post("/v1/erase", params=ADA)
        await eventually(lambda: live_server.server._dispatcher.running == 0)
        restart = await client.wait_for("reset")
        assert restart["snapshot"] == {"history": [], "pending": []}


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> dict[str, AuthKey]:
    for name in ("ada", "bob", "all", "acme"):
        monkeypatch.setenv(name.upper(), f"the key of {name} in a test")
    own: tuple[Right, ...] = ("talk", "read", "export", "erase")
    every: tuple[Right, ...] = (*own, "impersonate")
    return {
        "ada": AuthKey(secret=Secret("env:ADA"), person="ada", rights=own),
        "bob": AuthKey(secret=Secret("env:BOB"), person="bob", rights=own),
        "all": AuthKey(secret=Secret("env:ALL"), rights=every),
        "acme": AuthKey(secret=Secret("env:ACME"), tenant="acme", rights=every),
    }


def holding(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer the key of {name} in a test"}


async def test_a_key_exports_and_erases_only_its_own_persons(keys: dict[str, AuthKey]) -> None:
    async with open_live_server(keys=keys) as live_server:
        await live_server.post(MESSAGES + "?wait=true", {"text": "mine"}, headers=holding("ada"))
        for method, path in ((live_server.get, "/v1/export"), (live_server.post, "/v1/erase")):
            assert (await method(path, params=ADA))[0] == 401
            assert (await method(path, params=ADA, headers=holding("bob")))[0] == 403
            _, elsewhere = await method(path, params=ADA, headers=holding("acme"))
            assert elsewhere["tenant"] == "acme"
            assert elsewhere["conversations"] in ({}, 0)
        _, held = await live_server.get("/v1/export", headers=holding("ada"))
        assert "mine" in str(held)
        _, receipt = await live_server.post("/v1/erase", params=ADA, headers=holding("all"))
        assert (receipt["person"], receipt["messages"]) == ("ada", 1)


async def test_a_person_who_was_erased_is_disconnected_and_checked_again(
    live_server: LiveServer,
) -> None:
    conversation = Conversation("default", "web", "t")
    async with live_server.connect("t") as ada:
        await ada.wait_for_reply(await ada.send_message("from ada"))
        # A channel that authenticates the persons itself lets several write to one conversation.
        message = Message(conversation=conversation, id="b", person="bob", text="from bob")
        receipt = await live_server.server.accept(message, members_only=False)
        await ada.wait_for_reply(receipt.turn)
        async with reading(live_server, EVENTS + "?person=bob") as bob:
            await bob.until("welcome")
            await live_server.post("/v1/erase", params=ADA)
            assert await ada.close_code() == 1012
            snapshot = (await bob.until("reset"))["snapshot"]
            assert [line["text"] for line in snapshot["history"]] == ["from bob", "from bob "]
    async with live_server.open_websocket() as again:
        await again.send({"type": "hello", "thread": "t", "person": "ada"})
        assert await again.close_code() == 4403


async def test_the_event_stream_of_an_erased_person_ends(live_server: LiveServer) -> None:
    conversation = Conversation("default", "web", "t")
    for author in ("ada", "bob"):
        message = Message(conversation=conversation, id=author, person=author, text=author)
        await live_server.server.accept(message, members_only=False)
    async with reading(live_server, EVENTS + "?person=ada") as reader:
        await reader.until("welcome")
        await live_server.post("/v1/erase", params=ADA)
        assert not [frame for frame in await reader.rest() if frame["type"] == "reset"]
    assert (await live_server.get(EVENTS, params=ADA))[0] == 403
