"""Runs of AG-UI: order, outcomes, resuming, dedupe, errors, and whose threads they are."""

import asyncio
import base64
import datetime
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.plugins.channels.agui.support import (
    CONVERSATION,
    Client,
    Json,
    Payer,
    kinds,
    open_agui_server,
    post,
    read_events,
    run,
    run_input,
    user,
    wait_until_stored,
)
from tests.server.web.live_server import LiveServer, eventually

from palaver import Skill, Turn
from palaver.config.settings import AuthKey, Secret
from palaver.streams import resume
from palaver_plugins.channels.agui import palaver_register_channels

pytestmark = pytest.mark.slow

PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[LiveServer]:
    async with open_agui_server() as opened:
        yield opened


def test_it_is_registered_by_name() -> None:
    (backend,) = palaver_register_channels()
    assert backend.name == "agui"


async def test_a_run_has_its_events_in_order_and_one_end(server: LiveServer) -> None:
    events = await run(server, user("hello there"), parentRunId="r-0")
    assert kinds(events) == [
        "RUN_STARTED",
        "STATE_SNAPSHOT",
        "TEXT_MESSAGE_START",
        "TEXT_MESSAGE_CONTENT",
        "TEXT_MESSAGE_END",
        "RUN_FINISHED",
    ]
    assert events[0] == {
        "type": "RUN_STARTED",
        "threadId": "t",
        "runId": "r-1",
        "parentRunId": "r-0",
        "protocolVersion": "1.0",
    }
    assert events[-1]["threadId"] == "t"
    assert events[-1]["runId"] == "r-1"
    assert events[-1]["outcome"] == {"type": "success"}
    assert Client(user("hello there")).apply(events).reply == "hello there "


async def test_calls_of_tools_are_shown_with_their_results(server: LiveServer) -> None:
    events = await run(server, user("/counter go"))
    calls = [event for event in events if event["type"].startswith("TOOL_CALL")]
    assert [event["type"] for event in calls] == [
        "TOOL_CALL_START",
        "TOOL_CALL_ARGS",
        "TOOL_CALL_END",
        "TOOL_CALL_RESULT",
    ] * 2
    start, arguments, _, result, *_, failed = calls
    reply = next(event for event in events if event["type"] == "TEXT_MESSAGE_START")
    assert start["toolCallName"] == "double"
    assert start["parentMessageId"] == reply["messageId"]
    assert arguments["delta"] == '{"number":21}'
    assert result["content"] == "42"
    assert failed["content"] == "(failed)"
    assert {event["toolCallId"] for event in calls} == {start["toolCallId"], failed["toolCallId"]}
    again = await run(server, user("/counter go"))
    (snapshot,) = (event for event in again if event["type"] == "MESSAGES_SNAPSHOT")
    _, message, first, _ = snapshot["messages"]
    assert [call["function"]["name"] for call in message["toolCalls"]] == ["double", "explode"]
    assert (first["role"], first["toolCallId"]) == ("tool", start["toolCallId"])


async def test_the_state_of_the_client_is_kept_beside_that_of_the_server(
    server: LiveServer,
) -> None:
    events = await run(server, user("/scholar leave?"), state={"theme": "dark", "palaver": 1})
    (snapshot,) = (event["snapshot"] for event in events if event["type"] == "STATE_SNAPSHOT")
    assert snapshot["theme"] == "dark"
    state = snapshot["palaver"]
    for event in events:
        for operation in event["delta"] if event["type"] == "STATE_DELTA" else ():
            name, _, is_end = operation["path"].removeprefix("/palaver/").partition("/")
            if is_end:
                state[name].append(operation["value"])
            else:
                state[name] = operation["value"]
    assert state["skill"] == "scholar"
    assert [each["title"] for each in state["citations"]] == ["The Handbook"]
    assert [each["name"] for each in state["attachments"]] == ["leave.txt"]


async def test_what_the_page_tells_is_for_the_skill(server: LiveServer) -> None:
    context = [{"description": "cart", "value": "3 items"}]
    events = await run(
        server,
        user("hello"),
        state={"theme": "dark", "palaver": {"turn": "x"}},
        context=context,
        forwardedProps={"palaver": {"skill": "observer"}},
    )
    assert Client().apply(events).reply == (
        '{"metadata": {"agui.state": "{\\"theme\\":\\"dark\\"}", "agui.context": '
        '"[{\\"description\\":\\"cart\\",\\"value\\":\\"3 items\\"}]"}, "files": [], '
        '"text": "hello"}'
    )


