"""Agent: the operations of A2A, whatever binding they come by."""

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from palaver import (
    Conflict,
    Conversation,
    ConversationAccess,
    ConversationService,
    Message,
    follow_pending_as,
    follow_reply_as,
)
from palaver_plugins.channels.a2a.contexts import (
    Caller,
    check_context,
    context_for,
    message_id_for,
)
from palaver_plugins.channels.a2a.errors import (
    InvalidParams,
    TaskNotCancelable,
    TaskNotFound,
    UnsupportedOperation,
)
from palaver_plugins.channels.a2a.push import PushNotifications
from palaver_plugins.channels.a2a.shapes import (
    ENDS_STREAM,
    OWN_KEY,
    TERMINAL,
    Json,
    ListRequest,
    ListResponse,
    Nothing,
    PushConfig,
    PushConfigs,
    PushRequest,
    SendRequest,
    Shape,
    Task,
    TaskRequest,
    check_output_modes,
    read_approval,
    read_parts,
)
from palaver_plugins.channels.a2a.task_reader import TaskReader, TaskView
from palaver_plugins.channels.a2a.task_stream import TaskReply, TaskStream
from palaver_plugins.channels.questions import answer_to

CANCEL_SECONDS = 10.0
"""Seconds that a cancelled turn has to end before the task is returned as it is."""


class OwnMetadata(msgspec.Struct, frozen=True):
    """What a client may tell the server itself, in ``message.metadata.palaver``."""

    skill: str | None = None
    arguments: dict[str, Any] = {}  # JSON values, validated by the skill's Arguments model


