"""PushNotifications: posts the states of tasks to URLs that clients name, until they are taken.

Each configuration is a record in the ledger, which is due while something is to be posted; one
server at a time works on it, and another one does when that dies. A task is posted when it asks or
has ended, as it is then. The URLs are strangers': see `palaver.OutboundClient`.
"""

import asyncio
import contextlib
import logging
import random
import re
from collections.abc import Sequence

import msgspec

from palaver import (
    Conflict,
    ConversationService,
    NotFound,
    OutboundClient,
    OutboundError,
    PalaverError,
    Record,
    all_records,
    describe_error,
    encode,
    follow_pending_as,
    new_id,
)
from palaver_plugins.channels.a2a.contexts import CHANNEL, Caller
from palaver_plugins.channels.a2a.errors import InvalidParams, TaskNotFound
from palaver_plugins.channels.a2a.shapes import (
    TERMINAL,
    AuthenticationInfo,
    PushConfig,
)
from palaver_plugins.channels.a2a.task_reader import TaskReader, TaskView
from palaver_plugins.channels.a2a.task_stream import TaskReply

SCOPE = f"{CHANNEL}.push"
RETRY_SECONDS = (5.0, 30.0, 120.0, 600.0, 1_800.0, 3_600.0, 7_200.0, 14_400.0, 28_800.0, 43_200.0)
"""Pauses after failed attempts, about a day in all; then the configuration is deleted."""
JITTER = 0.2
LEASE_SECONDS = 30.0
POLL_SECONDS = 2.0
"""Seconds between two looks for records that are due."""
QUESTION_SECONDS = 300.0
"""Seconds between two looks at a task that waits for a message. Its message wakes it."""
MAX_TASKS = 50
"""Configurations that one process works on at once; others wait for another server, or for it."""
MAX_CONFIGS = 10
"""Configurations of one task."""
TOKEN_HEADER = "X-A2A-Notification-Token"
_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")

log = logging.getLogger(__name__)


class PushRecord(msgspec.Struct, omit_defaults=True):
    """A configuration, and what its receiver has taken."""

    tenant: str
    person: str
    config: PushConfig
    taken: str = ""
    attempts: int = 0