async def test_files_travel_in_the_message(server: LiveServer) -> None:
    content = base64.b64encode(b"a,b").decode()
    parts = [
        {"type": "text", "text": "look"},
        {"type": "image", "source": {"type": "data", "value": PNG, "mimeType": "image/png"}},
        {
            "type": "document",
            "source": {"type": "data", "value": content, "mimeType": "text/csv"},
            "metadata": {"filename": "sums.csv"},
        },
    ]
    props = {"palaver": {"skill": "observer"}}
    events = await run(server, user(parts), forwardedProps=props)
    assert '["image.png", "image/png", 70], ["sums.csv", "text/csv", 3]' in (
        Client().apply(events).reply
    )


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"threadId": ""}, "threadId"),
        ({"runId": "r" * 1001}, "runId"),
        ({"messages": [{"role": "user", "content": "x"}]}, "messages[0]"),
        ({"messages": [{"id": "m", "role": "user", "content": 7}]}, "content"),
        ({"messages": [user([{"type": "video_call"}])]}, "content[0]"),
        (
            {
                "messages": [
                    user([{"type": "image", "source": {"type": "url", "value": "http://a"}}])
                ]
            },
            "fetches no files",
        ),
        (
            {
                "messages": [
                    user(
                        [
                            {
                                "type": "document",
                                "source": {"type": "data", "value": "?", "mimeType": "a/b"},
                            }
                        ]
                    )
                ]
            },
            "base64",
        ),
        ({"state": [1]}, "state"),
        ({"forwardedProps": {"palaver": {"skill": 7}}}, "forwardedProps.palaver"),
        ({"forwardedProps": {"palaver": {"skill": "nobody"}}}, "nobody"),
        ({"resume": [{"interruptId": "x", "status": "resolved", "payload": 7}]}, "payload"),
    ],
)
async def test_what_cannot_run_is_refused_before_the_stream(
    server: LiveServer, fields: Json, problem: str
) -> None:
    status, answer = await post(server, run_input(user("hello"), **fields))
    assert status in (400, 404)
    assert isinstance(answer, dict)
    assert problem in answer["error"]["message"]


# Questions


async def test_a_question_is_an_interrupt_and_its_answer_resumes(server: LiveServer) -> None:
    first = await run(server, user("/waiter a drink"))
    outcome = first[-1]["outcome"]
    (asked,) = outcome["interrupts"]
    assert outcome["type"] == "interrupt"
    assert asked["message"] == "Tea or coffee?"
    assert asked["responseSchema"]["examples"] == ["tea", "coffee"]
    resume = [{"interruptId": asked["id"], "status": "resolved", "payload": "coffee"}]
    transcript = Client(user("/waiter a drink")).apply(first).messages
    second = await run(server, *transcript, runId="r-2", resume=resume)
    client = Client(*transcript).apply(second)
    assert client.reply == "One coffee, please."
    repeated = await run(server, *transcript, runId="r-2", resume=resume)
    assert Client(*transcript).apply(repeated).messages == client.messages
    history = (await server.server.snapshot(CONVERSATION)).history
    assert [entry.text for entry in history if entry.role == "user"] == [
        "/waiter a drink",
        "coffee",
    ]


async def test_an_answer_counts_once(server: LiveServer) -> None:
    asked = (await run(server, user("/waiter x")))[-1]["outcome"]["interrupts"][0]["id"]
    answer = {"interruptId": asked, "status": "resolved", "payload": "tea"}
    await run(server, runId="r-2", resume=[answer])
    status, refused = await post(
        server, run_input(runId="r-3", resume=[{**answer, "payload": "coffee"}])
    )
    assert status == 409, refused
    status, refused = await post(
        server, run_input(runId="r-3", resume=[{**answer, "interruptId": "another"}])
    )
    assert status == 409, refused


async def test_an_abandoned_question_ends_the_run_and_stores_nothing(server: LiveServer) -> None:
    asked = (await run(server, user("/waiter x")))[-1]["outcome"]["interrupts"][0]["id"]
    events = await run(server, runId="r-2", resume=[{"interruptId": asked, "status": "cancelled"}])
    assert kinds(events) == ["RUN_STARTED", "RUN_FINISHED"]
    assert events[-1]["outcome"] == {"type": "cancelled"}
    assert len((await server.server.snapshot(CONVERSATION)).history) == 2


