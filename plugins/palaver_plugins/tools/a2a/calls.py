"""Calls: asks an agent, once for each call, whichever server goes on with the call.

What is known of a call is a record in the ledger: first that its message is sent, then the task
that the message has become. A server that takes the call over follows the same task. Records are
deleted after `KEPT_SECONDS`.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

import msgspec

from palaver import (
    Conflict,
    InvalidInput,
    OutboundError,
    OutcomeUnknown,
    RecordStore,
    ToolContext,
    ToolFailed,
    Unsent,
    encode,
)
from palaver_plugins.tools.a2a.card import Endpoint
from palaver_plugins.tools.a2a.client import TASK_NOT_FOUND, AgentClient, AgentError
from palaver_plugins.tools.a2a.results import (
    INPUT_REQUIRED,
    SETTLED,
    render_message,
    render_task,
)
from palaver_plugins.tools.a2a.settings import RECORDS, AgentSettings
from palaver_plugins.tools.a2a.shapes import RemoteStatus, RemoteTask, SendResult
from palaver_plugins.tools.pinned.definition import Json

KEPT_SECONDS = 86_400.0
ATTEMPTS, ATTEMPT_SECONDS = 3, 0.5
"""Times that a message is sent which the agent has not got, and seconds before the second; then
twice as many."""
FIRST_PAUSE, MAX_PAUSE = 0.1, 5.0
"""Seconds between two looks at a task."""
WATCHES = 10
"""Pauses for which its stream is watched meanwhile: some agents never end it."""
CLOSE_SECONDS = 2.0
"""Seconds that tasks have to be cancelled when the server stops."""
T = TypeVar("T")


class Call(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of a call. ``task`` is empty while its message is sent; ``answered``
    identifies the question that the message answers."""

    task: str = ""
    answered: str = ""


class Question(msgspec.Struct, frozen=True, omit_defaults=True):
    """A task that has asked a conversation. ``id`` identifies the question."""

    context: str
    id: str