class Agent:
    """The server as an agent of A2A."""

    def __init__(self, service: ConversationService, push: PushNotifications) -> None:
        self._service = service
        self._push = push
        self._reader = TaskReader(service)

    # Messages

    async def send(self, caller: Caller, request: SendRequest) -> Json:
        """Return the task of a message, when it has ended or asks; at once where the client wants
        that."""
        message = await self._message(caller, request)
        length = request.configuration.history_length
        async with follow_reply_as(TaskReply, self._service, message) as reply:
            task = await self._accepted(caller, request, message, reply)
            if request.configuration.return_immediately:
                return {"task": task.shape(history_length=length)}
            await reply.wait()
        task = await self._reader.read(caller, str(task.name))
        return {"task": task.shape(history_length=length)}

    async def stream(self, caller: Caller, request: SendRequest, stream: TaskStream) -> None:
        """Send the events of the task of a message."""
        message = await self._message(caller, request)
        async with follow_reply_as(TaskReply, self._service, message) as reply:
            task = await self._accepted(caller, request, message, reply)
            await self._follow(caller, task, reply, stream)

    async def subscribe(self, caller: Caller, request: TaskRequest, stream: TaskStream) -> None:
        """Send a task, and its further events until it ends or asks."""
        task = await self._reader.read(caller, request.id)
        if task.state in TERMINAL:
            raise UnsupportedOperation("the task has ended: get it")
        pending = task.newest.pending
        if pending is None:
            await stream.put([{"task": task.shape()}])
            return
        conversation = caller.conversation(task.name.context_id)
        async with follow_pending_as(
            TaskReply, self._service, conversation, pending, person=caller.person
        ) as reply:
            await self._follow(caller, task, reply, stream)

    async def _follow(
        self, caller: Caller, task: TaskView, reply: TaskReply, stream: TaskStream
    ) -> None:
        if task.state in ENDS_STREAM:
            await stream.put([{"task": task.shape()}])
            return
        events = await stream.follow(task, reply)
        task = await self._reader.read(caller, str(task.name))
        await stream.put([events.status(task.status)])

    async def _message(self, caller: Caller, request: SendRequest) -> Message:
        """Return the message of a request. Raises `InvalidParams`, `TaskNotFound`, and
        `UnsupportedOperation` for a task that takes none."""
        sent = request.message
        if sent.role != "ROLE_USER":
            raise InvalidParams("message.role: expected ROLE_USER", "message.role")
        check_output_modes(request.configuration.accepted_output_modes)
        task = await self._reader.read(caller, sent.task_id) if sent.task_id else None
        context_id = sent.context_id or context_for(caller, sent.message_id)
        if task is not None:
            context_id = task.name.context_id
            if sent.context_id not in ("", context_id):
                raise InvalidParams("the task is of another context", "message.contextId")
        own = _own_metadata(sent.metadata)
        text, attachments = read_parts(sent.parts)
        message = Message(
            conversation=caller.conversation(check_context(context_id)),
            id=message_id_for(sent.message_id),
            person=caller.person,
            text=text,
            attachments=attachments,
            skill=own.skill,
            arguments=own.arguments,
        )
        if task is not None:
            return await self._answer(task, message, read_approval(sent.parts))
        return message

    async def _answer(self, task: TaskView, message: Message, is_approved: bool | None) -> Message:
        """Return a message as the answer to the question of a task. ``is_approved``: as a program
        says it. Raises `UnsupportedOperation`."""
        asked = [turn for turn in task.turns if turn.has_asked]
        question = asked[-1].question if asked else None
        if is_approved is not None and question is not None and question.approval:
            approve, deny = question.options
            message = msgspec.structs.replace(message, text=approve if is_approved else deny)
        try:
            return await answer_to(self._service, message, asked[-1].turn if asked else "")
        except Conflict as error:
            state = "has ended" if task.state in TERMINAL else "is working"
            detail = f"the task {state}: send a message without taskId"
            raise UnsupportedOperation(detail) from error

    async def _accepted(
        self, caller: Caller, request: SendRequest, message: Message, reply: TaskReply
    ) -> TaskView:
        """Return the task of a message that is stored."""
        turn = reply.receipt.turn
        task = await self._reader.task_with(caller, message.conversation, turn)
        config = request.configuration.task_push_notification_config
        if config is not None:
            config.task_id = str(task.name)
            await self._push.create(caller, config)
        await self._push.wake_task(caller, str(task.name))
        return task

    # Tasks

    async def get(self, caller: Caller, request: TaskRequest) -> Task:
        task = await self._reader.read(caller, request.id)
        return task.shape(history_length=request.history_length)

    async def cancel(self, caller: Caller, request: TaskRequest) -> Task:
        """Stop the turn of a task, or withdraw its question; return the task when it has ended."""
        task = await self._reader.read(caller, request.id)
        if task.state in TERMINAL:
            raise TaskNotCancelable("the task has ended")
        conversation, pending = caller.conversation(task.name.context_id), task.newest.pending
        if pending is None:
            message = _withdrawal(caller, conversation, task.newest.turn)
            async with follow_reply_as(TaskReply, self._service, message) as reply:
                await self._push.wake_task(caller, str(task.name))
                await _wait_for_end(reply)
        else:
            access = ConversationAccess(self._service, conversation, caller.person)
            async with follow_pending_as(
                TaskReply, self._service, conversation, pending, person=caller.person
            ) as reply:
                await access.stop(pending.turn)
                await _wait_for_end(reply)
        return (await self._reader.read(caller, request.id)).shape()

    async def list_tasks(self, caller: Caller, request: ListRequest) -> ListResponse:
        after = _parse_time(request.status_timestamp_after)
        found = [
            task
            for task in await self._reader.list_tasks(caller, check_context(request.context_id))
            if request.status in ("", "TASK_STATE_UNSPECIFIED", task.state)
            and task.newest.at >= after
        ]
        begin = _parse_page(request.page_token)
        end = begin + request.page_size
        return ListResponse(
            tasks=[
                task.shape(
                    history_length=request.history_length, has_artifacts=request.include_artifacts
                )
                for task in found[begin:end]
            ],
            next_page_token=str(end) if end < len(found) else "",
            page_size=request.page_size,
            total_size=len(found),
        )

    # Push notifications

    async def create_push(self, caller: Caller, config: PushConfig) -> PushConfig:
        await self._reader.read(caller, config.task_id)
        return await self._push.create(caller, config)

    async def get_push(self, caller: Caller, request: PushRequest) -> PushConfig:
        for config in await self._configs(caller, request):
            if config.id == request.id:
                return config
        raise TaskNotFound("the task has no such push notification configuration")

    async def list_push(self, caller: Caller, request: PushRequest) -> PushConfigs:
        return PushConfigs(configs=list(await self._configs(caller, request)))

    async def delete_push(self, caller: Caller, request: PushRequest) -> Shape:
        await self._reader.read(caller, request.task_id)
        await self._push.delete(caller, request.task_id, request.id)
        return Nothing()

    async def _configs(self, caller: Caller, request: PushRequest) -> Sequence[PushConfig]:
        await self._reader.read(caller, request.task_id)
        return await self._push.of_task(caller, request.task_id)


def _withdrawal(caller: Caller, conversation: Conversation, turn: str) -> Message:
    """Return the message that withdraws the question of a turn. No client's has such an id."""
    return Message(
        conversation=conversation,
        id=f"withdraw-{turn}",
        person=caller.person,
        text="cancel",
        withdraws=turn,
    )


async def _wait_for_end(reply: TaskReply) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CANCEL_SECONDS):
            await reply.wait()


def _own_metadata(metadata: Json | None) -> OwnMetadata:
    own = (metadata or {}).get(OWN_KEY)
    if own is None:
        return OwnMetadata()
    try:
        return msgspec.convert(own, OwnMetadata)
    except msgspec.ValidationError as error:
        raise InvalidParams(f"message.metadata.{OWN_KEY}: {error}", "message.metadata") from error


def _parse_time(text: str) -> float:
    """Return a time of the protocol; 0 when there is none. Raises `InvalidParams`."""
    if not text:
        return 0.0
    try:
        return msgspec.convert(text, datetime).timestamp()
    except (msgspec.ValidationError, ValueError, OverflowError, OSError) as error:
        raise InvalidParams(
            "statusTimestampAfter: expected a time such as 2026-01-01T00:00:00Z",
            "statusTimestampAfter",
        ) from error


def _parse_page(token: str) -> int:
    if not token:
        return 0
    if not (token.isascii() and token.isdigit() and len(token) < 10):
        raise InvalidParams("pageToken: it is none of this server", "pageToken")
    return int(token)
