"""File stores of the tests: on real object stores, with a clock and with failures."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from palaver.config.settings import FilesSettings
from palaver.errors import FilesUnavailable
from palaver.files.objects import ObjectInfo, Objects, ObstoreObjects
from palaver.files.store import FileStore
from palaver.messages import Attachment, Conversation, Message


class Killed(BaseException):
    """The process ends here."""


class FailingObjects:
    """Objects that fail before their write of a number, as when a process is killed there; then,
    and until ``recover``, nothing works any more."""

    def __init__(self, objects: Objects, fail_at: int = 0) -> None:
        self._objects = objects
        self.fail_at = fail_at
        self.writes = 0
        self.is_dead = False
        self.error: type[BaseException] = Killed

    def _count(self) -> None:
        self.writes += 1
        if self.writes == self.fail_at:
            self.is_dead = True
        self._check()

    def _check(self) -> None:
        if self.is_dead:
            raise self.error("the store is gone")

    async def start(self) -> None:
        await self._objects.start()

    async def write(self, path: str, pieces: AsyncIterator[bytes]) -> None:
        self._count()
        await self._objects.write(path, pieces)

    async def put(self, path: str, content: bytes) -> None:
        self._count()
        await self._objects.put(path, content)

    async def get(self, path: str) -> bytes | None:
        self._check()
        return await self._objects.get(path)

    def read(self, path: str) -> AsyncGenerator[bytes, None]:
        self._check()
        return self._objects.read(path)

    async def list(self, prefix: str) -> AsyncGenerator[ObjectInfo, None]:
        self._check()
        async for found in self._objects.list(prefix):
            yield found

    async def delete(self, paths: Sequence[str]) -> None:
        for path in paths:
            self._count()
            await self._objects.delete([path])

    async def delete_unfinished(self, older_than: float) -> None:
        self._check()
        await self._objects.delete_unfinished(older_than)


class AgedObjects(FailingObjects):
    """Objects whose clock the test moves: each was written ``age`` seconds earlier."""

    age = 0.0

    async def list(self, prefix: str) -> AsyncGenerator[ObjectInfo, None]:
        async for found in super().list(prefix):
            yield found._replace(at=found.at - self.age)


def unavailable(objects: FailingObjects) -> None:
    """Let the store be unreachable."""
    objects.is_dead, objects.error = True, FilesUnavailable


async def memory_store(**settings: Any) -> tuple[FileStore, AgedObjects]:
    """Return a started store in memory, and its objects."""
    objects = AgedObjects(ObstoreObjects("memory:///"))
    store = FileStore(objects, FilesSettings(**settings))
    await store.start()
    return store, objects


async def in_pieces(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def paths_in(objects: Objects) -> list[str]:
    return sorted([found.path async for found in objects.list("")])


async def content_of(store: FileStore, tenant: str, id: str) -> bytes:
    return b"".join([piece async for piece in store.read(tenant, id)])


async def attach(
    store: FileStore, conversation: Conversation, person: str, ids: Sequence[str]
) -> tuple[Attachment, ...]:
    """Send files of a person in a conversation."""
    attachments = await store.find_attachments(conversation.tenant, person, ids)
    await store.mark_sent(
        Message(conversation=conversation, id="m", person=person, text="", attachments=attachments)
    )
    return attachments
