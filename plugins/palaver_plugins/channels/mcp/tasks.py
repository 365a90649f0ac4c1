"""The tasks extension: a call whose client comes back for the result.

A task is a call under another name: its id is the sealed call, and its state is that of the turns.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pydantic
from mcp_types import INVALID_PARAMS

from palaver import NotFound
from palaver_plugins.channels.mcp.calls import Call, CallFollower, Calls
from palaver_plugins.channels.mcp.clients import Client, require_tasks
from palaver_plugins.channels.mcp.outcomes import Outcomes
from palaver_plugins.channels.mcp.protocol import (
    CALL,
    Json,
    Request,
    RpcError,
    invalid_params,
    make_result,
)
from palaver_plugins.channels.mcp.questions import Answer
from palaver_plugins.channels.mcp.records import KEEP_SECONDS

POLL_MILLISECONDS = 1_000
"""After which a client should ask again."""
COMPLETE = {"resultType": "complete"}


class _Named(pydantic.BaseModel):
    taskId: str


class _Update(_Named):
    inputResponses: dict[str, Any]  # JSON values


class Tasks:
    """The methods of the extension."""

    def __init__(self, calls: Calls, outcomes: Outcomes) -> None:
        self._calls = calls
        self._outcomes = outcomes
        self.methods: dict[str, Callable[[Client, Request], Awaitable[Json]]] = {
            "tasks/get": self._get,
            "tasks/update": self._update,
            "tasks/cancel": self._cancel,
        }

    async def create(self, call: Call) -> Json:
        """Return the handle of a call that is stored."""
        follower = await self._calls.look(call)
        return {**self._describe(follower), "resultType": "task", "status": "working"}

    async def _get(self, client: Client, request: Request) -> Json:
        call = self._read(client, request, _Named)
        follower = await self._look(call)
        task = self._describe(follower)
        if await self._outcomes.is_cancelled(follower):
            return {**task, "status": "cancelled"}
        result = await self._outcomes.find(follower, client)
        if result is None:
            return {**task, "status": "working"}
        if result.get("resultType") == "input_required":
            requests = result["inputRequests"]
            return {**task, "status": "input_required", "inputRequests": requests}
        return {
            **task,
            "status": "completed",
            "result": make_result(CALL, client.version, result),
        }

    async def _update(self, client: Client, request: Request) -> Json:
        call = self._read(client, request, _Update)
        follower = await self._look(call)
        if follower.is_asking:
            responses = request.params["inputResponses"]
            await self._outcomes.take(call, follower.number, responses)
        return COMPLETE

    async def _cancel(self, client: Client, request: Request) -> Json:
        call = self._read(client, request, _Named)
        follower = await self._look(call)
        if follower.is_asking:  # no turn runs that could be stopped
            await self._outcomes.take_answer(call, follower.number, Answer("cancel"))
        elif not follower.is_finished:
            await self._calls.stop(call)
        return COMPLETE

    def _read(self, client: Client, request: Request, form: type[_Named]) -> Call:
        """Return the call of a request. Raises `RpcError`."""
        require_tasks(client)
        try:
            form.model_validate(request.params)
        except pydantic.ValidationError as error:
            raise invalid_params(error) from None
        call = self._calls.read(request.params["taskId"], client)
        if call is None:
            raise _unknown()
        return call

    async def _look(self, call: Call) -> CallFollower:
        follower = await self._calls.look(call)
        try:
            _ = follower.reply
        except NotFound:
            raise _unknown() from None
        return follower

    def _describe(self, follower: CallFollower) -> Json:
        task: Json = {
            **COMPLETE,
            "taskId": self._calls.seal(follower.call),
            "createdAt": _format_time(follower.created_at),
            "lastUpdatedAt": _format_time(follower.updated_at),
            "ttlMs": int(KEEP_SECONDS * 1000),
            "pollIntervalMs": POLL_MILLISECONDS,
        }
        if follower.progress is not None:
            task["statusMessage"] = follower.progress[1]
        return task


def _unknown() -> RpcError:
    return RpcError(INVALID_PARAMS, "there is no such task")


def _format_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
