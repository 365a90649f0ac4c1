"""A generation loop in a thread of its own, under an engine that lives in the event loop.

The loop hands in `Job`s and takes them out; the thread makes steps, turns tokens into text, and
tells the loop everything of one step at once: one wake-up per step, and no queue, task or
generator per token.
"""

import asyncio
import dataclasses
import heapq
import itertools
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from palaver import (
    EngineError,
    EngineStats,
    EngineUnavailable,
    FinishReason,
    Generation,
    OnText,
    TokenLogprob,
    Usage,
)
from palaver_plugins.engines.tokenization import ChatTokenizer, StreamingDetokenizer

RELEASE_SECONDS = 5.0
"""How long to wait for the thread to confirm; in a hung step it never does."""


@dataclasses.dataclass(slots=True, kw_only=True)
class StepOutput:
    """What a step did for one job: its new tokens, and whether the model has ended it.

    ``alternatives`` holds, for each token, others with their log-probabilities.
    """

    tokens: Sequence[int]
    logprobs: Sequence[float] = ()
    alternatives: Sequence[Sequence[tuple[int, float]]] = ()
    finish: FinishReason | None = None
    failure: str = ""


class Runner(Protocol):
    """What makes the steps. Called in the thread only; any exception is its death."""

    def add(self, job: "Job") -> None: ...

    def remove(self, job: "Job") -> None:
        """Take an unfinished job out; its slot is free after the next step."""

    def step(self) -> list[tuple["Job", StepOutput]]: ...

    def close(self) -> None: ...


class Job:
    """One generation on its way. ``options`` is the runner's own form of the sampling; ``begun`` of
    the ``prompt``'s tokens are the reply's, which may get ``room`` more.

    ``outcome`` is the result; ``released`` is done once the slot is free again.
    """

    def __init__(
        self,
        *,
        codec: ChatTokenizer,
        prompt: Sequence[int],
        partial_tokens: int,
        max_new_tokens: int,
        stops: Sequence[str],
        options: object,
        on_text: OnText,
        priority: int = 0,
        wants_logprobs: bool = False,
    ) -> None:
        self.prompt = prompt
        self.max_new_tokens = max_new_tokens
        self.options = options
        self.on_text = on_text
        self.priority = priority
        self.reply = StreamingDetokenizer(codec, prompt, stops)
        self.handle: Any = None  # Any: the runner's own
        self.leaving = False
        loop = asyncio.get_running_loop()
        self.outcome: asyncio.Future[Generation] = loop.create_future()
        self.released: asyncio.Future[None] = loop.create_future()
        self.ends = codec.end_tokens
        self._codec = codec
        self._wants_logprobs = wants_logprobs
        self._said: list[str] = []
        self._begun = partial_tokens
        self._tokens = partial_tokens
        self._logprobs: list[TokenLogprob] = []

    def take(self, output: StepOutput) -> str:
        """The text that ``output`` adds. Called in the thread."""
        self._tokens += len(output.tokens)
        if self._wants_logprobs:
            self._logprobs += self._named(output)
        words = [token for token in output.tokens if token not in self.ends]
        piece = self.reply.push(words) if words else ""
        if output.finish:
            piece += self.reply.flush()
        self._said.append(piece)
        return piece

    def _named(self, output: StepOutput) -> list[TokenLogprob]:
        name = self._codec.token_text
        others = output.alternatives or [()] * len(output.tokens)
        return [
            TokenLogprob(name(token), logprob, tuple((name(other), it) for other, it in more))
            for token, logprob, more in zip(output.tokens, output.logprobs, others, strict=True)
        ]

    def result(self, finish: FinishReason) -> Generation:
        return Generation(
            text="".join(self._said),
            finish_reason=finish,
            usage=Usage(
                prompt_tokens=len(self.prompt) - self._begun, completion_tokens=self._tokens
            ),
            logprobs=tuple(self._logprobs),
        )

    def say(self, piece: str) -> None:
        """Called in the loop. A failing listener ends its own generation and nothing else."""
        if self.outcome.done():
            return
        try:
            self.on_text(piece)
        except Exception as error:  # noqa: BLE001  it is passed on to the caller
            self.outcome.set_exception(error)

    def end(self, outcome: Generation | EngineError) -> None:
        """Called in the loop."""
        if self.outcome.done():
            return
        if isinstance(outcome, Generation):
            self.outcome.set_result(outcome)
        else:
            self.outcome.set_exception(outcome)

    def release(self) -> None:
        """Called in the loop."""
        if not self.released.done():
            self.released.set_result(None)