class PushNotifications:
    """The configurations, and the task that posts."""

    def __init__(
        self,
        service: ConversationService,
        client: OutboundClient,
        *,
        pauses: Sequence[float] = RETRY_SECONDS,
        poll_seconds: float = POLL_SECONDS,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self.service = service
        self.reader = TaskReader(service)
        self.client = client
        self.pauses = pauses
        self._poll_seconds = poll_seconds
        self.lease_seconds = lease_seconds
        self._woken = asyncio.Event()
        self._working: set[asyncio.Task[None]] = set()
        self._main: asyncio.Task[None]

    def start(self) -> None:
        self._main = asyncio.create_task(self._run())

    async def close(self) -> None:
        tasks = [self._main, *self._working]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Configurations

    async def create(self, caller: Caller, config: PushConfig) -> PushConfig:
        """Store a configuration, in place of one with the same id. Raises `InvalidParams`."""
        await self._check(config)
        if len(await self.of_task(caller, config.task_id)) >= MAX_CONFIGS:
            raise InvalidParams(f"a task may have {MAX_CONFIGS} configurations")
        config.id = config.id or new_id()
        record = PushRecord(caller.tenant, caller.person, config)
        key = _key(caller, config.task_id, config.id)
        earlier = await self.service.records.read_record(SCOPE, key)
        await self.service.records.write_record(
            SCOPE, key, encode(record), expect=earlier.version if earlier else 0, due_in=0.0
        )
        self._woken.set()
        return config

    async def _check(self, config: PushConfig) -> None:
        if config.id and not _ID.fullmatch(config.id):
            raise InvalidParams("id: expected 1 to 64 letters, digits or one of _ . -", "id")
        auth = config.authentication or AuthenticationInfo()
        for text in (config.token, auth.scheme, auth.credentials):
            if not _HEADER_VALUE.fullmatch(text):
                raise InvalidParams("token and authentication: expected printable ASCII")
        try:
            await self.client.check(config.url)
        except OutboundError as error:
            raise InvalidParams(f"url: {error}", "url") from error

    async def of_task(self, caller: Caller, task_id: str) -> Sequence[PushConfig]:
        records = all_records(self.service.records, SCOPE, _key(caller, task_id, ""))
        return [_decode(record.value).config async for record in records]

    async def delete(self, caller: Caller, task_id: str, id: str) -> None:
        """Delete a configuration, if there is one."""
        records, key = self.service.records, _key(caller, task_id, id)
        while _ID.fullmatch(id) and (record := await records.read_record(SCOPE, key)):
            with contextlib.suppress(Conflict):  # a server that works on it has changed it
                await records.delete_record(SCOPE, key, expect=record.version)

    async def wake_task(self, caller: Caller, task_id: str) -> None:
        """Look at a task again that has got a message."""
        async for record in all_records(self.service.records, SCOPE, _key(caller, task_id, "")):
            with contextlib.suppress(Conflict):  # a server works on it
                await self.service.records.write_record(
                    SCOPE, record.key, record.value, expect=record.version, due_in=0.0
                )
        self._woken.set()

    # Posting

    async def _run(self) -> None:
        while True:
            self._woken.clear()
            try:
                while len(self._working) < MAX_TASKS and (record := await self._claim()):
                    task = asyncio.create_task(self._work(record))
                    self._working.add(task)
                    task.add_done_callback(self._working.discard)
            except PalaverError as error:
                log.warning("push notifications wait: %s", describe_error(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await self._woken.wait()

    async def _claim(self) -> Record | None:
        return await self.service.records.claim_record(SCOPE, self.lease_seconds)

    async def _work(self, record: Record) -> None:
        """Post what is due of one configuration. It is due again when its lease ends."""
        push = _decode(record.value)
        try:
            await PushWork(self, record, push).run()
        except Conflict:
            log.debug("another server works on a push notification")
        except PalaverError as error:
            log.warning("a push notification waits: %s", describe_error(error))


class PushWork:
    """Work on one configuration, while its record is owned."""

    def __init__(self, owner: PushNotifications, record: Record, push: PushRecord) -> None:
        self._owner = owner
        self._service = owner.service
        self._record = record
        self._push = push
        self._caller = Caller(push.tenant, push.person)

    async def run(self) -> None:
        while True:
            try:
                task = await self._owner.reader.read(self._caller, self._push.config.task_id)
            except (TaskNotFound, NotFound):
                await self._delete()  # it is erased
                return
            if task.newest.pending is not None:
                await self._wait(task)
            elif self._push.taken != task.newest.turn:
                if not await self._post(task):
                    return
            elif task.state in TERMINAL:
                await self._delete()
                return
            else:
                await self._save(QUESTION_SECONDS)
                return

    async def _wait(self, task: TaskView) -> None:
        """Wait until the turn ends, or for as long as the lease needs no renewal."""
        assert task.newest.pending is not None
        conversation = self._caller.conversation(task.name.context_id)
        async with follow_pending_as(
            TaskReply, self._service, conversation, task.newest.pending, person=self._caller.person
        ) as reply:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._owner.lease_seconds / 3):
                    await reply.wait()
        await self._save(self._owner.lease_seconds)

    async def _post(self, task: TaskView) -> bool:
        """Post a task, and return whether it was taken."""
        config = self._push.config
        self._push.attempts += 1
        await self._save(self._owner.lease_seconds)  # proves that the record is owned here
        try:
            response = await self._owner.client.post(
                config.url, encode({"task": task.shape()}), _headers(config)
            )
            problem = "" if 200 <= response.status < 300 else f"status {response.status}"
        except OutboundError as error:
            problem = str(error)
        if not problem:
            self._push.taken, self._push.attempts = task.newest.turn, 0
            await self._save(self._owner.lease_seconds)
            return True
        pauses = self._owner.pauses
        if self._push.attempts > len(pauses):
            log.warning("a push notification is given up: %s", problem)
            await self._delete()
        else:
            pause = pauses[self._push.attempts - 1]
            await self._save(pause * random.uniform(1 - JITTER, 1 + JITTER))
        return False

    async def _save(self, due_in: float) -> None:
        self._record = await self._service.records.write_record(
            SCOPE,
            self._record.key,
            encode(self._push),
            expect=self._record.version,
            due_in=due_in,
        )

    async def _delete(self) -> None:
        await self._service.records.delete_record(
            SCOPE, self._record.key, expect=self._record.version
        )


def _key(caller: Caller, task_id: str, id: str) -> str:
    return f"{caller.tenant_digest}/{task_id}/{id}"


def _decode(value: bytes) -> PushRecord:
    return msgspec.json.decode(value, type=PushRecord)


def _headers(config: PushConfig) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "A2A-Version": "1.0"}
    if config.token:
        headers[TOKEN_HEADER] = config.token
    auth = config.authentication
    if auth is not None and auth.scheme and auth.credentials:
        headers["Authorization"] = f"{auth.scheme} {auth.credentials}"
    return headers
