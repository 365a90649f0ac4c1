"""Callbacks of `Ledger.watch`."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from palaver import OnChange, StoredEvent

KeyT = TypeVar("KeyT")


class Watchers(Generic[KeyT]):
    """Callbacks by key, which identifies a conversation."""

    def __init__(self) -> None:
        self._callbacks: dict[KeyT, list[OnChange]] = {}

    def __iter__(self) -> Iterator[KeyT]:
        return iter(tuple(self._callbacks))

    def __contains__(self, key: KeyT) -> bool:
        return key in self._callbacks

    def add(self, key: KeyT, on_change: OnChange) -> Callable[[], None]:
        """Add a callback; return the function that removes it."""
        self._callbacks.setdefault(key, []).append(on_change)

        def remove() -> None:
            callbacks = self._callbacks.get(key, [])
            if on_change in callbacks:
                callbacks.remove(on_change)
            if not callbacks:
                self._callbacks.pop(key, None)

        return remove

    def notify(self, key: KeyT, events: tuple[StoredEvent, ...]) -> None:
        """Call the callbacks soon, each separately, so that an exception affects only one."""
        loop = asyncio.get_running_loop()
        for on_change in self._callbacks.get(key, ()):
            loop.call_soon(self._call, key, on_change, events)

    def notify_all(self) -> None:
        """Make every watcher read, since notifications may have been lost."""
        for key in self._callbacks:
            self.notify(key, ())

    def _call(self, key: KeyT, on_change: OnChange, events: tuple[StoredEvent, ...]) -> None:
        if on_change in self._callbacks.get(key, ()):
            on_change(events)
