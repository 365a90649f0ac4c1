"""Dispatch: claims turns and runs them. Order, leases, stop, drain.

A worker is a task that claims a turn, runs it and claims again until nothing is due. Workers are
started by what is accepted here, and by news from the ledger about the rest: turns of other
replicas, and turns whose owner has died.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from palaver.config.settings import DispatchSettings
from palaver.errors import (
    Fenced,
    LedgerError,
    LedgerUnavailable,
    MaxAttemptsExceeded,
    PalaverError,
    SkillError,
)
from palaver.ledger import QUEUE_ALL, Claim, ConcurrencyPolicies, Ledger, Receipt, StopState
from palaver.messages import Conversation, Finished, Message, Problem, Started, new_id
from palaver.metrics import Metrics
from palaver.streams.subscriptions import Subscriptions
from palaver.turns.run import STOPPED, Run, RunResult
from palaver.turns.turn import Suspended, Turn, TurnServices
from palaver.turns.writer import heartbeat_interval

log = logging.getLogger(__name__)

POLL_INTERVAL = 1.0
"""Seconds between looks for turns whose owner has died."""
RELEASE_TIMEOUT = 2.0
"""Seconds that storing and releasing the turns of a stopping server may take."""
CLAIM_DEBOUNCE = 0.02
"""Seconds between answers to news from the ledger, so that a busy process is not woken for each."""

Answer = Callable[[Turn, Claim], Awaitable[None]]
"""Routes a turn and runs its skill."""


class Dispatcher:
    """Runs this process's share of the ledger's turns. ``ended`` is told of each that it runs no
    more."""

    def __init__(
        self,
        ledger: Ledger,
        streams: Subscriptions,
        answer: Answer,
        *,
        services: TurnServices,
        settings: DispatchSettings,
        history: int,
        metrics: Metrics,
        ended: Callable[[str], None] = lambda turn: None,
    ) -> None:
        self._ledger = ledger
        self._streams = streams
        self._answer = answer
        self._services = services
        self._settings = settings
        self._history = history
        self._metrics = metrics
        self._ended = ended
        self._worker = new_id()
        self._workers: set[asyncio.Task[None]] = set()
        self._runs: dict[str, Run] = {}
        self._unclaimed = 0
        self._tending: list[asyncio.Task[None]] = []
        self._beats: set[asyncio.Task[None]] = set()
        self._closing = False
        self._releasing = False

    @property
    def running(self) -> int:
        return len(self._runs)

    async def start(self) -> None:
        self._tending = [
            asyncio.create_task(self._look_for_work(), name="palaver-work"),
            asyncio.create_task(self._keep_leases(), name="palaver-leases"),
        ]

    async def accept(self, message: Message, policies: ConcurrencyPolicies = QUEUE_ALL) -> Receipt:
        """Store the message; a worker takes its turn."""
        receipt = await self._ledger.accept(message, policies)
        if receipt.duplicate:
            return receipt
        if not receipt.joined:
            self._unclaimed += 1
        if not receipt.ahead:
            self._start_worker()
        if receipt.ahead or receipt.joined:
            self._tell(message.conversation, policies)
        return receipt

    def _tell(self, conversation: Conversation, policies: ConcurrencyPolicies) -> None:
        """Let a turn that runs here learn at once what a message may mean to it."""
        if {policies.default, *policies.skills.values()} & {"interrupt", "steer"}:
            for run in self._runs.values():
                if run.claim.conversation == conversation:
                    self._soon(run.transcript.sync())

    def sync_tenant(self, tenant: str) -> None:
        """Let a tenant's turns that run here learn at once whether they are still wanted."""
        for run in self._runs.values():
            if run.claim.conversation.tenant == tenant:
                self._soon(run.transcript.sync())

    async def stop(self, conversation: Conversation, turn: str | None) -> tuple[StopState, str]:
        """Stop a turn wherever it runs; here, at once."""
        state, stopped = await self._ledger.stop(conversation, turn)
        run = self._runs.get(stopped)
        if state == "stopping" and run is not None:
            run.stop()
        return state, stopped

    async def drain(self, drain: float) -> None:
        """Claim nothing more, give running turns ``drain`` seconds, release the others.
        Messages are accepted all the same. Idempotent."""
        self._closing = True
        if self._workers and drain:
            await asyncio.wait(self._workers, timeout=drain)
        self._releasing = True
        for run in list(self._runs.values()):
            run.release()
        if self._workers:
            await asyncio.wait(self._workers, timeout=RELEASE_TIMEOUT)

    async def close(self, drain: float) -> None:
        """Hand over, and end."""
        await self.drain(drain)
        tasks = (*self._workers, *self._tending, *self._beats)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start_worker(self, *, looking: bool = False) -> None:
        """``looking``: for turns that nobody here has accepted. One that finds such a turn does not
        leave the next to the next look: a dead worker leaves many at once."""
        if not self._closing and len(self._workers) < self._settings.max_running:
            worker = asyncio.create_task(self._work(looking))
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    async def _look_for_work(self) -> None:
        was_away = False
        while not self._closing:
            try:
                await self._ledger.wait_for_work(POLL_INTERVAL)
            except LedgerUnavailable as error:
                log.warning("no turns can be claimed: %s", error)
                was_away = True
                await asyncio.sleep(POLL_INTERVAL)
                continue
            if was_away:
                # Leases have lapsed meanwhile, of owners who live and have text to store.
                await asyncio.sleep(POLL_INTERVAL)
            was_away = False
            self._start_worker(looking=True)
            await asyncio.sleep(CLAIM_DEBOUNCE)

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(heartbeat_interval(self._settings.lease))
            for run in self._runs.values():  # none waits for another's part of the store
                self._soon(run.transcript.heartbeat())

    def _soon(self, look: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(look)
        self._beats.add(task)
        task.add_done_callback(self._beats.discard)

    async def _work(self, looking: bool) -> None:
        more = True
        while more and not self._closing:
            try:
                claim = await self._ledger.claim(
                    self._worker, lease=self._settings.lease, history=self._history
                )
            except LedgerError as error:
                log.warning("no turn can be claimed: %s", error)
                return
            if claim is None:
                return
            self._unclaimed = max(0, self._unclaimed - 1)
            if looking:
                self._start_worker(looking=True)
            await self._run(claim)
            more = self._unclaimed > 0

    async def _run(self, claim: Claim) -> None:
        run = Run(claim, self._ledger, self._streams, self._settings.lease)
        self._runs[claim.turn] = run
        if self._releasing:
            run.release()  # it was claimed while the others were released
        try:
            await self._answer_and_settle(run)
        except Fenced:
            log.info("turn %s went to another worker", claim.turn, extra=_about(claim))
        except Exception as error:  # noqa: BLE001  the barrier around a worker
            log.error(
                "turn %s is left to be taken over: %r", claim.turn, error, extra=_about(claim)
            )
        finally:
            run.transcript.close()
            del self._runs[claim.turn]
            self._ended(claim.turn)

    async def _answer_and_settle(self, run: Run) -> None:
        claim, transcript = run.claim, run.transcript
        loop = asyncio.get_running_loop()
        began = loop.time()
        deadline = began + self._settings.turn_timeout
        turn: Turn = Turn(claim, transcript, self._services, deadline=deadline)
        transcript.write(
            Started(turn=claim.turn, attempt=claim.attempt, position=transcript.length)
        )
        end = STOPPED if run.interrupted else await self._attempt(run, turn)
        if run.lost:
            raise Fenced("another worker owns the turn")
        if run.releasing and end is STOPPED and not run.stopping:
            await transcript.release()
            return
        if end.outcome == "done":
            turn.finish()
        finished = Finished(
            turn=claim.turn,
            outcome=end.outcome,
            length=0,
            messages=tuple(message.id for message in (*claim.messages, *turn.taken)),
            usage=turn.usage,
            problem=end.problem,
        )
        await transcript.settle(
            finished, end.waiting, steered=turn.taken, dead_letter_reason=end.dead
        )
        self._metrics.turn(turn.skill, end.outcome, loop.time() - began)

    async def _attempt(self, run: Run, turn: Turn) -> RunResult:
        """Run the skill behind the crash barrier."""
        claim = run.claim
        try:
            if claim.attempt > self._settings.max_attempts:
                raise MaxAttemptsExceeded(f"given up after {self._settings.max_attempts} attempts")
            run.working = True
            try:
                async with asyncio.timeout(self._settings.turn_timeout):
                    await self._answer(turn, claim)
            finally:
                run.working = False
        except Suspended as suspended:
            return RunResult("asked", waiting=suspended.waiting)
        except asyncio.CancelledError:
            if not run.interrupted:
                raise
            _uncancel()
            return STOPPED
        except LedgerUnavailable:  # a verb needed it; the skill is not to blame
            run.release()
            await asyncio.sleep(POLL_INTERVAL)
            return STOPPED
        except TimeoutError:
            error: PalaverError = SkillError("the turn's deadline passed")
            log.warning("turn %s: %s", claim.turn, error, extra=_about(claim, turn.skill))
        except PalaverError as raised:
            error = raised
            log.warning("turn %s: %s", claim.turn, error, extra=_about(claim, turn.skill))
        except Exception as raised:
            error = SkillError(f"skill {turn.skill!r} raised {raised!r}")
            log.exception("turn %s: %s", claim.turn, error, extra=_about(claim, turn.skill))
        else:
            return RunResult("done")
        dead = str(error) if isinstance(error, MaxAttemptsExceeded) else ""
        return RunResult("failed", Problem(error.code, error.public), dead=dead)


def _uncancel() -> None:
    task = asyncio.current_task()
    assert task is not None
    while task.cancelling():
        task.uncancel()


def _about(claim: Claim, skill: str = "") -> dict[str, str]:
    return {
        "turn": claim.turn,
        "conversation": str(claim.conversation),
        "tenant": claim.conversation.tenant,
        "skill": skill,
    }
