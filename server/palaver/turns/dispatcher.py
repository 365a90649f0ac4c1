"""Dispatcher: claims turns and runs them. Order, leases, stop, drain.

A worker is a task that claims a turn, runs it and claims again until nothing is due. A worker
starts for each message accepted here, and when the ledger reports other turns that are due: those
of other replicas, and those whose lease has expired.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Protocol

from palaver.admission.control import AdmissionControl
from palaver.config.settings import DispatchSettings
from palaver.errors import (
    Fenced,
    LedgerError,
    LedgerUnavailable,
    LimitExceeded,
    MaxAttemptsExceeded,
    PalaverError,
    PromptTooLong,
    SkillError,
    describe_error,
    ends_process,
)
from palaver.ledger import HISTORY_BYTES, Claim, ConcurrencyPolicies, Receipt, StopState
from palaver.messages import Conversation, Problem, new_id
from palaver.metrics import Metrics
from palaver.streams.subscriptions import Subscriptions
from palaver.turns.endings import QuestionWithdrawn, SkillEnded, Suspended
from palaver.turns.run import STOPPED, Run, RunResult
from palaver.turns.turn import TurnServices
from palaver.turns.writer import heartbeat_interval

log = logging.getLogger(__name__)

POLL_INTERVAL = 1.0
"""Seconds between two checks for turns whose lease has expired."""
RELEASE_TIMEOUT = 2.0
"""Seconds that storing and releasing the turns of a stopping server may take."""
CLAIM_DEBOUNCE = 0.02
"""Seconds between two reactions to the ledger's notifications: a busy process is not woken for
each."""


class TurnHandler(Protocol):
    """The part of the pipeline that answers a claimed turn."""

    async def answer(self, run: Run) -> None:
        """Route the turn and run its skill. What it raises ends the turn as failed."""


class Dispatcher:
    """Claims turns and runs them, up to ``max_running`` at once."""

    def __init__(
        self,
        *,
        services: TurnServices,
        subscriptions: Subscriptions,
        admission: AdmissionControl,
        settings: DispatchSettings,
        history: int,
        history_bytes: int = HISTORY_BYTES,
        metrics: Metrics,
    ) -> None:
        self._ledger = services.ledger
        self._services = services
        self._subscriptions = subscriptions
        self._admission = admission
        self._settings = settings
        self._history = history
        self._history_bytes = history_bytes
        self._metrics = metrics
        self._handler: TurnHandler
        self._worker = new_id()
        self._workers: set[asyncio.Task[None]] = set()
        self._runs: dict[str, Run] = {}
        """The newest run of each turn that was claimed here."""
        self._leases_kept_at = 0.0
        """When the leases were last renewed, by the loop's clock."""
        self._renewing = asyncio.Lock()
        self._unclaimed = 0
        """Turns accepted here that no worker here has claimed."""
        self._loops: list[asyncio.Task[None]] = []
        self._syncs: set[asyncio.Task[None]] = set()
        self._closing = False
        self._releasing = False

    @property
    def running(self) -> int:
        return len(self._runs)

    async def start(self, handler: TurnHandler) -> None:
        """Claim turns from now on, and let ``handler`` answer them."""
        self._handler = handler
        self._leases_kept_at = asyncio.get_running_loop().time()
        self._loops = [
            asyncio.create_task(self._poll(), name="palaver-claims"),
            asyncio.create_task(self._keep_leases(), name="palaver-leases"),
        ]

    def dispatch(
        self, conversation: Conversation, receipt: Receipt, policies: ConcurrencyPolicies
    ) -> None:
        """Have a message that the ledger has just stored answered."""
        if receipt.duplicate:
            return
        if not receipt.joined:
            self._unclaimed += 1
        if not receipt.ahead:
            self._start_worker()
        if (receipt.ahead or receipt.joined) and policies.affect_running_turn:
            for run in self._runs.values():
                if run.claim.conversation == conversation:
                    self._in_background(run.writer.sync())

    def sync_tenant(self, tenant: str) -> None:
        """Have a tenant's turns that run here check at once that they still own their claims."""
        for run in self._runs.values():
            if run.claim.conversation.tenant == tenant:
                self._in_background(run.writer.sync())

    async def stop(self, conversation: Conversation, turn: str | None) -> tuple[StopState, str]:
        """Stop a turn on whatever replica it runs; at once when it runs here."""
        state, stopped = await self._ledger.stop(conversation, turn)
        run = self._runs.get(stopped)
        if state == "stopping" and run is not None:
            run.interruption.stop()
        elif state == "stopping":
            self._admission.turn_started(stopped)  # it waits no more
        return state, stopped

    async def drain(self, seconds: float) -> None:
        """Claim nothing more, give running turns ``seconds`` to end, and release the others.

        Messages are still accepted. Idempotent.
        """
        self._closing = True
        if self._workers and seconds:
            await asyncio.wait(self._workers, timeout=seconds)
        self._releasing = True
        for run in list(self._runs.values()):
            run.interruption.release()
        if self._workers:
            await asyncio.wait(self._workers, timeout=RELEASE_TIMEOUT)

    async def close(self, drain_seconds: float) -> None:
        """Drain, and end every task."""
        await self.drain(drain_seconds)
        tasks = (*self._workers, *self._loops, *self._syncs)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start_worker(self, *, chain: bool = False) -> None:
        """Start a worker, if there is room for one. ``chain``: one that finds a turn starts the
        next worker, because a dead replica leaves many turns at once."""
        if not self._closing and len(self._workers) < self._settings.max_running:
            worker = asyncio.create_task(self._work(chain))
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    async def _poll(self) -> None:
        """Start workers for turns that were not accepted here."""
        was_unavailable = False
        while not self._closing:
            try:
                await self._ledger.wait_for_work(POLL_INTERVAL)
            except LedgerUnavailable as error:
                log.warning("no turns can be claimed: %s", error)
                was_unavailable = True
                await asyncio.sleep(POLL_INTERVAL)
                continue
            if was_unavailable:
                # Leases have expired whose owners are alive and have text to store: let them.
                await asyncio.sleep(POLL_INTERVAL)
            was_unavailable = False
            self._start_worker(chain=True)
            await asyncio.sleep(CLAIM_DEBOUNCE)

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(heartbeat_interval(self._settings.lease))
            if self._is_late():
                await self._renew_late_leases()
                continue
            self._leases_kept_at = asyncio.get_running_loop().time()
            for run in self._runs.values():  # in parallel: each may wait for another ledger node
                self._in_background(run.writer.heartbeat())

    def _is_late(self) -> bool:
        late = asyncio.get_running_loop().time() - self._leases_kept_at
        return late > self._settings.lease / 2

    async def _renew_late_leases(self) -> None:
        """Renew the leases of the turns that run here after a stall of the event loop: else this
        process would take over its own turns, and count an attempt of each as failed."""
        async with self._renewing:
            if self._is_late():
                await asyncio.gather(*(run.writer.sync() for run in self._runs.values()))
                self._leases_kept_at = asyncio.get_running_loop().time()

    def _in_background(self, sync: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(sync)
        self._syncs.add(task)
        task.add_done_callback(self._syncs.discard)

    async def _work(self, chain: bool) -> None:
        more = True
        while more and not self._closing:
            if self._is_late():
                await self._renew_late_leases()
            try:
                claim = await self._ledger.claim(
                    self._worker,
                    lease=self._settings.lease,
                    history=self._history,
                    history_bytes=self._history_bytes,
                )
            except LedgerError as error:
                log.warning("no turn can be claimed: %s", error)
                return
            if claim is None:
                return
            self._unclaimed = max(0, self._unclaimed - 1)
            if chain:
                self._start_worker(chain=True)
            await self._run(claim)
            more = self._unclaimed > 0

    async def _run(self, claim: Claim) -> None:
        if claim.history_cut:
            self._metrics.limit_reached("history_bytes")
        run = Run(claim, self._services, self._subscriptions, self._settings)
        self._replace_older(run)
        if self._releasing:
            run.interruption.release()  # it was claimed while the others were released
        try:
            await self._answer_and_settle(run)
        except Fenced:
            log.info("another worker took over turn %s", claim.turn, extra=run.log_fields)
        except Exception as error:  # noqa: BLE001  the barrier around a worker
            message = "turn %s stays unsettled until its lease expires: %s"
            log.error(message, claim.turn, describe_error(error), extra=run.log_fields)
        finally:
            run.writer.close()
            if self._runs.get(claim.turn) is run:
                del self._runs[claim.turn]
                self._admission.turn_ended(claim)

    def _replace_older(self, run: Run) -> None:
        """Register the run. One of the same turn, whose lease has expired or which is being
        released, ends without another write: the ledger refuses those of an older claim."""
        turn = run.claim.turn
        older, newer = self._runs.get(turn), run
        if older is not None and older.claim.fence > run.claim.fence:
            older, newer = newer, older
        if older is not None:
            older.writer.close()
            older.interruption.fence()
        self._runs[turn] = newer

    async def _answer_and_settle(self, run: Run) -> None:
        interruption = run.interruption
        run.start()
        result = STOPPED if interruption.requested else await self._attempt(run)
        if interruption.fenced:
            raise Fenced("another worker owns the turn")
        if interruption.releasing and result is STOPPED and not interruption.stop_requested:
            await run.writer.release()
            return
        await run.settle(result)
        seconds = asyncio.get_running_loop().time() - run.started_at
        self._metrics.turn(run.turn.skill, result.outcome, seconds)

    async def _attempt(self, run: Run) -> RunResult:
        """Route the turn and run its skill behind the crash barrier."""
        try:
            if run.claim.attempt > self._settings.max_attempts:
                raise MaxAttemptsExceeded(f"given up after {self._settings.max_attempts} attempts")
            async with asyncio.timeout_at(run.turn.deadline):
                with run.interruption.cancellable():
                    await self._handler.answer(run)
        except SkillEnded as ended:
            return _result_of(run, ended)
        except asyncio.CancelledError as error:
            if not run.interruption.requested:
                return self._crashed(run, error)
            _uncancel()
            return STOPPED
        except Fenced:  # a step of the turn found out
            raise
        except LedgerUnavailable:  # a step of the turn needed it; the skill is not to blame
            run.interruption.release()
            await asyncio.sleep(POLL_INTERVAL)
            return STOPPED
        except TimeoutError:
            return self._failed(run, SkillError("the turn's timeout passed"))
        except PalaverError as error:
            return self._failed(run, error)
        except BaseException as error:  # noqa: BLE001 - the barrier around a skill
            return self._crashed(run, error)
        return RunResult("done")

    def _crashed(self, run: Run, error: BaseException) -> RunResult:
        """Return the result of a skill that raised something unexpected."""
        if ends_process(error):
            raise error
        what = f"skill {run.turn.skill!r} raised {describe_error(error)}"
        log.error("turn %s: %s", run.claim.turn, what, extra=run.log_fields)
        return RunResult("failed", Problem(SkillError.code, SkillError.public_message))

    def _failed(self, run: Run, error: PalaverError) -> RunResult:
        log.warning("turn %s: %s", run.claim.turn, describe_error(error), extra=run.log_fields)
        if isinstance(error, LimitExceeded | PromptTooLong):
            self._metrics.limit_reached(error.limit)
        reason = str(error) if isinstance(error, MaxAttemptsExceeded) else ""
        return RunResult("failed", Problem(error.code, error.public), dead_letter_reason=reason)


def _result_of(run: Run, ended: SkillEnded) -> RunResult:
    if isinstance(ended, Suspended):
        return RunResult("asked", pending_question=run.pending_question(ended))
    if isinstance(ended, QuestionWithdrawn):
        return STOPPED
    return RunResult("done")


def _uncancel() -> None:
    """Clear the cancellation requests of the current task."""
    task = asyncio.current_task()
    assert task is not None
    while task.cancelling():
        task.uncancel()