# Approvals


@pytest.mark.parametrize(
    ("answer", "paid", "reply", "result"),
    [
        ({"status": "resolved", "payload": {"approved": True}}, ["ada"], "ada: paid 100. ", "paid"),
        ({"status": "resolved", "payload": {"approved": False}}, [], "Not paid.", "not approved"),
        ({"status": "cancelled"}, [], "Not paid.", "not approved"),
    ],
)
async def test_a_call_is_approved_by_its_interrupt(
    answer: Json, paid: list[str], reply: str, result: str
) -> None:
    payer = Payer()
    async with open_agui_server(payer=payer) as server:
        client = Client(user("/payer ada")).apply(await run(server, user("/payer ada")))
        assert client.terminal is not None
        (asked,) = client.terminal["outcome"]["interrupts"]
        assert asked["reason"] == "tool_call"
        assert "May I use the tool `pay`" in asked["message"]
        assert datetime.datetime.fromisoformat(asked["expiresAt"]).timestamp() > time.time()
        told = asked["metadata"]
        assert (told["tool"], told["arguments"]) == ("pay", {"to": "ada", "cents": 100})
        call = client.calls[asked["toolCallId"]]
        assert call["function"] == {"name": "pay", "arguments": '{"to":"ada","cents":100}'}
        assert payer.paid == []
        resume = [{"interruptId": asked["id"], **answer}]
        transcript = client.messages
        fresh = await run(server, *transcript, runId="r-2", resume=resume)
        seen = Client(*transcript).apply(fresh)
        assert payer.paid == paid
        assert seen.reply == reply
        (told,) = (it for it in seen.messages if it["role"] == "tool")
        assert told["toolCallId"] == asked["toolCallId"]
        assert result in told["content"]
        assert len(seen.calls) == 1
        again = await run(server, *seen.messages, runId="r-2", resume=resume)
        assert Client(*seen.messages).apply(again).messages == seen.messages
        reloaded = Client().apply(await run(server, runId="r-3"))
        roles = [it["role"] for it in reloaded.messages]
        assert roles == ["user", "assistant", "user", "tool", "assistant"]
        assert reloaded.calls == seen.calls
    assert payer.paid == paid


async def test_a_client_that_begins_with_the_answer_gets_the_whole_call() -> None:
    async with open_agui_server() as server:
        asked = (await run(server, user("/payer ada")))[-1]["outcome"]["interrupts"][0]
        restored = Client().apply(await run(server, runId="r-2"))
        assert restored.terminal is not None
        assert restored.terminal["outcome"]["interrupts"] == [asked]
        assert list(restored.calls) == [asked["toolCallId"]]
        entry = {"interruptId": asked["id"], "status": "resolved", "payload": {"approved": True}}
        client = Client().apply(await run(server, runId="r-3", resume=[entry]))
    assert list(client.calls) == [asked["toolCallId"]]
    assert client.messages[-1]["content"] == "paid 100"


async def test_each_call_has_an_interrupt_of_its_own() -> None:
    payer = Payer()
    async with open_agui_server(payer=payer) as server:
        client = Client(user("/payer ada bob")).apply(await run(server, user("/payer ada bob")))
        for number in range(2):
            assert client.terminal is not None
            (asked,) = client.terminal["outcome"]["interrupts"]
            answer = {"status": "resolved", "payload": {"approved": True}}
            resume = [{"interruptId": asked["id"], **answer}]
            transcript = client.messages
            fresh = await run(server, *transcript, runId=f"r-{number}", resume=resume)
            client = Client(*transcript).apply(fresh)
        assert payer.paid == ["ada", "bob"]
        assert len(client.calls) == 2
        assert [it["content"] for it in client.messages if it["role"] == "tool"] == ["paid 100"] * 2


@pytest.mark.parametrize(
    "payload", [None, "Approve", True, {}, {"approved": "true"}, {"approved": 1}, [True]]
)
async def test_nothing_but_the_decision_approves(payload: object) -> None:
    payer = Payer()
    async with open_agui_server(payer=payer) as server:
        asked = (await run(server, user("/payer ada")))[-1]["outcome"]["interrupts"][0]
        resume = [{"interruptId": asked["id"], "status": "resolved", "payload": payload}]
        status, refused = await post(server, run_input(runId="r-2", resume=resume))
        assert status == 400
        assert isinstance(refused, dict)
        assert "resume[0].payload" in refused["error"]["message"]
        client = Client().apply(await run(server, runId="r-3"))
        assert client.terminal is not None
        assert client.terminal["outcome"]["type"] == "interrupt"
    assert payer.paid == []


