"""A thread that runs the generation loop of a model in this process.

The event loop submits `Job`s. The thread runs the model step by step, decodes the tokens, and
reports all results of a step to the event loop in one call: no queue, task or generator per token.
"""

import asyncio
import dataclasses
import heapq
import itertools
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from palaver import (
    EngineError,
    EngineStats,
    EngineUnavailable,
    FinishReason,
    Generation,
    GenerationRequest,
    OnText,
    TokenLogprob,
    Usage,
    remaining_tokens,
)
from palaver_plugins.engines.pending_generation import PendingGeneration
from palaver_plugins.engines.tokenization import ChatTokenizer, StreamingDetokenizer

Callback = Callable[[], None]
RELEASE_TIMEOUT = 5.0
"""Seconds to wait for the thread to free a slot; it never does so in a hung step."""


@dataclasses.dataclass(slots=True, kw_only=True)
class StepOutput:
    """Result of one step for one job: the new tokens, and the reason when the reply has ended.

    ``alternatives`` holds, for each token, other tokens with their log-probabilities.
    """

    tokens: Sequence[int]
    logprobs: Sequence[float] = ()
    alternatives: Sequence[Sequence[tuple[int, float]]] = ()
    finish: FinishReason | None = None
    failure: str = ""


class Job(PendingGeneration):
    """One generation of the thread. ``released`` is done when its slot is free.

    ``self.prompt`` holds the tokens of the prompt and of the partial reply; ``max_new_tokens`` more
    may follow. The runner may keep its own state in ``handle``. ``images`` are the runner's
    arguments for reading the prompt.

    Raises `PromptTooLong` when the prompt fills the context window (in tokens).
    """

    def __init__(
        self,
        request: GenerationRequest,
        on_text: OnText,
        *,
        tokenizer: ChatTokenizer,
        prompt: Sequence[int],
        partial_reply: Sequence[int],
        context_window: int,
        images: Mapping[str, Any] | None = None,  # Any: the runner's own
    ) -> None:
        super().__init__(on_text)
        self.request = request
        self.prompt = [*prompt, *partial_reply]
        self.max_new_tokens = remaining_tokens(
            request.sampling,
            prompt_tokens=len(prompt),
            partial_tokens=len(partial_reply),
            context_window=context_window,
        )
        self.end_tokens = tokenizer.end_tokens
        self.detokenizer = StreamingDetokenizer(tokenizer, self.prompt, request.sampling.stop)
        self.handle: Any = None  # Any: the runner's own
        self.images = images or {}
        self.is_leaving = False
        self.released: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tokenizer = tokenizer
        self.prompt_tokens = len(prompt)
        self._reply_tokens = len(partial_reply)

    @property
    def usage(self) -> Usage:
        return Usage(prompt_tokens=self.prompt_tokens, completion_tokens=self._reply_tokens)

    def decode(self, output: StepOutput) -> str:
        """Return the text that ``output`` adds. Called in the thread."""
        self._reply_tokens += len(output.tokens)
        if self.request.sampling.logprobs is not None:
            self.add_logprobs(self._token_logprobs(output))
        visible = [token for token in output.tokens if token not in self.end_tokens]
        text = self.detokenizer.push(visible) if visible else ""
        return text + self.detokenizer.flush() if output.finish else text

    def _token_logprobs(self, output: StepOutput) -> list[TokenLogprob]:
        def text_of(token: int) -> str:
            return self._tokenizer.decode([token], skip_special_tokens=False)

        alternatives = output.alternatives or [()] * len(output.tokens)
        return [
            TokenLogprob(text_of(token), logprob, tuple((text_of(it), value) for it, value in more))
            for token, logprob, more in zip(
                output.tokens, output.logprobs, alternatives, strict=True
            )
        ]

    def release(self) -> None:
        """Report that the slot is free. Called in the loop."""
        if not self.released.done():
            self.released.set_result(None)


class Runner(Protocol):
    """The model. It is called in the thread only; any exception ends the thread."""

    def add(self, job: Job) -> None: ...

    def remove(self, job: Job) -> None:
        """Remove an unfinished job; its slot is free after the next step."""

    def step(self) -> list[tuple[Job, StepOutput]]: ...

    def close(self) -> None: ...


