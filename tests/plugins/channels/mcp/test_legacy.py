"""The era with sessions: requests as a client of 2025-11-25 sends them."""

import asyncio
import json
from typing import Any

import pytest
from tests.plugins.channels.mcp.support import (
    ELICITS,
    LEGACY,
    Json,
    LegacyClient,
    open_mcp_server,
    read_events,
)
from tests.server.web.live_server import TIMEOUT_SECONDS, eventually

from palaver import Skill, Turn
from palaver.testing import MemoryLedger

pytestmark = pytest.mark.slow


async def test_a_skill_is_a_tool_whose_result_is_its_reply() -> None:
    async with open_mcp_server() as live_server:
        client = LegacyClient(live_server)
        answer = await client.initialize()
        assert answer.result["protocolVersion"] == LEGACY
        assert answer.result["serverInfo"]["name"] == "palaver"
        assert answer.result["capabilities"] == {"tools": {}, "prompts": {}, "resources": {}}
        listed = (await client.ask("tools/list")).result["tools"]
        assert {tool["name"] for tool in listed} >= {"parrot", "scholar", "waiter"}
        answer = await client.call("parrot", text="hello you")
        assert answer.result["content"] == [{"type": "text", "text": "hello you "}]
        assert answer.result["isError"] is False


@pytest.mark.parametrize(
    ("wanted", "served"),
    [("2025-11-25", "2025-11-25"), ("2025-06-18", "2025-06-18"), ("2024-11-05", "2025-11-25")],
)
async def test_the_version_is_the_wanted_one_if_it_is_served(wanted: str, served: str) -> None:
    async with open_mcp_server() as live_server:
        client = LegacyClient(live_server)
        assert (await client.initialize(wanted)).result["protocolVersion"] == served
        answer = await client.call("parrot", text="hello")
        assert answer.text == "hello "
        is_primed = len(answer.ids) == 2
        assert is_primed == (served == LEGACY)  # older clients know no event without data


async def test_progress_comes_only_where_a_token_asks_for_it_and_grows() -> None:
    async with open_mcp_server() as live_server:
        client = LegacyClient(live_server)
        await client.initialize()
        silent = await client.call("parrot", text="a b c")
        assert len(silent.messages) == 1
        live_server.scripted.emit("one ", end=False)
        call = asyncio.create_task(client.call("scripted", {"progressToken": "p"}, text="x"))
        await eventually(lambda: bool(live_server.scripted._script.empty()))
        live_server.scripted.emit("two")
        *progress, last = (await call).messages
        assert last["result"]["content"][0]["text"] == "one two"
        numbers = [each["params"]["progress"] for each in progress]
        assert numbers == sorted(set(numbers))
        assert numbers
        assert {each["params"]["progressToken"] for each in progress} == {"p"}


async def test_a_lost_stream_goes_on_at_another_replica() -> None:
    ledger = MemoryLedger()
    async with (
        open_mcp_server(ledger=ledger) as first,
        open_mcp_server(ledger=ledger) as second,
    ):
        client = LegacyClient(first)
        await client.initialize()
        other = LegacyClient(second)
        other.headers = client.headers
        body = client.call_body("scripted", {"progressToken": 7}, text="x")
        async with client.open(body) as response:
            events = read_events(response)
            seen = [await anext(events)]
            while "data" not in seen[-1] or not seen[-1]["data"]:
                seen.append(await anext(events))
        at = json.loads(seen[-1]["data"])["params"]["progress"]
        for server in (first, second):
            server.scripted.emit("the rest")
        answer = await other.send(
            {"method": "tools/call"}, {"Last-Event-ID": seen[-1]["id"]}, method="GET"
        )
        assert answer.last["id"] == body["id"]
        assert answer.text == "the rest"
        later = [m["params"]["progress"] for m in answer.messages if "method" in m]
        assert all(number > at for number in later)
        again = await other.send(
            {"method": "tools/call"}, {"Last-Event-ID": seen[0]["id"]}, method="GET"
        )
        assert again.last == answer.last
        assert again.ids[-1] == answer.ids[-1]


async def test_a_client_that_leaves_does_not_stop_its_call() -> None:
    async with open_mcp_server() as live_server:
        client = LegacyClient(live_server)
        await client.initialize()
        async with client.open(client.call_body("scripted", text="x")) as response:
            first = await anext(read_events(response))
        live_server.scripted.emit("finished")
        answer = await client.send({"method": "tools/call"}, {"Last-Event-ID": first["id"]}, "GET")
        assert answer.text == "finished"


async def test_a_notification_cancels_a_call_at_any_replica() -> None:
    ledger = MemoryLedger()
    async with (
        open_mcp_server(ledger=ledger) as first,
        open_mcp_server(ledger=ledger) as second,
    ):
        client = LegacyClient(first)
        await client.initialize()
        other = LegacyClient(second)
        other.headers = client.headers
        body = client.call_body("scripted", text="x")
        async with client.open(body) as response:
            events = read_events(response)
            await anext(events)
            cancelled = {
                "jsonrpc": "2.0",
                "method": "notifications/cancelled",
                "params": {"requestId": body["id"]},
            }
            answer = await other.send(cancelled)
            assert (answer.status, answer.messages) == (202, [])
            async with asyncio.timeout(TIMEOUT_SECONDS):
                last = json.loads((await anext(events))["data"])
        assert last["result"]["isError"] is True
        assert "stopped" in last["result"]["content"][-1]["text"]


