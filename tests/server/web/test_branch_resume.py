"""Branches and clients that were offline, wait, stop, repeat, or only read."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.server.web.live_server import LiveServer, open_live_server
from tests.server.web.test_api import EVENTS, reading
from tests.server.web.test_branches import PATH, messages, say

from palaver.messages import Conversation, Message
from palaver.replies import follow_reply
from palaver.testing import MemoryLedger
from palaver_plugins.channels.openai_api import OpenAIChannel

pytestmark = pytest.mark.slow


@pytest_asyncio.fixture
async def live_server() -> AsyncIterator[LiveServer]:
    async with open_live_server(channels=(OpenAIChannel(),)) as live_server:
        yield live_server


@pytest.mark.parametrize("step", ["edit", "select", "revise"])
async def test_a_client_that_was_offline_gets_a_snapshot_at_any_replica(step: str) -> None:
    ledger = MemoryLedger()
    async with open_live_server(ledger=ledger) as one, open_live_server(ledger=ledger) as two:
        async with one.connect("t") as client:
            a = await say(client, "a")
            b = await say(client, "b")
            if step == "select":
                await say(client, "B", after=a)
            cursor = client.cursor
        async with one.connect("t") as other:
            if step == "edit":
                await say(other, "B", after=a)
            elif step == "select":
                await other.send({"type": "select", "turn": b})
                await other.wait_for("selected")
            else:
                await ledger.revise(Conversation("default", "web", "t"), "ada", a, "A")
        async with two.connect("t", since=cursor) as client:
            welcome = client.frames[0]
            assert welcome["recovered"] is False
            expected = {"edit": ["a", "B"], "select": ["a", "b"], "revise": ["A", "b"]}[step]
            assert messages(welcome["snapshot"]) == expected
            after_welcome = client.cursor
        async with two.connect("t", since="start") as client:
            await say(client, "c")
        async with two.connect("t", since="start") as client:
            assert messages(client.frames[0]["snapshot"]) == [*expected, "c"]
        async with two.connect("t", since=after_welcome) as client:
            assert client.frames[0]["recovered"] is True
        async with reading(
            one, EVENTS + "?person=ada", headers={"Last-Event-ID": cursor or ""}
        ) as reader:
            await reader.until("welcome")
            assert messages(reader.events[0][1]["snapshot"]) == [*expected, "c"]


async def test_a_reader_of_events_is_told(live_server: LiveServer) -> None:
    async with live_server.connect("t") as client:
        a = await say(client, "a")
        b = await say(client, "b")
        async with reading(live_server, EVENTS + "?person=ada") as reader:
            await reader.until("welcome")
            edited = await say(client, "B", after=a)
            await reader.until("finished")
            (reset,) = [frame for _, frame in reader.events if frame["type"] == "reset"]
            assert reset["snapshot"]["alternatives"] == [[b, edited]]


async def test_a_reply_that_is_made_again_is_stopped(live_server: LiveServer) -> None:
    async with live_server.connect("t") as client, live_server.connect("t") as other:
        a = await say(client, "a")
        b = await say(client, "b")
        turn = await client.send_message("b", after=a, skill="scripted")
        live_server.scripted.emit("half a rep", end=False)
        await other.wait_for_text(turn, "half a rep")
        await other.send({"type": "select", "turn": b})
        assert (await other.wait_for("error"))["code"] == "conflict"
        await other.send({"type": "stop", "turn": turn})
        for each in (client, other):
            assert (await each.wait_for("finished", turn=turn))["outcome"] == "stopped"
        await other.send({"type": "select", "turn": b})
        await other.wait_for("selected")
        for each in (client, other):  # the edit, then the selection
            await each.wait_for("reset")
            snapshot = (await each.wait_for("reset"))["snapshot"]
            assert messages(snapshot) == ["a", "b"]
            assert snapshot["alternatives"] == [[b, turn]]


async def test_a_repeated_request_is_one_edit(live_server: LiveServer) -> None:
    turns = []
    for text in ("a", "b"):
        body = {"text": text, "person": "ada"}
        turns.append((await live_server.post(f"{PATH}/messages?wait=true", body))[1]["turn"])
    edit = {"text": "B", "person": "ada", "after": turns[0]}
    url, headers = f"{PATH}/messages?wait=true", {"Idempotency-Key": "k"}
    answers = await asyncio.gather(
        *(live_server.post(url, edit, headers=headers) for _ in range(4))
    )
    assert {status for status, _ in answers} == {200}
    assert len({answer["turn"] for _, answer in answers}) == 1
    for changed in ({"after": None}, {"after": turns[1]}):
        status, error = await live_server.post(url, {**edit, **changed}, headers=headers)
        assert (status, error["error"]["code"]) == (409, "conflict")
    plain: dict[str, Any] = {key: value for key, value in edit.items() if key != "after"}
    assert (await live_server.post(url, plain, headers=headers))[0] == 409
    selected = {"turn": turns[1], "person": "ada"}
    await live_server.post(f"{PATH}/select?person=ada", selected)
    for _ in range(2):  # it is superseded, then selected
        status, answer = await live_server.post(url, edit, headers=headers)
        if status == 200:
            break
        assert (status, answer["error"]["code"]) == (404, "not_found")
        turn = {"turn": answers[0][1]["turn"]}
        assert (await live_server.post(f"{PATH}/select?person=ada", turn))[0] == 200
    assert (status, answer["text"], answer["duplicate"]) == (200, "B ", True)


async def test_who_waits_for_a_reply_gets_it_although_it_is_superseded_at_once(
    live_server: LiveServer,
) -> None:
    async with live_server.connect("t") as client:
        a = await say(client, "a")
        b = await say(client, "b")
        done = asyncio.Event()

        async def select() -> None:
            while not done.is_set():
                await live_server.post(f"{PATH}/select?person=ada", {"turn": b})

        selecting = asyncio.create_task(select())
        for number in range(10):
            body = {"text": f"B{number}", "person": "ada", "after": a}
            async with asyncio.timeout(10):
                status, answer = await live_server.post(f"{PATH}/messages?wait=true", body)
            assert (status, answer["text"]) == (200, f"B{number} ")
        done.set()
        await selecting


async def test_a_program_with_a_named_thread_follows_the_selected_history(
    live_server: LiveServer,
) -> None:
    async def ask(text: str) -> str:
        status, answer = await live_server.post(
            "/v1/chat/completions",
            {"model": "parrot", "messages": [{"role": "user", "content": text}], "user": "ada"},
            headers={"X-Palaver-Thread": "t"},
        )
        assert status == 200, answer
        return str(answer["choices"][0]["message"]["content"])

    await ask("a")
    await ask("b")
    conversation = Conversation("default", "openai_api", "t")
    server = live_server.server
    first = (await server.snapshot(conversation)).history[0]
    edit = Message(
        conversation=conversation, id="edit", person=first.person, text="B", after=first.turn
    )
    async with follow_reply(server, edit) as reply:
        assert (await asyncio.wait_for(reply.wait(), 5)).text == "B "
    assert "c" in await ask("c")
    history = (await server.snapshot(conversation)).history
    assert [entry.text for entry in history if entry.role == "user"] == ["a", "B", "c"]
