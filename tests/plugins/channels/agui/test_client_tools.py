"""Tools of the client: the model calls them, the run ends, and the next one brings the results."""

import asyncio
from typing import Any

import pytest
from tests.plugins.channels.agui.support import (
    CONVERSATION,
    Client,
    Json,
    open_agui_server,
    post,
    run,
    run_input,
    user,
)
from tests.server.web.live_server import LiveServer

from palaver import tool
from palaver.config.settings import AgentSettings
from palaver.testing import ScriptedEngine, ScriptedReply, tool_call
from palaver_skills.agent import Agent

pytestmark = pytest.mark.slow

THERMOMETER: Json = {
    "name": "weather",
    "description": "How warm it is.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
HOW_WARM = tool_call("weather", city="Rome")
ABOUT: Json = {"tools": [THERMOMETER], "forwardedProps": {"palaver": {"skill": "agent"}}}


@tool
def note(text: str) -> str:
    """Take a note."""
    NOTES.append(text)
    return "noted"


NOTES: list[str] = []


def open_agent_server(*replies: Any, engine: ScriptedEngine | None = None) -> Any:
    NOTES.clear()
    engine = engine or ScriptedEngine(*replies)
    settings = AgentSettings(tools=("note",))
    return open_agui_server(engine=engine, skills=(Agent(),), more_tools=(note,), agents=settings)


def result_of(call: str, content: str = "15 degrees") -> Json:
    return {"id": f"result of {call}", "role": "tool", "toolCallId": call, "content": content}


def pending(client: Client) -> list[str]:
    assert client.terminal is not None
    outcome = client.terminal["outcome"]
    assert outcome["type"] == "success"
    calls: list[str] = outcome.get("pendingToolCallIds", [])
    return calls


async def begin(server: LiveServer) -> Client:
    return Client(user("How warm?")).apply(await run(server, user("How warm?"), **ABOUT))


async def test_the_result_of_the_client_continues_the_run_of_the_skill() -> None:
    engine = ScriptedEngine(tool_call("note", text="Rome"), HOW_WARM, "It is warm.")
    async with open_agent_server(engine=engine) as server:
        first = await begin(server)
        (call,) = pending(first)
        assert first.calls[call]["function"] == {
            "name": "weather",
            "arguments": '{"city": "Rome"}',
        }
        transcript = [*first.messages, result_of(call)]
        second = Client(*transcript).apply(await run(server, *transcript, runId="r-2", **ABOUT))
        assert (second.reply, pending(second)) == ("It is warm.", [])
        assert engine.requests[-1].messages[-1].content == "<result>\n15 degrees\n</result>"
        again = await run(server, *second.messages, runId="r-2", **ABOUT)
        assert Client(*second.messages).apply(again).messages == second.messages
        history = (await server.server.snapshot(CONVERSATION)).history
        assert [entry.role for entry in history] == ["user", "assistant"] * 2
        restored = Client().apply(await run(server, runId="r-3"))
        assert [it["role"] for it in restored.messages] == [
            *("user", "assistant", "tool"),  # the server's own call
            *("tool", "assistant"),
        ]
        assert restored.calls == second.calls
    assert NOTES == ["Rome"]
    assert len(engine.requests) == 3


async def test_a_reloaded_page_knows_which_calls_wait() -> None:
    async with open_agent_server(HOW_WARM) as server:
        first = await begin(server)
        restored = Client().apply(await run(server, runId="r-2"))
    assert pending(restored) == pending(first) != []
    assert restored.calls == first.calls


async def test_all_calls_are_answered_together_and_once() -> None:
    both = ScriptedReply(text="Now.", tool_calls=(HOW_WARM, tool_call("weather", city="Oslo")))
    async with open_agent_server(both, "Warm and cold.") as server:
        first = await begin(server)
        one, other = pending(first)
        part = [*first.messages, result_of(one)]
        status, refused = await post(server, run_input(*part, runId="r-2", **ABOUT))
        assert status == 400
        assert isinstance(refused, dict)
        assert "expected the result" in refused["error"]["message"]
        both_results = [*part, result_of(other, "cold")]
        bodies = (run_input(*both_results, runId=f"r-{number}", **ABOUT) for number in (3, 4))
        runs = await asyncio.gather(*(post(server, body) for body in bodies))
        for status, events in runs:
            assert status == 200
            assert isinstance(events, list)
            assert Client(*both_results).apply(events).reply == "Warm and cold."
        changed = [*part, result_of(other, "hot")]
        status, refused = await post(server, run_input(*changed, runId="r-5", **ABOUT))
        assert status == 409, refused


async def test_a_message_of_the_user_goes_before_results_that_nobody_waits_for() -> None:
    async with open_agent_server(HOW_WARM, "Never mind.") as server:
        first = await begin(server)
        (call,) = pending(first)
        further = [*first.messages, result_of(call), user("Forget it", "m-2")]
        client = Client(*further).apply(await run(server, *further, runId="r-2", **ABOUT))
        assert client.reply == "Never mind."
        late = [*first.messages, result_of(call)]
        status, refused = await post(server, run_input(*late, runId="r-3", **ABOUT))
    assert status == 409, refused


async def test_an_empty_result_and_an_error_are_results() -> None:
    for given, seen in (({"content": ""}, ""), ({"content": "", "error": "no net"}, "no net")):
        engine = ScriptedEngine(HOW_WARM, "Done.")
        async with open_agent_server(engine=engine) as server:
            first = await begin(server)
            (call,) = pending(first)
            transcript = [*first.messages, result_of(call) | given]
            client = Client(*transcript).apply(await run(server, *transcript, runId="r-2", **ABOUT))
            assert client.reply == "Done."
        assert engine.requests[-1].messages[-1].content == f"<result>\n{seen}\n</result>"


async def test_skills_that_call_no_tools_of_a_client_are_not_offered_them() -> None:
    async with open_agent_server() as server:
        events = await run(server, user("/counter go"), tools=[THERMOMETER])
    assert Client(user("/counter go")).apply(events).reply == "Let me see: 42."


@pytest.mark.parametrize(
    ("tools", "problem"),
    [
        ([{"description": "x"}], "tools[0]"),
        ([{"name": "two words"}], "tools[0].name"),
        ([THERMOMETER, THERMOMETER], "tools[1].name"),
        ([{"name": "x", "parameters": []}], "tools[0]"),
        ([{"name": "x", "parameters": {"pattern": "a{9999}"}}], "tools[0].parameters"),
        ([{"name": f"t{number}"} for number in range(129)], "at most 128"),
    ],
)
async def test_tools_that_no_model_could_call_are_refused(tools: list[Json], problem: str) -> None:
    async with open_agent_server() as server:
        status, refused = await post(server, run_input(user("x"), tools=tools))
    assert status == 400
    assert isinstance(refused, dict)
    assert problem in refused["error"]["message"]
    assert refused["error"]["code"] == "invalid_input"