async def open_question(
    client: LegacyClient, events: Any, tool: str = "waiter"
) -> tuple[Json, list[str]]:
    """Return the question that comes in a stream."""
    ids = []
    async with asyncio.timeout(TIMEOUT_SECONDS):
        async for event in events:
            ids.append(event["id"])
            if event.get("data"):
                message: Json = json.loads(event["data"])
                assert message["method"] == "elicitation/create"
                return message, ids
    raise AssertionError("the stream ended without a question")


def respond(question: Json, action: str, **content: str) -> Json:
    result = {"action": action, **({"content": content} if content else {})}
    return {"jsonrpc": "2.0", "id": question["id"], "result": result}


async def test_a_question_is_an_elicitation_that_any_replica_takes_the_answer_to() -> None:
    ledger = MemoryLedger()
    async with (
        open_mcp_server(ledger=ledger) as first,
        open_mcp_server(ledger=ledger) as second,
    ):
        client = LegacyClient(first)
        await client.initialize(**ELICITS)
        other = LegacyClient(second)
        other.headers = client.headers
        body = client.call_body("waiter", text="a drink")
        async with client.open(body) as response:
            events = read_events(response)
            question, _ = await open_question(client, events)
            assert question["params"]["message"] == "Tea or coffee?"
            field = question["params"]["requestedSchema"]["properties"]["answer"]
            assert field["description"] == "One of: tea, coffee"
            answer = await other.send(respond(question, "accept", answer="tea"))
            assert answer.status == 202
            again = await other.send(respond(question, "accept", answer="coffee"))
            assert again.status == 202  # the first answer holds
            async with asyncio.timeout(TIMEOUT_SECONDS):
                last = json.loads((await anext(events))["data"])
        assert last["result"]["content"][0]["text"] == "One tea, please."


@pytest.mark.slow
@pytest.mark.parametrize("action", ["decline", "cancel"])
async def test_a_declined_question_ends_the_call(action: str) -> None:
    async with open_mcp_server() as live_server:
        client = LegacyClient(live_server)
        await client.initialize(**ELICITS)
        async with client.open(client.call_body("waiter", text="a drink")) as response:
            events = read_events(response)
            question, _ = await open_question(client, events)
            assert (await client.send(respond(question, action))).status == 202
            async with asyncio.timeout(TIMEOUT_SECONDS):
                last = json.loads((await anext(events))["data"])
        assert last["result"]["isError"] is True
        assert f"did not answer ({action})" in last["result"]["content"][-1]["text"]


async def test_a_question_is_asked_again_only_where_it_has_not_arrived() -> None:
    async with open_mcp_server() as live_server:
        client = LegacyClient(live_server)
        await client.initialize(**ELICITS)
        async with client.open(client.call_body("waiter", text="a drink")) as response:
            question, ids = await open_question(client, read_events(response))
        async with client.open(None, {"Last-Event-ID": ids[0]}, "GET") as response:
            again, _ = await open_question(client, read_events(response))
        assert again == question
        async with client.open(None, {"Last-Event-ID": ids[-1]}, "GET") as response:
            events = read_events(response)
            assert "data" in await anext(events)  # the event without a message
            await client.send(respond(question, "accept", answer="tea"))
            async with asyncio.timeout(TIMEOUT_SECONDS):
                last = json.loads((await anext(events))["data"])
        assert last["result"]["content"][0]["text"] == "One tea, please."


async def test_a_client_without_forms_gets_the_question_and_answers_by_another_call() -> None:
    async with open_mcp_server() as live_server:
        client = LegacyClient(live_server)
        await client.initialize()
        asked = await client.call("waiter", text="a drink")
        assert asked.text.startswith("Tea or coffee?\nPossible answers: tea, coffee\n")
        name = asked.result["_meta"]["palaver/conversation"]
        assert name in asked.text
        answered = await client.call("waiter", text="coffee", conversation=name)
        assert answered.text == "One coffee, please."


class Counter(Skill):
    """Tell how many messages came before."""

    name = "counter"

    async def answer(self, turn: Turn) -> None:
        await turn.say(str(sum(entry.role == "user" for entry in turn.history)))


async def test_calls_with_the_same_conversation_see_the_earlier_ones() -> None:
    async with open_mcp_server(skills=[Counter()]) as live_server:
        client = LegacyClient(live_server)
        await client.initialize()
        assert (await client.call("counter", text="x")).text == "0"
        assert (await client.call("counter", text="x", conversation="talk")).text == "0"
        assert (await client.call("counter", text="x", conversation="talk")).text == "1"
        assert (await client.call("counter", text="x")).text == "0"


async def test_a_call_with_the_same_idempotency_key_is_one_call() -> None:
    async with open_mcp_server(skills=[Counter()]) as live_server:
        client = LegacyClient(live_server)
        await client.initialize()
        about: Any = {"text": "x", "idempotency_key": "k", "conversation": "talk"}
        first = await client.call("counter", **about)
        again = await client.call("counter", **about)
        assert again.result == first.result
        assert (await client.call("counter", text="x", conversation="talk")).text == "1"
        other = await client.call("counter", **{**about, "text": "y"})
        assert other.error["code"] == -32602
        assert "idempotency_key" in other.error["message"]


async def test_what_a_model_can_correct_is_a_result_not_an_error() -> None:
    async with open_mcp_server() as live_server:
        client = LegacyClient(live_server)
        await client.initialize()
        wrong = await client.call("parrot")
        assert wrong.result["isError"] is True
        assert "needs the argument 'text'" in wrong.text
        wrong = await client.call("parrot", text="x", colour="red")
        assert wrong.result["isError"] is True
        assert "colour" in wrong.text
        failed = await client.call("clumsy", text="x")
        assert failed.result["isError"] is True
        assert failed.result["content"][0]["text"] == "I will now "
        unknown = await client.call("nobody", text="x")
        assert unknown.error["code"] == -32602
