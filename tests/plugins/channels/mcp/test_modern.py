"""The era without sessions: requests as a client of 2026-07-28 sends them."""

import asyncio
import base64
from typing import Any

import pytest
from tests.plugins.channels.mcp.support import (
    ELICITS,
    MODERN,
    Json,
    LegacyClient,
    ModernClient,
    open_mcp_server,
    read_events,
)
from tests.server.web.live_server import TIMEOUT_SECONDS, LiveServer, eventually

from palaver import Denied, Skill, Turn, tool
from palaver.testing import MemoryLedger
from palaver_plugins.channels.mcp.settings import Settings

pytestmark = pytest.mark.slow


async def test_discovery_and_lists_say_how_long_they_hold() -> None:
    async with open_mcp_server() as live_server:
        client = ModernClient(live_server)
        found = (await client.ask("server/discover")).result
        assert found["supportedVersions"][0] == MODERN
        assert found["capabilities"]["extensions"] == {"io.modelcontextprotocol/tasks": {}}
        assert found["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "palaver"
        for method in ("tools/list", "prompts/list", "resources/list"):
            listed = (await client.ask(method)).result
            assert (listed["resultType"], listed["cacheScope"]) == ("complete", "private")
            assert listed["ttlMs"] > 0


async def test_a_call_that_ends_at_once_is_one_response() -> None:
    async with open_mcp_server() as live_server:
        answer = await ModernClient(live_server).call("parrot", text="hello")
        assert answer.headers["Content-Type"].startswith("application/json")
        assert (answer.text, answer.result["resultType"]) == ("hello ", "complete")
        assert "Mcp-Session-Id" not in answer.headers


async def test_progress_makes_it_a_stream() -> None:
    async with open_mcp_server() as live_server:
        answer = await ModernClient(live_server).call(
            "parrot", {"progressToken": "t"}, text="hello"
        )
        *progress, last = answer.messages
        assert last["result"]["content"][0]["text"] == "hello "
        numbers = [each["params"]["progress"] for each in progress]
        assert numbers
        assert numbers == sorted(set(numbers))
        assert not answer.ids  # this version resumes nothing


@pytest.mark.slow
async def test_a_call_that_takes_long_becomes_a_stream() -> None:
    async with open_mcp_server() as live_server:
        client = ModernClient(live_server)
        body, headers = client.modern_request(
            "tools/call", {"name": "scripted", "arguments": {"text": "x"}}
        )
        async with asyncio.timeout(TIMEOUT_SECONDS), client.open(body, headers) as response:
            assert response.content_type == "text/event-stream"
            live_server.scripted.emit("late")
            [event] = [event async for event in read_events(response)]
        assert '"late"' in event["data"]


async def running_turns(live_server: LiveServer) -> int:
    return (await live_server.server.ledger.queue_depth()).running


@pytest.mark.slow
@pytest.mark.parametrize("key", ["", "again"])
async def test_closing_the_stream_cancels_unless_the_client_may_come_back(key: str) -> None:
    async with open_mcp_server() as live_server:
        client = ModernClient(live_server)
        arguments: Any = {"text": "x", **({"idempotency_key": key} if key else {})}
        body, headers = client.modern_request(
            "tools/call",
            {"name": "scripted", "arguments": arguments, "_meta": {"progressToken": 1}},
        )
        async with client.open(body, headers) as response:
            await anext(read_events(response))
            response.close()
        if key:
            call = asyncio.create_task(client.call("scripted", **arguments))
            live_server.scripted.emit("still here")
            assert (await call).text == "still here"
        else:

            async def has_stopped() -> bool:
                return await running_turns(live_server) == 0

            await eventually(has_stopped)


async def test_a_question_is_answered_with_the_repeated_request_at_any_replica() -> None:
    ledger = MemoryLedger()
    async with (
        open_mcp_server(ledger=ledger) as first,
        open_mcp_server(ledger=ledger) as second,
    ):
        client = ModernClient(first, capabilities=ELICITS)
        asked = (await client.call("waiter", text="a drink")).result
        assert asked["resultType"] == "input_required"
        [(name, question)] = asked["inputRequests"].items()
        assert question["method"] == "elicitation/create"
        assert question["params"]["message"] == "Tea or coffee?"
        other = ModernClient(second, capabilities=ELICITS)
        more = answer_to(asked, name, "accept", "tea")
        answered = await other.call("waiter", more=more, text="a drink")
        assert answered.text == "One tea, please."
        again = await client.call("waiter", more=answer_to(asked, name, "accept", "coffee"))
        assert again.text == "One tea, please."  # the first answer holds


def answer_to(asked: Json, name: str, action: str, text: str = "") -> Json:
    response: Json = {"action": action}
    if text:
        response["content"] = {"answer": text}
    return {"inputResponses": {name: response}, "requestState": asked["requestState"]}


async def test_an_answer_that_is_none_of_the_options_is_asked_for_again() -> None:
    async with open_mcp_server() as live_server:
        client = ModernClient(live_server, capabilities=ELICITS)
        asked = (await client.call("waiter", text="a drink")).result
        more = answer_to(asked, "question-1", "accept", "water")
        again = (await client.call("waiter", more=more)).result
        assert list(again["inputRequests"]) == ["question-2"]
        more = answer_to(again, "question-2", "accept", "coffee")
        assert (await client.call("waiter", more=more)).text == "One coffee, please."


async def test_an_answer_is_one_even_if_it_looks_like_a_command() -> None:
    async with open_mcp_server() as live_server:
        client = ModernClient(live_server, capabilities=ELICITS)
        asked = (await client.call("waiter", text="a drink")).result
        more = answer_to(asked, "question-1", "accept", "/parrot tea")
        again = (await client.call("waiter", more=more)).result
        assert again["resultType"] == "input_required"


async def test_a_declined_question_ends_the_call() -> None:
    async with open_mcp_server() as live_server:
        client = ModernClient(live_server, capabilities=ELICITS)
        asked = (await client.call("waiter", text="a drink")).result
        declined = await client.call("waiter", more=answer_to(asked, "question-1", "decline"))
        assert declined.result["isError"] is True
        assert "did not answer (decline)" in declined.text


# Approvals

RAN: list[str] = []


@tool(needs_approval=True)
def launch(target: str) -> str:
    """Launch something."""
    RAN.append(target)
    return f"launched at {target}"


class Launcher(Skill):
    """Launch, if one may."""

    name = "launcher"

    async def answer(self, turn: Turn) -> None:
        try:
            await turn.say(await turn.call_tool("launch", target=turn.message.text))
        except Denied:
            await turn.say("Then not.")


@pytest.mark.parametrize(
    ("action", "text", "said", "ran"),
    [
        ("accept", "Approve", "launched at the moon", ["the moon"]),
        ("accept", "Deny", "Then not.", []),
        ("accept", "why not", "Then not.", []),
        ("decline", "", "Then not.", []),
    ],
)
async def test_the_call_of_a_tool_is_approved_in_a_form(
    action: str, text: str, said: str, ran: list[str]
) -> None:
    RAN.clear()
    async with open_mcp_server(tools=[launch], skills=[Launcher()]) as live_server:
        client = ModernClient(live_server, capabilities=ELICITS)
        asked = (await client.call("launcher", text="the moon")).result
        form = asked["inputRequests"]["question-1"]["params"]
        assert "launch" in form["message"]
        assert "the moon" in form["message"]
        assert form["requestedSchema"]["properties"]["answer"]["enum"] == ["Approve", "Deny"]
        more = answer_to(asked, "question-1", action, text)
        assert (await client.call("launcher", more=more)).text.endswith(said)
        assert ran == RAN


async def test_an_allowed_tool_asks_as_well() -> None:
    RAN.clear()
    async with open_mcp_server(Settings(tools=("launch",)), tools=[launch]) as live_server:
        client = ModernClient(live_server, capabilities=ELICITS)
        asked = (await client.call("launch", target="mars")).result
        assert RAN == []
        more = answer_to(asked, "question-1", "accept", "Approve")
        assert (await client.call("launch", more=more)).text == "launched at mars"
        denied = (await client.call("launch", target="venus")).result
        answer = await client.call("launch", more=answer_to(denied, "question-1", "decline"))
        assert answer.result["isError"] is True
        assert RAN == ["mars"]
        unable = await ModernClient(live_server).call("launch", target="pluto")
        assert unable.result["isError"] is True
        assert RAN == ["mars"]


async def test_a_state_is_sealed_and_belongs_to_its_call() -> None:
    async with open_mcp_server() as live_server:
        client = ModernClient(live_server, capabilities=ELICITS)
        asked = (await client.call("waiter", text="a drink")).result
        more = answer_to(asked, "question-1", "accept", "tea")
        other = await client.call("parrot", more=more)
        assert (other.status, other.error["code"]) == (400, -32600)
        changed = {**more, "requestState": more["requestState"][:-4] + "AAAA"}
        assert (await client.call("waiter", more=changed)).status == 400


async def test_a_client_that_shows_no_forms_is_never_asked() -> None:
    async with open_mcp_server() as live_server:
        client = ModernClient(live_server, capabilities={"elicitation": {"url": {}}})
        asked = await client.call("waiter", text="a drink")
        assert asked.result["resultType"] == "complete"
        assert asked.text.startswith("Tea or coffee?")


# What a request must say

Headers = dict[str, str]


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"MCP-Protocol-Version": "2025-11-25"}, -32020),
        ({"Mcp-Method": "tools/list"}, -32020),
        ({"Mcp-Method": ""}, -32020),
        ({"Mcp-Name": "waiter"}, -32020),
        ({"Mcp-Name": "=?base64?!?="}, -32020),
    ],
)
async def test_headers_say_what_the_body_says(changed: Headers, code: int) -> None:
    async with open_mcp_server() as live_server:
        client = ModernClient(live_server)
        body, headers = client.modern_request(
            "tools/call", {"name": "parrot", "arguments": {"text": "x"}}
        )
        answer = await client.send(body, {**headers, **changed})
        assert (answer.status, answer.error["code"]) == (400, code)
        assert answer.last["id"] == body["id"]


