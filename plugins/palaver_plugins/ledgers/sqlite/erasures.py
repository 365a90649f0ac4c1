"""Erasures in the SQLite ledger, step by step, so that other operations run in between."""

import asyncio
from functools import partial

from palaver import Erasure
from palaver_plugins.ledgers.sqlite import personal_data
from palaver_plugins.ledgers.sqlite.database_thread import DatabaseThread
from palaver_plugins.ledgers.sqlite.personal_data import ErasureKey


class Erasures:
    """Runs erasures in the background: one that has begun ends, even when its caller does not wait.

    The file has the erasures that have begun; those that a process did not end are ended when the
    next one starts.
    """

    def __init__(self, thread: DatabaseThread) -> None:
        self._thread = thread
        self._running: dict[ErasureKey, asyncio.Task[Erasure]] = {}

    async def resume(self) -> None:
        """End the erasures that another process has begun."""
        for key in await self._thread.submit(personal_data.unfinished):
            await self.run(key)

    async def run(self, key: ErasureKey) -> Erasure:
        """Erase; join an erasure that runs: its last step sees what is stored by now."""
        task = self._running.get(key)
        if task is None or task.done():
            task = self._running[key] = asyncio.create_task(self._erase(key))
            task.add_done_callback(partial(self._forget, key))
        return await asyncio.shield(task)

    def _forget(self, key: ErasureKey, task: asyncio.Task[Erasure]) -> None:
        if self._running.get(key) is task:
            del self._running[key]

    async def _erase(self, key: ErasureKey) -> Erasure:
        await self._thread.submit(personal_data.begin_erasure, key)
        erasure = None
        while erasure is None:
            erasure = await self._thread.submit(personal_data.erase_some, key)
        while await self._thread.submit(personal_data.is_scrubbing):
            pass
        return erasure

    async def close(self) -> None:
        tasks = tuple(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
