"""A server dies while an agent works for it: the next owner of the turn asks for the same task."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession, web
from tests.plugins.channels.a2a.support import call as call_a2a
from tests.plugins.channels.a2a.support import open_a2a_server
from tests.plugins.tools.a2a.support import (
    HostileAgent,
    agent_settings,
    approve_all,
    ask,
    call_context,
    make_source,
    running_source,
    sent,
    task,
)
from tests.server.turns.test_takeover import die
from tests.server.web.live_server import LiveServer, eventually, open_live_server

from palaver import Conversation, OutcomeUnknown, Skill, ToolFailed, Turn
from palaver.config.settings import DispatchSettings
from palaver.testing import ChatClient, MemoryLedger
from palaver_plugins.tools.a2a.source import A2ASource

pytestmark = pytest.mark.slow
CONVERSATION = Conversation("default", "web", "t")
Json = Any  # JSON values


class Delegates(Skill):
    """Ask another agent."""

    name = "delegates"

    async def answer(self, turn: Turn) -> None:
        try:
            await turn.say(await turn.call_tool("ask_a", message=turn.message.text))
        except OutcomeUnknown:
            await turn.say("It is unknown.")
        except ToolFailed as error:
            await turn.say(str(error))


@contextlib.asynccontextmanager
async def front(ledger: MemoryLedger, source: A2ASource) -> AsyncIterator[ChatClient]:
    """Run a server whose skill asks an agent."""
    async with open_live_server(
        ledger=ledger,
        skills=[Delegates()],
        tool_sources={"a2a": source},
        dispatch=DispatchSettings(lease=0.5),
    ) as live_server:
        chat = ChatClient(live_server.server, CONVERSATION, "ada")
        await chat.server.subscribe(CONVERSATION, chat.recorder)
        yield chat


async def kill(chat: ChatClient, source: A2ASource) -> None:
    """End a server as SIGKILL does: it says nothing to the ledger or to the agent any more."""
    for program in source._programs.values():
        assert program.connection.calls is not None
        for work in program.connection.calls._background:
            work.cancel()
    for run in chat.server._dispatcher._runs.values():
        run.interruption.fence()  # so that the call, which is cancelled, does not cancel its task
    await die(chat.server)


async def send(chat: ChatClient, text: str) -> str:
    return await chat.send(text, skill="delegates")


async def tasks_of(agent: LiveServer) -> list[Json]:
    tasks: list[Json] = (await call_a2a(agent, "ListTasks", {}))["result"]["tasks"]
    return tasks


async def test_the_next_owner_follows_the_same_task() -> None:
    ledger = MemoryLedger()
    async with open_a2a_server() as agent, contextlib.AsyncExitStack() as stack:
        agents = {"a": agent_settings(agent.address)}
        first = make_source(agents)
        chat = await stack.enter_async_context(front(ledger, first))
        await first.connected()
        await approve_all(first)
        turn = await send(chat, "/scripted x")

        async def works() -> bool:
            return [each["status"]["state"] for each in await tasks_of(agent)] == [
                "TASK_STATE_WORKING"
            ]

        await eventually(works)
        await eventually(lambda: _knows_task(ledger))
        await kill(chat, first)
        heir = await stack.enter_async_context(front(ledger, make_source(agents)))
        agent.scripted.emit("It rains.")
        reply = await heir.reply(turn)
        assert reply == "It rains."
        assert len(await tasks_of(agent)) == 1


async def _knows_task(ledger: MemoryLedger) -> bool:
    (record,) = await ledger.list_records("a2a-client", "call:")
    return b'"task"' in record.value


class Lossy(HostileAgent):
    """Stands before an agent, and loses its answer to the first message."""

    def __init__(self, agent: LiveServer) -> None:
        super().__init__(SendMessage=self._send, GetTask=self._forward)
        self._agent = agent
        self.has_lost = asyncio.Event()

    async def _send(self, request: web.Request, params: Json) -> web.StreamResponse:
        response = await self._forward(request, params)
        if not self.has_lost.is_set():
            self.has_lost.set()
            await asyncio.Event().wait()  # until the client leaves
        return response

    async def _forward(self, request: web.Request, params: Json) -> web.StreamResponse:
        headers = {"A2A-Version": "1.0", "Content-Type": "application/json"}
        async with (
            ClientSession() as session,
            session.post(
                self._agent.url("/a2a"), data=await request.read(), headers=headers
            ) as response,
        ):
            return web.json_response(await response.json())


@pytest.mark.parametrize(
    ("is_idempotent", "expected"), [(True, "hello "), (False, "It is unknown.")]
)
async def test_a_server_dies_between_the_message_and_its_answer(
    is_idempotent: bool, expected: str
) -> None:
    """An agent that knows a message again gets it again, and its task is the same."""
    ledger = MemoryLedger()
    async with (
        open_a2a_server() as agent,
        Lossy(agent).serving() as lossy,
        contextlib.AsyncExitStack() as stack,
    ):
        assert isinstance(lossy, Lossy)
        agents = {"a": agent_settings(lossy.url, idempotent=is_idempotent)}
        first = make_source(agents)
        chat = await stack.enter_async_context(front(ledger, first))
        await first.connected()
        await approve_all(first)
        turn = await send(chat, "hello")
        await lossy.has_lost.wait()
        await kill(chat, first)
        heir = await stack.enter_async_context(front(ledger, make_source(agents)))
        assert await heir.reply(turn) == expected
        assert lossy.seen.count("SendMessage") == (2 if is_idempotent else 1)
        assert len(await tasks_of(agent)) == 1


async def test_a_server_that_has_just_started_knows_the_tool_before_the_card() -> None:
    ledger = MemoryLedger()
    async with HostileAgent().serving() as agent:
        agents = {"a": agent_settings(agent.url)}
        async with running_source(agents, records=ledger):
            pass
    source = make_source(agents)  # the agent is away
    await source.start(ledger)
    try:
        assert "ask_a" in source.tools
    finally:
        await source.close()


async def test_a_stopped_turn_cancels_the_task() -> None:
    ledger = MemoryLedger()
    async with open_a2a_server() as agent:
        source = make_source({"a": agent_settings(agent.address)})
        async with front(ledger, source) as chat:
            await source.connected()
            await approve_all(source)
            turn = await send(chat, "/scripted x")
            await eventually(lambda: _knows_one_task(ledger))
            await chat.stop(turn)
            assert (await chat.reply(turn)).outcome == "stopped"

            async def is_cancelled() -> bool:
                (found,) = await tasks_of(agent)
                return bool(found["status"]["state"] == "TASK_STATE_CANCELED")

            await eventually(is_cancelled)


async def _knows_one_task(ledger: MemoryLedger) -> bool:
    records = await ledger.list_records("a2a-client", "call:")
    return len(records) == 1 and b'"task"' in records[0].value


async def test_a_message_that_did_not_arrive_leaves_no_trace() -> None:
    ledger = MemoryLedger()
    async with contextlib.AsyncExitStack() as stack:
        async with HostileAgent(SendMessage=sent(task("COMPLETED", "x"))).serving() as agent:
            agents = {"a": agent_settings(agent.url)}
            source = await stack.enter_async_context(running_source(agents, records=ledger))
        with pytest.raises(ToolFailed, match="cannot be reached"):
            await ask(source, "hello", call_context())
    assert not await ledger.list_records("a2a-client", "call:")
