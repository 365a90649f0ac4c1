"""Clients of MCP that call tools through a load balancer while replicas are killed: the official
Python client in both eras, and tasks."""

import asyncio
import itertools
from collections import Counter
from typing import Any

import httpx2
import mcp_types
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from tests.chaos.findings import Findings
from tests.proofs.reference_plugin import reply_to

MODERN = "2026-07-28"
TASKS = "io.modelcontextprotocol/tasks"
CALL_SECONDS = 30.0
"""Seconds after which a call without a result is lost."""
RETRY_SECONDS = 0.2


class McpClients:
    """Clients that each call the reference skill again and again, in the three ways of `WAYS`.

    A call that fails is repeated with its idempotency key, as an application does; ``resumed``
    counts the streams that went on after a lost connection, ``repeated`` the repeated calls.
    """

    WAYS = ("session", "single", "task")

    def __init__(self, url: str) -> None:
        self.findings = Findings()
        self.calls: Counter[str] = Counter()
        """Calls with a result, by the way."""
        self.resumed = 0
        self.repeated = 0
        self._url = url
        self._numbers = itertools.count(1)
        self._stopping = False

    @property
    def count(self) -> int:
        return self.calls.total() + self.findings.lost

    async def run(self, count: int) -> None:
        """Run ``count`` clients at a time until `stop`."""
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(self._run_client(self.WAYS[number % len(self.WAYS)]))

    def stop(self) -> None:
        """Make no further call."""
        self._stopping = True

    async def _run_client(self, way: str) -> None:
        call = {"session": self._in_session, "single": self._alone, "task": self._as_task}[way]
        while not self._stopping:
            text = f"mcp {next(self._numbers)}"
            try:
                async with asyncio.timeout(CALL_SECONDS):
                    result = await self._repeat(call, text)
            except TimeoutError:
                self.findings.record("lost", f"{way}: no result of {text!r}")
                continue
            self.calls[way] += 1
            self._check(way, text, result)

    async def _repeat(self, call: Any, text: str) -> Any:  # Any: a way and its JSON result
        """Make a call until it has a result; a task that is cancelled makes no further one, also
        where the client has taken the cancellation for its own."""
        task = asyncio.current_task()
        assert task is not None
        while True:
            try:
                return await call(text)
            except* (MCPError, httpx2.HTTPError, OSError, LookupError):
                self.repeated += 1
            if task.cancelling():
                raise asyncio.CancelledError
            await asyncio.sleep(RETRY_SECONDS)

    def _check(self, way: str, text: str, result: Any) -> None:
        said = result["content"][0].get("text")
        if result.get("isError") or said != reply_to(text):
            self.findings.record("wrong", f"{way}: {text!r} → {result}")

    # The official client

    async def _in_session(self, text: str) -> Any:
        return await self._call_with_client(text, "legacy")

    async def _alone(self, text: str) -> Any:
        return await self._call_with_client(text, MODERN)

    async def _call_with_client(self, text: str, mode: str) -> Any:
        seen: list[float] = []

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            seen.append(progress)

        async with (
            self._http_client() as http,
            Client(streamable_http_client(self._url, http_client=http), mode=mode) as client,
        ):
            result = await client.call_tool(
                "reference", _arguments(text), progress_callback=on_progress
            )
        if seen != sorted(set(seen)):
            self.findings.record("reordered", f"{mode}: the progress of {text!r} was {seen}")
        return result.model_dump(by_alias=True, exclude_none=True, mode="json")

    def _http_client(self) -> httpx2.AsyncClient:
        async def count(response: httpx2.Response) -> None:
            if response.status_code == 200 and "last-event-id" in response.request.headers:
                self.resumed += 1

        return httpx2.AsyncClient(timeout=CALL_SECONDS, event_hooks={"response": [count]})

    # Tasks, which the official client does not know

    async def _as_task(self, text: str) -> Any:
        params = {"name": "reference", "arguments": _arguments(text)}
        async with httpx2.AsyncClient(timeout=CALL_SECONDS) as http:
            task = await self._request(http, "tools/call", "reference", params)
            while True:
                id = task["taskId"]
                task = await self._request(http, "tasks/get", id, {"taskId": id})
                if task["status"] == "completed":
                    return task["result"]
                await asyncio.sleep(RETRY_SECONDS)

    async def _request(
        self, http: httpx2.AsyncClient, method: str, name: str, params: dict[str, Any]
    ) -> Any:
        meta = {
            mcp_types.PROTOCOL_VERSION_META_KEY: MODERN,
            mcp_types.CLIENT_CAPABILITIES_META_KEY: {"extensions": {TASKS: {}}},
        }
        response = await http.post(
            self._url,
            json={"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}},
            headers={
                "Accept": "application/json, text/event-stream",
                "MCP-Protocol-Version": MODERN,
                "Mcp-Method": method,
                "Mcp-Name": name,
            },
        )
        answer = response.json()
        if "result" not in answer:
            raise LookupError(f"{response.status_code}: {answer}")
        return answer["result"]


def _arguments(text: str) -> dict[str, str]:
    return {"text": text, "idempotency_key": text}
