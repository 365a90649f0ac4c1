"""Official clients of A2A that follow tasks through a load balancer while replicas are killed."""

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator

import httpx
from a2a.client import Client, ClientConfig, ClientFactory
from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import A2AError, UnsupportedOperationError
from google.protobuf.json_format import MessageToDict
from tests.chaos.findings import Findings
from tests.plugins.channels.a2a.support import BINDINGS, Binding, Json, TaskCopy, request
from tests.proofs.reference_plugin import reply_to

TASK_SECONDS = 60.0
"""Seconds after which a task without an end is lost."""
RETRY_SECONDS = 0.2
ENDS = {"COMPLETED", "FAILED", "CANCELED", "REJECTED"}


class FollowedTask(TaskCopy):
    """A task as a client has it; ``ids`` are those that it had."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()

    def apply_event(self, event: Json) -> None:
        if "task" in event:  # it is the whole task
            self.artifacts.clear()
            self.ids.add(event["task"]["id"])
        self.apply([event])

    @property
    def has_ended(self) -> bool:
        return bool(self.states) and self.states[-1] in ENDS


class A2AClients:
    """Clients that each send message after message, by both bindings, in the two ways of `WAYS`,
    and subscribe again when a connection is lost: ``resumed`` counts that, ``repeated`` the
    messages that were sent again."""

    WAYS = ("stream", "subscribe")

    def __init__(self, url: str) -> None:
        self.findings = Findings()
        self.tasks: Counter[str] = Counter()
        """Tasks with an end, by the way."""
        self.resumed = 0
        self.repeated = 0
        self._url = url
        self._numbers = itertools.count(1)
        self._is_stopping = False

    @property
    def count(self) -> int:
        return self.tasks.total() + self.findings.lost

    def stop(self) -> None:
        """Send no further message."""
        self._is_stopping = True

    async def run(self, count: int) -> None:
        """Run ``count`` clients at a time until `stop`."""
        kinds = itertools.cycle(itertools.product(self.WAYS, BINDINGS))
        async with asyncio.TaskGroup() as group:
            for way, binding in itertools.islice(kinds, count):
                group.create_task(self._run_client(way, binding))

    async def _run_client(self, way: str, binding: Binding) -> None:
        while not self._is_stopping:
            text, task = f"a2a {next(self._numbers)}", FollowedTask()
            try:
                async with asyncio.timeout(TASK_SECONDS):
                    await self._follow(text, task, way, binding)
                    stored = await self._read(task, binding)
            except TimeoutError:
                self.findings.record("lost", f"{way}, {binding}: no end of {text!r}")
                continue
            self.tasks[way] += 1
            self._check(f"{way}, {binding}: {text!r}", task, stored, reply_to(text))

    def _check(self, what: str, task: FollowedTask, stored: str, expected: str) -> None:
        if len(task.ids) != 1:
            self.findings.record("duplicated", f"{what} has the tasks {sorted(task.ids)}")
        for kind, text in (("streamed", task.text), ("stored", stored)):
            if text != expected:
                self.findings.record("wrong", f"{what}: {kind} {text!r} for {expected!r}")
        if task.states[-1] != "COMPLETED":
            self.findings.record("wrong", f"{what} ended as {task.states}")

    async def _follow(self, text: str, task: FollowedTask, way: str, binding: Binding) -> None:
        """Send a message, and follow its task to the end."""
        has_sent = False
        while not task.has_ended:
            self.repeated += has_sent and not task.task
            try:
                async with self._open_client(binding) as client:
                    has_sent = True
                    await self._receive(client, text, task, way)
            except (A2AError, httpx.HTTPError, OSError):
                self.resumed += bool(task.task)
                await asyncio.sleep(RETRY_SECONDS)

    async def _receive(self, client: Client, text: str, task: FollowedTask, way: str) -> None:
        """Receive events until the connection or the task ends."""
        if not task.task:
            async with contextlib.aclosing(client.send_message(request(text, text))) as events:  # type: ignore[type-var]
                async for event in events:
                    task.apply_event(MessageToDict(event))
                    if way == "subscribe":
                        break
            return
        try:
            async for event in client.subscribe(pb.SubscribeToTaskRequest(id=task.task["id"])):
                task.apply_event(MessageToDict(event))
        except UnsupportedOperationError:  # it has ended
            found = await client.get_task(pb.GetTaskRequest(id=task.task["id"]))
            task.apply_event({"task": MessageToDict(found)})

    async def _read(self, task: FollowedTask, binding: Binding) -> str:
        """Return the text of a task as a server has it."""
        while True:
            try:
                async with self._open_client(binding) as client:
                    found = await client.get_task(pb.GetTaskRequest(id=task.task["id"]))
                    return TaskCopy().apply([{"task": MessageToDict(found)}]).text
            except (A2AError, httpx.HTTPError, OSError):
                await asyncio.sleep(RETRY_SECONDS)

    @contextlib.asynccontextmanager
    async def _open_client(self, binding: Binding) -> AsyncIterator[Client]:
        async with httpx.AsyncClient(headers={"A2A-Version": "1.0"}, timeout=TASK_SECONDS) as http:
            config = ClientConfig(httpx_client=http, supported_protocol_bindings=[binding])
            yield await ClientFactory(config).create_from_url(self._url)
