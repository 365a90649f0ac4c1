"""TaskStream: the events of a task, made of what has changed since the last ones."""

from collections.abc import Callable, Iterator

import msgspec
from aiohttp import web

from palaver import Cursor, Event, Finished, PendingReply, Receipt, Received
from palaver_plugins.channels.a2a.shapes import Artifact, Json, Part, TaskStatus
from palaver_plugins.channels.a2a.task_reader import TaskView, extra_parts
from palaver_plugins.channels.event_stream import EventStream


class TaskReply(PendingReply):
    """The reply of a turn, whichever of its messages the turn takes in the end."""

    def __init__(self, message_id: str, receipt: Receipt) -> None:
        super().__init__(message_id, receipt)
        self._id = message_id

    def on_event(self, event: Event, cursor: Cursor | None) -> None:
        if isinstance(event, Received) and event.moved:
            return
        if isinstance(event, Finished):
            event = msgspec.structs.replace(event, messages=(*event.messages, self._id))
        super().on_event(event, cursor)


class TaskEvents:
    """What a client has of the newest turn of a task."""

    def __init__(self, task: TaskView, reply: TaskReply) -> None:
        self._task = task
        self._reply = reply
        self._is_working = False
        self._sent_length = 0

    def begin(self) -> Iterator[Json]:
        """Yield the task as it is now. Its newest turn is as far as the reply is."""
        pending = self._task.newest.pending
        if pending is not None:
            text, is_running = self._reply.text, pending.running or self._has_begun
            self._task.newest.pending = msgspec.structs.replace(
                pending, reply=text, running=is_running
            )
            self._is_working = is_running
        self._sent_length = len(self._task.newest.text)
        self._reply.was_reset = False
        yield {"task": self._task.shape()}

    def changes(self) -> Iterator[Json]:
        """Yield events for what is new in the reply."""
        if self._has_begun and not self._is_working:
            self._is_working = True
            yield self.status(TaskStatus(state="TASK_STATE_WORKING"))
        text = self._reply.text
        if self._reply.was_reset:
            self._reply.was_reset = False
            self._sent_length = len(text)
            yield self._artifact([Part(text=text)], append=False)
        elif len(text) > self._sent_length:
            part = Part(text=text[self._sent_length :])
            yield self._artifact([part], append=self._sent_length > 0)
            self._sent_length = len(text)

    async def end(self) -> list[Json]:
        """Return the last event of the reply. Raises what `PendingReply.wait` raises."""
        result = await self._reply.wait()
        extras = list(extra_parts(result.citations, result.attachments))
        if not extras:
            return []
        return [self._artifact(extras, append=self._sent_length > 0, last_chunk=True)]

    def status(self, status: TaskStatus) -> Json:
        return {"statusUpdate": {**self._ids, "status": status}}

    @property
    def _has_begun(self) -> bool:
        return self._reply.reply.has_begun or bool(self._reply.text)

    @property
    def _ids(self) -> Json:
        return {"taskId": str(self._task.name), "contextId": self._task.name.context_id}

    def _artifact(self, parts: list[Part], **about: bool) -> Json:
        artifact = Artifact(artifact_id=self._reply.receipt.turn, name="reply", parts=parts)
        told = {_CAMEL[name]: True for name, value in about.items() if value}
        return {"artifactUpdate": {**self._ids, "artifact": artifact, **told}}


_CAMEL = {"append": "append", "last_chunk": "lastChunk"}


class TaskStream(EventStream):
    """The response with a task's events; ``wrap`` makes each one of the binding."""

    def __init__(
        self, request: web.Request, comment_interval: float, wrap: Callable[[Json], Json]
    ) -> None:
        super().__init__(request, comment_interval)
        self._wrap = wrap

    async def put(self, events: Iterator[Json] | list[Json]) -> None:
        """Send events of the task. Raises `ConnectionError`."""
        await self.send(map(self._wrap, events))

    async def follow(self, task: TaskView, reply: TaskReply) -> TaskEvents:
        """Send the task and the reply as it comes, until the turn ends. Raises
        `ConnectionError` and what `PendingReply.wait` raises."""
        events = TaskEvents(task, reply)
        await self.put(events.begin())
        while True:
            reply.changed.clear()
            is_finished = reply.is_finished  # before the text is read: then it is complete
            await self.put(events.changes())
            if is_finished:
                break
            await self.wait(reply.changed)
        await self.put(await events.end())
        return events
