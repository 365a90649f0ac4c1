"""Erasures in the SQLite ledger, step by step, so that other operations run in between."""

import asyncio
from functools import partial

from palaver import Erasure
from palaver_plugins.ledgers.sqlite import personal_data
from palaver_plugins.ledgers.sqlite.database_thread import DatabaseThread


class Erasures:
    """Runs erasures in the background: one that has begun ends, even when its caller does not wait.

    The file has the erasures that have begun; those that a process did not end are ended when the
    next one starts.
    """

    def __init__(self, thread: DatabaseThread) -> None:
        self._thread = thread
        self._running: dict[tuple[str, str], asyncio.Task[Erasure]] = {}

    async def resume(self) -> None:
        """End the erasures that another process has begun."""
        for tenant, person in await self._thread.submit(personal_data.unfinished):
            await self.run(tenant, person)

    async def run(self, tenant: str, person: str) -> Erasure:
        """Erase a person; join an erasure that runs: its last step sees what is stored by now."""
        key = tenant, person
        task = self._running.get(key)
        if task is None or task.done():
            task = self._running[key] = asyncio.create_task(self._erase(tenant, person))
            task.add_done_callback(partial(self._forget, key))
        return await asyncio.shield(task)

    def _forget(self, key: tuple[str, str], task: asyncio.Task[Erasure]) -> None:
        if self._running.get(key) is task:
            del self._running[key]

    async def _erase(self, tenant: str, person: str) -> Erasure:
        await self._thread.submit(personal_data.begin_erasure, tenant, person)
        erasure = None
        while erasure is None:
            erasure = await self._thread.submit(personal_data.erase_some, tenant, person)
        while await self._thread.submit(personal_data.is_scrubbing):
            pass
        return erasure

    async def close(self) -> None:
        tasks = tuple(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