class GenerationThread:
    """The thread. At most ``slots`` jobs run at once; the others wait, by priority and age."""

    def __init__(self, runner: Runner, slots: int) -> None:
        self._runner = runner
        self._slots = slots
        self._loop = asyncio.get_running_loop()
        self._serial = itertools.count()
        # From the event loop, which must never wait for a lock: the thread takes one at each step.
        self._submitted: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._cancelled: list[Job] = []
        self._closing = False
        self._failure: str | None = None
        # Used by the thread:
        self._waiting: list[tuple[int, int, Job]] = []
        self._running: dict[Job, Callback | None] = {}  # with its end, for a job that leaves
        self._callbacks: list[Callback] = []
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def stats(self) -> EngineStats:
        if self._failure is not None:
            return EngineStats(running=0, waiting=0)
        waiting = len(self._waiting) + self._submitted.qsize()
        return EngineStats(running=len(self._running), waiting=waiting)

    async def generate(self, job: Job) -> Generation:
        """Run ``job`` and free its slot, however it ends."""
        if job.max_new_tokens < 1 and self._failure is None:
            job.finish("length", job.usage)
            return job.result.result()
        self._submitted.put(job)
        if self._failure is not None:  # the thread has ended, or ends now
            raise EngineUnavailable(self._failure)
        try:
            return await job.result
        finally:
            if not job.released.done():
                await self._cancel(job)

    async def _cancel(self, job: Job) -> None:
        self._cancelled.append(job)
        self._submitted.put(None)
        await asyncio.wait([job.released], timeout=RELEASE_TIMEOUT)

    async def close(self) -> None:
        """End the thread; unfinished jobs fail. A hung thread is abandoned."""
        self._closing = True
        self._submitted.put(None)
        await asyncio.to_thread(self._thread.join, RELEASE_TIMEOUT)

    # In the thread

    def _run(self) -> None:
        try:
            while self._take_work():
                self._step()
            reason = "the engine was closed"
        except Exception as error:  # noqa: BLE001  a failed step leaves the runner unusable
            reason = f"the engine crashed: {error}"
        self._fail_all(reason)

    def _take_work(self) -> bool:
        """Wait for work and take it. Return False when the thread should end."""
        count = len(self._cancelled)  # counted first: these jobs were submitted before
        self._take_submitted()
        if self._closing:
            return False
        self._drop_cancelled(count)
        admitted = self._admit()
        for job in admitted:
            self._runner.add(job)
        return True

    def _take_submitted(self) -> None:
        """Take the submitted jobs; wait for one when there is nothing to do."""
        wait = not (self._running or self._waiting)
        while wait or not self._submitted.empty():
            job = self._submitted.get()
            wait = False
            if job is not None:
                heapq.heappush(self._waiting, (job.request.priority, next(self._serial), job))

    def _drop_cancelled(self, count: int) -> None:
        cancelled = set(self._cancelled[:count])
        del self._cancelled[:count]
        for job in cancelled & self._running.keys():
            self._leave(job, None)
        waiting = [entry for entry in self._waiting if entry[2] not in cancelled]
        if len(waiting) < len(self._waiting):
            heapq.heapify(waiting)
            self._waiting = waiting
        self._callbacks += [job.release for job in cancelled - self._running.keys()]

    def _admit(self) -> list[Job]:
        admitted = []
        while self._waiting and len(self._running) < self._slots:
            job = heapq.heappop(self._waiting)[2]
            self._running[job] = None
            admitted.append(job)
        return admitted

    def _leave(self, job: Job, end: Callback | None) -> None:
        """Ask the runner to free the slot with the next step, and call ``end`` then."""
        if not job.is_leaving:
            job.is_leaving = True
            self._running[job] = end
            self._runner.remove(job)

    def _step(self) -> None:
        leaving = [job for job in self._running if job.is_leaving]
        outputs = self._runner.step() if self._running else ()
        for job in leaving:
            self._end(job, self._running[job])
        for job, output in outputs:
            if not job.is_leaving:
                self._add_output(job, output)
        self._report()

    def _add_output(self, job: Job, output: StepOutput) -> None:
        if output.failure:
            self._end(job, partial(job.fail, EngineError(output.failure)))
            return
        text = job.decode(output)
        if text:
            self._callbacks.append(partial(job.deliver, text))
        if job.detokenizer.stopped:
            end = partial(job.finish, "stop", job.usage)
            (self._end if output.finish else self._leave)(job, end)
        elif output.finish:
            self._end(job, partial(job.finish, output.finish, job.usage))

    def _end(self, job: Job, end: Callback | None) -> None:
        del self._running[job]
        self._callbacks.append(job.release)
        if end is not None:
            self._callbacks.append(end)

    def _report(self) -> None:
        callbacks, self._callbacks = self._callbacks, []
        if callbacks:
            self._loop.call_soon_threadsafe(run_all, callbacks)

    def _fail_all(self, reason: str) -> None:
        self._failure = reason
        while not self._submitted.empty():
            self._take_submitted()
        jobs = {*self._running, *self._cancelled, *(entry[2] for entry in self._waiting)}
        self._running, self._waiting, self._cancelled = {}, [], []
        for job in jobs:
            self._callbacks += [job.release, partial(job.fail, EngineUnavailable(reason))]
        self._runner.close()
        if not self._loop.is_closed():
            self._report()


def run_all(callbacks: list[Callback]) -> None:
    for callback in callbacks:
        callback()
