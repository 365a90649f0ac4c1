"""Interruption: the reasons to end a running turn early, and the cancellation of its skill."""

import asyncio
import contextlib
import logging
from collections.abc import Iterator

log = logging.getLogger(__name__)


class Interruption:
    """The requests to end one turn before its skill has finished.

    Each request cancels ``task``, but only while the skill runs, inside `cancellable`: what stores
    and closes the turn afterwards is never cancelled by it.
    """

    def __init__(self, turn: str, task: "asyncio.Task[None]", *, stop_requested: bool) -> None:
        self.stop_requested = stop_requested
        """The person does not want the rest of the reply."""
        self.fenced = False
        """Another worker owns the turn."""
        self.releasing = False
        """Another run of the turn continues it, in this process or elsewhere."""
        self._turn = turn
        self._task = task
        self._cancellable = False

    @property
    def requested(self) -> bool:
        return self.stop_requested or self.fenced or self.releasing

    @property
    def is_handed_over(self) -> bool:
        """Return whether another run continues the turn."""
        return self.fenced or (self.releasing and not self.stop_requested)

    @contextlib.contextmanager
    def cancellable(self) -> Iterator[None]:
        """Let requests cancel the task inside this context."""
        self._cancellable = True
        try:
            yield
        finally:
            self._cancellable = False

    def stop(self) -> None:
        """End the turn as stopped."""
        if not self.stop_requested:
            self.stop_requested = True
            self._cancel()

    def fence(self) -> None:
        """End the turn without another write."""
        self.fenced = True
        self._cancel()

    def release(self) -> None:
        """End the run and give the turn back to the ledger."""
        self.releasing = True
        self._cancel()

    def pause(self) -> None:
        """Release the turn because the ledger is unavailable: others need the engine meanwhile."""
        if self._cancellable and not self.requested:
            log.warning("turn %s is released: the ledger is unavailable", self._turn)
            self.release()

    def _cancel(self) -> None:
        if self._cancellable:
            self._task.cancel()
