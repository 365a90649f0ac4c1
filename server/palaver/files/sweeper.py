"""Sweeper: deletes files that nobody needs any more, and what killed processes have left.

A file stays as long as its author is a member of a conversation in which it was sent, which the
ledger decides: so it ends with the conversation, whoever has deleted that, and whatever was killed
meanwhile. Every replica sweeps; to delete something twice is harmless.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from palaver.errors import PalaverError, describe_error
from palaver.files.layout import FolderOfFile, erased_mark
from palaver.files.objects import TRANSFER_SECONDS
from palaver.files.store import FileStore
from palaver.messages import Conversation

log = logging.getLogger(__name__)

SWEEP_SECONDS = 3_600.0
"""Seconds between two sweeps of one replica."""
SETTLING_SECONDS = 2.0 * TRANSFER_SECONDS
"""Seconds for which nothing that was just written is judged: an upload may be in progress, a
message on its way, and the clocks of replicas and of the store may differ."""

Members = Callable[[Conversation], Awaitable[frozenset[str]]]


class Sweeper:
    """Removes expired, orphaned and unneeded files; counts the bytes of tenants."""

    def __init__(self, store: FileStore, members: Members) -> None:
        self._store = store
        self._objects = store.objects
        self._members = members

    async def run_forever(self) -> None:
        while True:
            try:
                await self.sweep()
            except PalaverError as error:
                log.warning("files could not be swept: %s", describe_error(error))
            await asyncio.sleep(SWEEP_SECONDS * random.uniform(0.8, 1.2))

    async def sweep(self) -> None:
        """Sweep everything once."""
        await self._objects.delete_unfinished(SETTLING_SECONDS)
        sizes: Counter[str] = Counter()
        people: dict[str, None] = {}
        async for found in self._objects.list(""):
            parts = found.path.split("/")
            people["/".join(parts[:2])] = None
            if parts[-1] == "content":
                sizes[parts[0]] += found.size
        self._store.uploads.tenant_bytes = sizes
        for path in people:
            await self._sweep_person(path)

    async def _sweep_person(self, path: str) -> None:
        now = self._store.clock()
        for folder in await self._store.folders(path):
            if await self._is_needless(folder, now):
                await self._store.delete_folder(folder)
        mark = erased_mark(path)
        async for found in self._objects.list(path):
            if found.path == mark and found.at < now - SETTLING_SECONDS:
                await self._objects.delete([mark])

    async def _is_needless(self, folder: FolderOfFile, now: float) -> bool:
        """Return whether a file can be deleted; forget the conversations that no longer have it."""
        settled = now - SETTLING_SECONDS
        times = [each.at for each in (folder.content, folder.about, *folder.sent) if each]
        if not times or max(times) >= settled:
            return False
        if folder.about is None or folder.content is None:
            return True
        marks = [mark.path for mark in folder.sent]
        left = await self._left(await self._store.author_of(folder), marks) if marks else []
        await self._objects.delete(left)
        is_expired = folder.about.at + self._store.settings.expiry < settled
        return is_expired and len(left) == len(marks)

    async def _left(self, author: str, marks: Sequence[str]) -> list[str]:
        """Return the marks of conversations in which the author is no member any more."""
        left = []
        for mark in marks:
            conversation = await self._objects.get(mark)
            if conversation is None or author not in await self._members(
                Conversation.parse(conversation.decode())
            ):
                left.append(mark)
        return left