# The same again


async def test_a_run_that_is_posted_again_continues_the_same_message(server: LiveServer) -> None:
    body = run_input(user("/scripted x"))
    client = Client(user("/scripted x"))
    async with server.session.post(server.url("/agui"), json=body) as response:
        server.scripted.emit("one ", end=False)
        async for event in read_events(response):
            client.apply([event])
            if event["type"] == "TEXT_MESSAGE_CONTENT":
                break
    client.open_texts.clear()  # the connection is lost
    async with server.session.post(server.url("/agui"), json=body) as response:
        seen: list[Json] = []
        async for event in read_events(response):
            seen.append(event)
            if event["type"] == "STATE_SNAPSHOT":
                server.scripted.emit("two")
    assert kinds(seen)[:4] == [
        "RUN_STARTED",
        "MESSAGES_SNAPSHOT",
        "STATE_SNAPSHOT",
        "TEXT_MESSAGE_START",
    ]
    assert client.apply(seen).reply == "one two"
    assert [message["role"] for message in client.messages] == ["user", "assistant"]


class Holder(Skill):
    """Call a tool, and wait."""

    name = "holder"

    def __init__(self) -> None:
        super().__init__()
        self.may_end = asyncio.Event()

    async def answer(self, turn: Turn) -> None:
        await turn.say(await turn.call_tool("double", number=21))
        await self.may_end.wait()


async def test_a_long_thread_keeps_the_calls_of_a_run_that_is_posted_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resume, "REPLAY_LIMIT", 0)  # the thread is too long to be replayed
    holder = Holder()
    async with open_agui_server(skills=(holder,)) as server:
        body = run_input(user("/holder x"))
        client = Client(user("/holder x"))
        async with server.session.post(server.url("/agui"), json=body) as response:
            async for event in read_events(response):
                client.apply([event])
                if event["type"] == "TEXT_MESSAGE_CONTENT":
                    break
        client.open_texts.clear()  # the connection is lost
        await wait_until_stored(server, "42")
        body = run_input(*client.messages)
        async with server.session.post(server.url("/agui"), json=body) as response:
            async for event in read_events(response):
                client.apply([event])
                if event["type"] == "MESSAGES_SNAPSHOT":
                    holder.may_end.set()
    assert client.reply == "42"
    (call,) = client.calls
    assert [it["toolCallId"] for it in client.messages if it["role"] == "tool"] == [call]


async def test_a_transcript_that_is_sent_again_is_stored_once(server: LiveServer) -> None:
    first = Client(user("hello"))
    first.apply(await run(server, *first.messages))
    second = Client(*first.messages, user("more", id="m-2"))
    second.apply(await run(server, *second.messages, runId="r-2"))
    assert [message["content"] for message in second.messages] == [
        "hello",
        "hello ",
        "more",
        "more ",
    ]
    again = Client(*second.messages).apply(await run(server, *second.messages, runId="r-3"))
    assert again.messages == second.messages
    snapshot = await server.server.snapshot(CONVERSATION)
    assert [entry.text for entry in snapshot.history] == ["hello", "hello ", "more", "more "]


async def test_a_message_whose_run_failed_is_tried_again(server: LiveServer) -> None:
    first = await run(server, user("/clumsy x"))
    assert first[-1] == {
        "type": "RUN_ERROR",
        "message": "The skill could not finish its answer.",
        "code": "skill",
    }
    await run(server, user("/clumsy x"), runId="r-2")
    snapshot = await server.server.snapshot(CONVERSATION)
    assert len([entry for entry in snapshot.history if entry.role == "user"]) == 2