class GenerationThread:
    """The thread. At most ``slots`` jobs run at once; the others wait, by priority and age."""

    def __init__(self, runner: Runner, slots: int) -> None:
        self._runner = runner
        self._slots = slots
        self._loop = asyncio.get_running_loop()
        self._serial = itertools.count()
        self._change = threading.Condition()
        # Under the condition's lock:
        self._waiting: list[tuple[int, int, Job]] = []
        self._dropped: list[Job] = []
        self._closing = False
        self._dead: str | None = None
        # Of the thread:
        self._running: dict[Job, Generation | None] = {}
        self._news: list[Callable[[], None]] = []
        self._thread = threading.Thread(target=self._live, name="engine", daemon=True)
        self._thread.start()

    def stats(self) -> EngineStats:
        return EngineStats(running=len(self._running), waiting=len(self._waiting))

    async def generate(self, job: Job) -> Generation:
        """Run ``job``. However it ends, its slot is free afterwards."""
        with self._change:
            if self._dead is not None:
                raise EngineUnavailable(self._dead)
            if job.max_new_tokens < 1:
                return job.result("length")
            heapq.heappush(self._waiting, (job.priority, next(self._serial), job))
            self._change.notify()
        try:
            return await job.outcome
        finally:
            if not job.released.done():
                await self._release(job)

    async def _release(self, job: Job) -> None:
        with self._change:
            self._dropped.append(job)
            self._change.notify()
        await asyncio.wait([job.released], timeout=RELEASE_SECONDS)

    async def close(self) -> None:
        """End the thread; unfinished jobs fail. A hung thread is left behind."""
        with self._change:
            self._closing = True
            self._change.notify()
        await asyncio.to_thread(self._thread.join, RELEASE_SECONDS)

    # In the thread

    def _live(self) -> None:
        try:
            while self._next():
                self._step()
            reason = "the engine was closed"
        except Exception as error:  # noqa: BLE001  a failed step leaves the runner unusable
            reason = f"the engine died: {error}"
        self._die(reason)

    def _next(self) -> bool:
        """Wait for work, and take it. False when the thread should end."""
        with self._change:
            self._change.wait_for(
                lambda: self._waiting or self._dropped or self._running or self._closing
            )
            if self._closing:
                return False
            self._drop()
            admitted = self._admit()
        for job in admitted:
            self._runner.add(job)
        return True

    def _drop(self) -> None:
        dropped, self._dropped = set(self._dropped), []
        for job in dropped & self._running.keys():
            self._leave(job, None)
        kept = [entry for entry in self._waiting if entry[2] not in dropped]
        if len(kept) < len(self._waiting):
            heapq.heapify(kept)
            self._waiting = kept
        self._news += [job.release for job in dropped - self._running.keys()]

    def _admit(self) -> list[Job]:
        admitted = []
        while self._waiting and len(self._running) < self._slots:
            job = heapq.heappop(self._waiting)[2]
            self._running[job] = None
            admitted.append(job)
        return admitted

    def _leave(self, job: Job, outcome: Generation | None) -> None:
        """Ask the runner to free the slot with the next step."""
        if not job.leaving:
            job.leaving = True
            self._running[job] = outcome
            self._runner.remove(job)

    def _step(self) -> None:
        leaving = [job for job in self._running if job.leaving]
        outputs = self._runner.step() if self._running else ()
        for job in leaving:
            self._finish(job, self._running[job])
        for job, output in outputs:
            if not job.leaving:
                self._take(job, output)
        self._tell()

    def _take(self, job: Job, output: StepOutput) -> None:
        if output.failure:
            self._finish(job, EngineError(output.failure))
            return
        piece = job.take(output)
        if piece:
            self._news.append(partial(job.say, piece))
        if job.reply.stopped and not output.finish:
            self._leave(job, job.result("stop"))
        elif output.finish:
            self._finish(job, job.result("stop" if job.reply.stopped else output.finish))

    def _finish(self, job: Job, outcome: Generation | EngineError | None) -> None:
        del self._running[job]
        self._news.append(job.release)
        if outcome is not None:
            self._news.append(partial(job.end, outcome))

    def _tell(self) -> None:
        news, self._news = self._news, []
        if news:
            self._loop.call_soon_threadsafe(announce, news)

    def _die(self, reason: str) -> None:
        with self._change:
            self._dead = reason
            jobs = {*self._running, *self._dropped, *(entry[2] for entry in self._waiting)}
            self._running, self._waiting, self._dropped = {}, [], []
        for job in jobs:
            self._news += [job.release, partial(job.end, EngineUnavailable(reason))]
        self._runner.close()
        if not self._loop.is_closed():
            self._tell()


def announce(news: list[Callable[[], None]]) -> None:
    for item in news:
        item()