async def test_a_header_may_be_encoded() -> None:
    async with open_mcp_server() as live_server:
        client = ModernClient(live_server)
        encoded = base64.b64encode(b"parrot").decode()
        answer = await client.ask(
            "tools/call",
            {"name": "parrot", "arguments": {"text": "x"}},
            **{"Mcp-Name": f"=?base64?{encoded}?="},
        )
        assert answer.text == "x "


async def test_a_version_of_no_era_is_refused_with_those_that_are_served() -> None:
    async with open_mcp_server() as live_server:
        client = ModernClient(live_server)
        body, headers = client.modern_request("tools/list")
        body["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = "2031-01-01"
        answer = await client.send(body, {**headers, "MCP-Protocol-Version": "2031-01-01"})
        assert (answer.status, answer.error["code"]) == (400, -32022)
        assert answer.error["data"]["supported"] == [MODERN, "2025-11-25", "2025-06-18"]
        assert answer.error["data"]["requested"] == "2031-01-01"


@pytest.mark.parametrize("key", ["protocolVersion", "clientCapabilities"])
async def test_a_request_says_everything_itself(key: str) -> None:
    async with open_mcp_server() as live_server:
        client = ModernClient(live_server)
        body, headers = client.modern_request("tools/list")
        del body["params"]["_meta"][f"io.modelcontextprotocol/{key}"]
        answer = await client.send(body, headers)
        assert (answer.status, answer.error["code"]) == (400, -32602)
        assert key in answer.error["message"]


async def test_unknown_methods_and_parameters() -> None:
    async with open_mcp_server() as live_server:
        client = ModernClient(live_server)
        answer = await client.ask("tools/destroy")
        assert (answer.status, answer.error["code"]) == (404, -32601)
        answer = await client.ask("ping")  # only in the era with sessions
        assert (answer.status, answer.error["code"]) == (404, -32601)
        answer = await client.ask("tools/call", {"arguments": {}})
        assert (answer.status, answer.error["code"]) == (400, -32602)
        answer = await client.ask("tools/call", {"name": "parrot", "arguments": []})
        assert (answer.status, answer.error["code"]) == (400, -32602)
        assert "arguments" in answer.error["message"]


async def test_notifications_are_acknowledged_and_mean_nothing() -> None:
    async with open_mcp_server() as live_server:
        client = ModernClient(live_server)
        note: Any = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {}}
        answer = await client.send(note, {"MCP-Protocol-Version": MODERN})
        assert (answer.status, answer.messages) == (202, [])
        response = {"jsonrpc": "2.0", "id": 1, "result": {}}
        answer = await client.send(response, {"MCP-Protocol-Version": MODERN})
        assert (answer.status, answer.error["code"]) == (400, -32600)


async def test_both_eras_share_conversations() -> None:
    async with open_mcp_server() as live_server:
        legacy = LegacyClient(live_server)
        await legacy.initialize()
        about: Any = {"text": "x", "idempotency_key": "k"}
        first = await legacy.call("parrot", **about)
        again = await ModernClient(live_server).call("parrot", **about)
        assert again.result["_meta"] == first.result["_meta"]