class AgentCalls:
    """The calls of one agent. ``client`` returns when there is a connection."""

    def __init__(
        self,
        agent: str,
        settings: AgentSettings,
        client: Callable[[], Awaitable[AgentClient]],
        records: RecordStore,
    ) -> None:
        self._agent = agent
        self._settings = settings
        self._client = client
        self._records = records
        self._background: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        """Finish what is still sent and cancelled, within `CLOSE_SECONDS`."""
        if self._background:
            await asyncio.wait(self._background, timeout=CLOSE_SECONDS)
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    async def ask(
        self, endpoint: Endpoint, arguments: Mapping[str, Json], context: ToolContext
    ) -> str:
        """Return what the agent answers, as text for a model. Raises `ToolFailed`,
        `OutcomeUnknown` and `InvalidInput`."""
        beginning = self._spawn(self._begin(endpoint, arguments, context))
        try:
            async with asyncio.timeout(self._settings.max_timeout) as timeout:
                return await self._conclude(endpoint, await asyncio.shield(beginning), context)
        except TimeoutError:
            if not timeout.expired():
                raise
            self._spawn(self._cancel(endpoint, beginning))
            seconds = self._settings.max_timeout
            raise ToolFailed(
                f"The agent did not finish within {seconds:g} s; its task is cancelled."
            ) from None
        except asyncio.CancelledError:
            if not context.services.is_handed_over:
                self._spawn(self._cancel(endpoint, beginning))
            raise
        except AgentError as error:
            raise ToolFailed(f"The agent answers: {_describe(error)}") from error

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run something to its end, also when its call is cancelled meanwhile."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled():
            task.exception()  # who waits for the task gets it

    # Sending

    async def _begin(
        self, endpoint: Endpoint, arguments: Mapping[str, Json], context: ToolContext
    ) -> tuple[SendResult, str]:
        """Return what the message of the call has become, and the question that it answers."""
        key = self._key("call", context.call)
        record = await self._records.read_record(RECORDS, key)
        if record is not None:
            known = _decode_call(record.value)
            if known.task:
                return SendResult(task=RemoteTask(id=known.task)), known.answered
            if not self._settings.idempotent:
                raise self._unknown()
        message, answered = await self._make_message(arguments, context)
        may_have_run = record is not None
        if record is None:
            record = await self._write(key, Call(answered=answered), 0)
        try:
            result = await self._send(endpoint, message, may_have_run)
        except Unsent as error:
            await self._records.delete_record(RECORDS, key, expect=record.version)
            raise ToolFailed(f"The agent cannot be reached: {error}") from error
        if result.task is not None:
            await self._write(key, Call(result.task.id, answered), record.version)
        return result, answered

    async def _make_message(
        self, arguments: Mapping[str, Json], context: ToolContext
    ) -> tuple[Json, str]:
        """Return the message of a call, whose id is a function of the call's, and the question
        that it answers."""
        message: Json = {
            "messageId": hashlib.sha256(f"palaver\0{context.call}".encode()).hexdigest()[:32],
            "role": "ROLE_USER",
            "parts": [{"text": _read_text(arguments, "message")}],
        }
        if "task" not in arguments:
            return message, ""
        task = _read_text(arguments, "task")
        record = await self._records.read_record(RECORDS, self._question_key(task, context))
        if record is None:
            raise InvalidInput(f"The agent has asked nothing here in a task {task[:60]!r}.")
        question = _decode_question(record.value)
        return {**message, "taskId": task, "contextId": question.context}, question.id

    async def _send(self, endpoint: Endpoint, message: Json, may_have_run: bool) -> SendResult:
        """Send a message, again where that is harmless. ``may_have_run``: it may have been sent
        before. Raises `Unsent` when the agent has certainly not got it."""
        client, pause = await self._client(), ATTEMPT_SECONDS
        for attempt in range(ATTEMPTS):
            try:
                return await client.send(endpoint, message)
            except OutboundError as error:
                may_have_run = may_have_run or not isinstance(error, Unsent)
                is_last = attempt == ATTEMPTS - 1
                if may_have_run and (is_last or not self._settings.idempotent):
                    raise self._unknown() from error
                if is_last:
                    raise
            await asyncio.sleep(pause)
            pause *= 2
        raise AssertionError("unreachable")

    def _unknown(self) -> OutcomeUnknown:
        return OutcomeUnknown(f"it is unknown whether the agent {self._agent!r} got the message")

    # Following

    async def _conclude(
        self, endpoint: Endpoint, begun: tuple[SendResult, str], context: ToolContext
    ) -> str:
        (result, answered), limit = begun, self._settings.max_result_characters
        if result.message is not None:
            return render_message(result.message, limit)
        if result.task is None:
            raise AgentError("its answer is neither a task nor a message")
        task = result.task
        if not _is_settled(task, answered):
            task = await self._follow(endpoint, task.id, answered)
        if task.status.state == INPUT_REQUIRED:
            await self._note_question(task, context)
        return render_task(task, limit)

    async def _follow(self, endpoint: Endpoint, id: str, answered: str) -> RemoteTask:
        """Return a task when it is settled; an agent that does not answer is asked again."""
        client, loop, pause = await self._client(), asyncio.get_running_loop(), FIRST_PAUSE
        while True:
            began_at = loop.time()
            with contextlib.suppress(OutboundError):
                task = await client.get(endpoint, id)
                if _is_settled(task, answered):
                    return task
                if endpoint.has_streams:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(WATCHES * pause):
                            await client.watch(endpoint, id)
            await asyncio.sleep(max(0.0, began_at + pause - loop.time()))
            pause = min(1.5 * pause, MAX_PAUSE)

    async def _cancel(
        self, endpoint: Endpoint, beginning: "asyncio.Task[tuple[SendResult, str]]"
    ) -> None:
        """Cancel the task that a message becomes."""
        try:
            async with asyncio.timeout(self._settings.timeout):
                result, _ = await beginning
                if result.task is not None:
                    await (await self._client()).cancel(endpoint, result.task.id)
        except (AgentError, OutboundError, TimeoutError, ToolFailed, OutcomeUnknown):
            pass  # the task has ended, or the agent is not reached

    # Records

    async def _note_question(self, task: RemoteTask, context: ToolContext) -> None:
        """Let the conversation answer the question of a task: no other one may."""
        key = self._question_key(task.id, context)
        question = Question(context=task.context_id, id=_question_of(task.status))
        record = await self._records.read_record(RECORDS, key)
        await self._write(key, question, record.version if record else 0)

    async def _write(self, key: str, value: Call | Question, expect: int) -> Any:  # Any: a Record
        try:
            return await self._records.write_record(
                RECORDS, key, encode(value), expect=expect, due_in=KEPT_SECONDS
            )
        except Conflict as error:  # another server goes on with the call
            raise self._unknown() from error

    def _question_key(self, task: str, context: ToolContext) -> str:
        return self._key("question", f"{context.conversation}\0{context.person}\0{task}")

    def _key(self, what: str, name: str) -> str:
        return f"{what}:{self._agent}:{hashlib.sha256(name.encode()).hexdigest()[:32]}"


async def delete_old(records: RecordStore) -> None:
    """Delete the records of calls and questions that are old. Raises `LedgerUnavailable`."""
    while (record := await records.claim_record(RECORDS, 60.0)) is not None:
        with contextlib.suppress(Conflict):
            await records.delete_record(RECORDS, record.key, expect=record.version)


def _describe(error: AgentError) -> str:
    if error.code == TASK_NOT_FOUND:
        return "it does not know the task any more"
    return str(error)


def _is_settled(task: RemoteTask, answered: str) -> bool:
    """Return whether an agent does nothing more by itself. ``answered``: a question which the task
    may still show."""
    status = task.status
    if status.state == INPUT_REQUIRED and answered and _question_of(status) == answered:
        return False
    return status.state in SETTLED


def _question_of(status: RemoteStatus) -> str:
    """Return what identifies a question."""
    id = status.message.message_id if status.message else ""
    return hashlib.sha256(f"{id}\0{status.timestamp}".encode()).hexdigest()[:32]


def _read_text(arguments: Mapping[str, Json], name: str) -> str:
    value = arguments[name]
    if not isinstance(value, str) or not value.strip():
        raise InvalidInput(f"{name}: expected a text")
    return value


_decode_call = msgspec.json.Decoder(Call).decode
_decode_question = msgspec.json.Decoder(Question).decode
