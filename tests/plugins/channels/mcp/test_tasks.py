"""The tasks extension: a call whose client comes back for the result, at any replica."""

import asyncio
from typing import Any

import pytest
from tests.plugins.channels.mcp.support import (
    ELICITS,
    TASKS,
    Json,
    ModernClient,
    open_mcp_server,
)
from tests.server.web.live_server import TIMEOUT_SECONDS

from palaver.testing import MemoryLedger

BOTH = ELICITS | TASKS


async def wait_for(client: ModernClient, task: Json, status: str) -> Json:
    """Ask for a task until it has the status."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while True:
            found: Json = (await client.ask("tasks/get", {"taskId": task["taskId"]})).result
            if found["status"] == status:
                return found
            await asyncio.sleep(0.01)


async def test_a_task_is_stored_before_its_client_knows_it() -> None:
    ledger = MemoryLedger()
    async with (
        open_mcp_server(ledger=ledger) as first,
        open_mcp_server(ledger=ledger) as second,
    ):
        task = (await ModernClient(first, capabilities=TASKS).call("parrot", text="hello")).result
        assert (task["resultType"], task["status"]) == ("task", "working")
        assert task["createdAt"].endswith("Z")
        assert task["ttlMs"] == 86_400_000
        other = ModernClient(second, capabilities=TASKS)
        done = await wait_for(other, task, "completed")
        assert done["resultType"] == "complete"
        assert done["result"]["content"] == [{"type": "text", "text": "hello "}]
        assert (done["taskId"], done["createdAt"]) == (task["taskId"], task["createdAt"])
        assert done["lastUpdatedAt"] >= done["createdAt"]


async def test_a_client_that_does_not_declare_them_gets_the_result() -> None:
    async with open_mcp_server() as live_server:
        assert (await ModernClient(live_server).call("parrot", text="x")).text == "x "


async def test_a_question_of_a_task_is_answered_by_an_update() -> None:
    async with open_mcp_server() as live_server:
        client = ModernClient(live_server, capabilities=BOTH)
        task = (await client.call("waiter", text="a drink")).result
        asking = await wait_for(client, task, "input_required")
        assert list(asking["inputRequests"]) == ["question-1"]
        await update(client, task, "question-2", {"action": "accept", "content": {"answer": "x"}})
        await update(client, task, "question-1", {"action": "accept", "content": {"answer": "x"}})
        asking = await wait_for_key(client, task, "question-2")
        await update(client, task, "question-2", {"action": "accept", "content": {"answer": "tea"}})
        done = await wait_for(client, task, "completed")
        assert done["result"]["content"][0]["text"] == "One tea, please."


async def wait_for_key(client: ModernClient, task: Json, key: str) -> Json:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while True:
            found = await wait_for(client, task, "input_required")
            if key in found["inputRequests"]:
                return found


async def update(client: ModernClient, task: Json, key: str, response: Json) -> None:
    answer = await client.ask(
        "tasks/update", {"taskId": task["taskId"], "inputResponses": {key: response}}
    )
    assert answer.result == {"resultType": "complete"}


async def test_a_declined_question_completes_a_task_with_an_error() -> None:
    async with open_mcp_server() as live_server:
        client = ModernClient(live_server, capabilities=BOTH)
        task = (await client.call("waiter", text="a drink")).result
        await wait_for(client, task, "input_required")
        await update(client, task, "question-1", {"action": "decline"})
        done = await wait_for(client, task, "completed")
        assert done["result"]["isError"] is True


@pytest.mark.parametrize("tool", ["scripted", "waiter"])
async def test_a_cancelled_task_is_stopped_at_any_replica(tool: str) -> None:
    ledger = MemoryLedger()
    async with (
        open_mcp_server(ledger=ledger) as first,
        open_mcp_server(ledger=ledger) as second,
    ):
        client = ModernClient(first, capabilities=BOTH)
        task = (await client.call(tool, text="x")).result
        await wait_for(client, task, "input_required" if tool == "waiter" else "working")
        other = ModernClient(second, capabilities=BOTH)
        answer = await other.ask("tasks/cancel", {"taskId": task["taskId"]})
        assert answer.result == {"resultType": "complete"}
        await wait_for(client, task, "cancelled")


METHODS: list[tuple[str, Json]] = [
    ("tasks/get", {}),
    ("tasks/update", {"inputResponses": {}}),
    ("tasks/cancel", {}),
]


@pytest.mark.parametrize(("method", "params"), METHODS)
async def test_unknown_tasks_and_clients_without_the_extension(method: str, params: Json) -> None:
    async with open_mcp_server() as live_server:
        client = ModernClient(live_server, capabilities=TASKS)
        unknown = await client.ask(method, {"taskId": "abc", **params})
        assert (unknown.status, unknown.error["code"]) == (400, -32602)
        incomplete: Any = await client.ask(method, params)
        assert (incomplete.status, incomplete.error["code"]) == (400, -32602)
        other = await ModernClient(live_server).ask(method, {"taskId": "abc", **params})
        assert (other.status, other.error["code"]) == (400, -32021)
        required = other.error["data"]["requiredCapabilities"]
        assert required == {"extensions": {"io.modelcontextprotocol/tasks": {}}}
