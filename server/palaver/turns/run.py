"""Run: a turn while this process runs it, and how it may end."""

import asyncio
import logging
from typing import NamedTuple

from palaver.ledger import Claim, Ledger, PendingQuestion
from palaver.messages import Outcome, Problem
from palaver.streams.subscriptions import Subscriptions
from palaver.turns.writer import TurnWriter

log = logging.getLogger(__name__)


class RunResult(NamedTuple):
    """How a skill's run has ended. ``dead``: why the turn is given up for good."""

    outcome: Outcome
    problem: Problem | None = None
    waiting: PendingQuestion | None = None
    dead: str = ""


STOPPED = RunResult("stopped")


class Run:
    """A turn that this process runs."""

    def __init__(self, claim: Claim, ledger: Ledger, streams: Subscriptions, lease: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.claim = claim
        self.transcript = TurnWriter(
            claim,
            ledger,
            streams,
            lease=lease,
            lost=self.on_fenced,
            stopped=self.stop,
            away=self.pause,
        )
        self._task = task
        self.working = False
        self.stopping = claim.stop_requested
        self.lost = False
        self.releasing = False

    def stop(self) -> None:
        """The person does not want the rest."""
        if not self.stopping:
            self.stopping = True
            self._interrupt()

    def on_fenced(self) -> None:
        """Another worker owns the turn."""
        self.lost = True
        self._interrupt()

    def release(self) -> None:
        """Another run of the turn goes on with it, here or elsewhere."""
        self.releasing = True
        self._interrupt()

    def pause(self) -> None:
        """The ledger is away. The engine is wanted by others meanwhile: the turn is released, and
        begun again when the ledger is back."""
        if self.working and not self.interrupted:
            log.warning("turn %s pauses: the ledger is away", self.claim.turn)
            self.release()

    def _interrupt(self) -> None:
        if self.working:
            self._task.cancel()

    @property
    def interrupted(self) -> bool:
        return self.stopping or self.lost or self.releasing