async def test_a_client_without_messages_gets_those_of_the_thread(server: LiveServer) -> None:
    assert kinds(await run(server)) == ["RUN_STARTED", "MESSAGES_SNAPSHOT", "RUN_FINISHED"]
    await run(server, user("hello"))
    client = Client().apply(await run(server, runId="r-2"))
    assert [message["content"] for message in client.messages] == ["hello", "hello "]
    body = run_input(user("/scripted x", id="m-2"), runId="r-3")
    async with server.session.post(server.url("/agui"), json=body) as response:
        server.scripted.emit("one ", end=False)
        async for event in read_events(response):
            if event["type"] == "TEXT_MESSAGE_CONTENT":
                break
    restored = asyncio.create_task(run(server, runId="r-4"))
    server.scripted.emit("two")
    client = Client().apply(await restored)
    assert [it["content"] for it in client.messages] == [
        "hello",
        "hello ",
        "/scripted x",
        "one two",
    ]
    await run(server, user("/waiter x", id="m-3"), runId="r-5")
    assert (await run(server, runId="r-6"))[-1]["outcome"]["type"] == "interrupt"


# Ends


async def test_a_run_is_stopped_by_its_thread(server: LiveServer) -> None:
    body = run_input(user("/scripted x"))
    client = Client(user("/scripted x"))
    async with server.session.post(server.url("/agui"), json=body) as response:
        server.scripted.emit("one ", end=False)
        async for event in read_events(response):
            client.apply([event])
            if event["type"] == "TEXT_MESSAGE_CONTENT":
                _, stopped = await server.post("/agui/stop", {"threadId": "t"})
                assert stopped == {"state": "stopping", "messageId": event["messageId"]}
    assert client.terminal is not None
    assert client.terminal["outcome"] == {"type": "cancelled"}
    again = {"threadId": "t", "messageId": client.messages[-1]["id"]}
    assert (await server.post("/agui/stop", again))[1]["state"] == "settled"


async def test_the_turn_goes_on_when_the_client_disconnects(server: LiveServer) -> None:
    body = run_input(user("/scripted x"))
    async with server.session.post(server.url("/agui"), json=body) as response:
        async for event in read_events(response):
            if event["type"] == "STATE_SNAPSHOT":
                break
    server.scripted.emit("done")

    async def is_settled() -> bool:
        history = (await server.server.snapshot(CONVERSATION)).history
        return bool(history) and history[-1].text == "done"

    await eventually(is_settled)


async def test_a_stopping_server_ends_the_run_with_an_error_that_says_what_to_do() -> None:
    async with open_agui_server() as server:
        body = run_input(user("/scripted x"))
        events: list[Json] = []
        async with server.session.post(server.url("/agui"), json=body) as response:
            server.scripted.emit("one ", end=False)
            async for event in read_events(response):
                events.append(event)
                if event["type"] == "TEXT_MESSAGE_CONTENT":
                    stopping = asyncio.create_task(server.stop_listening())
        await stopping
    assert [event["type"] for event in events[-2:]] == ["TEXT_MESSAGE_END", "RUN_ERROR"]
    assert events[-1]["code"] == "overloaded"


# Whose threads


async def test_a_thread_is_of_its_person(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {
        name: AuthKey(secret=Secret(f"env:KEY_{name.upper()}"), person=name, tenant="acme")
        for name in ("ada", "bob")
    }
    for name in keys:
        monkeypatch.setenv(f"KEY_{name.upper()}", f"the secret key of {name}")

    def key(name: str) -> Any:
        return {"headers": {"Authorization": f"Bearer the secret key of {name}"}}

    async with open_agui_server(keys=keys) as server:
        assert (await post(server, run_input(user("hello"))))[0] == 401
        await post(server, run_input(user("my secret")), **key("ada"))
        status, events = await post(server, run_input(), **key("bob"))
        assert status == 200
        assert isinstance(events, list)
        assert events[1] == {"type": "MESSAGES_SNAPSHOT", "messages": []}
        status, _ = await post(server, run_input(), params={"person": "ada"}, **key("bob"))
        assert status == 403
        _, stopped = await server.post("/agui/stop", {"threadId": "t"}, **key("bob"))
        assert stopped["state"] == "unknown"
        _, events = await post(server, run_input(), **key("ada"))
        assert isinstance(events, list)
        assert Client().apply(events).messages[0]["content"] == "my secret"


async def test_ids_of_the_client_may_be_anything(server: LiveServer) -> None:
    odd = "{a}:*/\n" + "ü" * 500
    events = await run(server, user("hello", id=odd), threadId=odd, runId=odd)
    assert events[0]["threadId"] == odd
    assert events[-1]["runId"] == odd


def contents(client: Client) -> list[str]:
    return [message["content"] for message in client.messages]
