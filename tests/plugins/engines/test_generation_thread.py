"""The generation thread: order, release of slots, crashes. Its runner here has no model."""

import asyncio
import threading
from pathlib import Path

import pytest
from tests.plugins.engines.support import IDLE, TextCollector, request, wait_until

from palaver.engine import EngineStats, Generation
from palaver.errors import EngineError, EngineUnavailable
from palaver_plugins.engines.generation_thread import GenerationThread, Job, StepOutput
from palaver_plugins.engines.tokenization import ChatTokenizer


class FakeRunner:
    """A runner that generates one token per step for each job, ``length`` of them."""

    def __init__(self, tokenizer: ChatTokenizer, length: int = 3) -> None:
        (self.token,) = tokenizer.encode(" rain")
        self.length = length
        self.jobs: dict[Job, int] = {}
        self.order: list[Job] = []
        self.error: Exception | None = None
        self.failure = ""
        self.gate = threading.Event()
        self.gate.set()

    def add(self, job: Job) -> None:
        self.jobs[job] = 0
        self.order.append(job)

    def remove(self, job: Job) -> None:
        del self.jobs[job]

    def step(self) -> list[tuple[Job, StepOutput]]:
        self.gate.wait(5)
        if self.error:
            raise self.error
        outputs = []
        for job in list(self.jobs):
            self.jobs[job] += 1
            done = self.jobs[job] == self.length
            output = StepOutput(tokens=[self.token], failure=self.failure)
            output.finish = "length" if done else None
            outputs.append((job, output))
            if done or self.failure:
                del self.jobs[job]
        return outputs

    def close(self) -> None:
        self.jobs.clear()


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> ChatTokenizer:
    return ChatTokenizer.load(model)


def job(tokenizer: ChatTokenizer, *, priority: int = 0) -> Job:
    return Job(
        request("", max_tokens=9, priority=priority),
        TextCollector(),
        tokenizer=tokenizer,
        prompt=[1],
        partial_reply=[],
        context_window=100,
    )


async def test_waiting_jobs_run_by_priority_and_age(tokenizer: ChatTokenizer) -> None:
    runner = FakeRunner(tokenizer)
    runner.gate.clear()
    thread = GenerationThread(runner, slots=1)
    jobs = [job(tokenizer, priority=it) for it in (0, 5, -5, 0, 5)]
    tasks = [asyncio.create_task(thread.generate(jobs[0]))]

    async def first_runs() -> bool:
        return thread.stats() == EngineStats(running=1, waiting=0)

    await wait_until(first_runs)
    tasks += [asyncio.create_task(thread.generate(it)) for it in jobs[1:]]
    await asyncio.sleep(0)
    assert thread.stats() == EngineStats(running=1, waiting=4)
    runner.gate.set()
    assert {task.text for task in await asyncio.gather(*tasks)} == {" rain rain rain"}
    assert [jobs.index(it) for it in runner.order] == [0, 2, 3, 1, 4]
    assert thread.stats() == IDLE
    await thread.close()


async def test_a_waiting_job_that_is_cancelled_never_runs(tokenizer: ChatTokenizer) -> None:
    runner = FakeRunner(tokenizer, length=10**9)
    thread = GenerationThread(runner, slots=1)
    running, waiting = (asyncio.create_task(thread.generate(job(tokenizer))) for _ in range(2))

    async def one_waits() -> bool:
        return thread.stats() == EngineStats(running=1, waiting=1)

    await wait_until(one_waits)
    for task in (waiting, running):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)
    assert thread.stats() == IDLE
    assert len(runner.order) == 1
    await thread.close()


async def test_a_runner_that_fails_ends_all_jobs(tokenizer: ChatTokenizer) -> None:
    runner = FakeRunner(tokenizer, length=10**9)
    thread = GenerationThread(runner, slots=1)
    tasks = [asyncio.create_task(thread.generate(job(tokenizer))) for _ in range(3)]
    await asyncio.sleep(0)
    runner.error = RuntimeError("out of memory")
    for task in tasks:
        with pytest.raises(EngineUnavailable, match="out of memory"):
            await asyncio.wait_for(task, 5)
    with pytest.raises(EngineUnavailable, match="out of memory"):
        await thread.generate(job(tokenizer))
    assert thread.stats() == IDLE
    await thread.close()


async def test_a_failure_of_one_job_is_its_own(tokenizer: ChatTokenizer) -> None:
    runner = FakeRunner(tokenizer)
    runner.failure = "the attention cache is full"
    thread = GenerationThread(runner, slots=2)
    with pytest.raises(EngineError, match="cache is full"):
        await thread.generate(job(tokenizer))
    runner.failure = ""
    generation = await thread.generate(job(tokenizer))
    assert isinstance(generation, Generation)
    await thread.close()


async def test_closing_ends_what_runs(tokenizer: ChatTokenizer) -> None:
    thread = GenerationThread(FakeRunner(tokenizer, length=10**9), slots=1)
    tasks = [asyncio.create_task(thread.generate(job(tokenizer))) for _ in range(2)]
    await asyncio.sleep(0)
    await thread.close()
    for task in tasks:
        with pytest.raises(EngineUnavailable, match="closed"):
            await asyncio.wait_for(task, 5)
