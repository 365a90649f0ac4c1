"""The thread that makes steps: order, release, death. Its runner here has no model."""

import asyncio
import threading
from pathlib import Path

import pytest
from tests.plugins.engines.support import IDLE, TextCollector, wait_until

from palaver.engine import EngineStats, Generation
from palaver.errors import EngineError, EngineUnavailable
from palaver_plugins.engines.generation_thread import GenerationThread, Job, StepOutput
from palaver_plugins.engines.tokenization import ChatTokenizer


class Counter:
    """A runner that says one token per step to each job, ``length`` of them."""

    def __init__(self, codec: ChatTokenizer, length: int = 3) -> None:
        (self.token,) = codec.encode(" rain")
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
def codec(model: Path) -> ChatTokenizer:
    return ChatTokenizer.load(model)


def job(codec: ChatTokenizer, *, priority: int = 0) -> Job:
    return Job(
        codec=codec,
        prompt=[1],
        partial_tokens=0,
        max_new_tokens=9,
        stops=(),
        options=None,
        on_text=TextCollector(),
        priority=priority,
    )


async def test_waiting_jobs_run_by_priority_and_age(codec: ChatTokenizer) -> None:
    runner = Counter(codec)
    runner.gate.clear()
    stepper = GenerationThread(runner, slots=1)
    jobs = [job(codec, priority=it) for it in (0, 5, -5, 0, 5)]
    tasks = [asyncio.create_task(stepper.generate(jobs[0]))]

    async def first_runs() -> bool:
        return stepper.stats() == EngineStats(running=1, waiting=0)

    await wait_until(first_runs)
    tasks += [asyncio.create_task(stepper.generate(it)) for it in jobs[1:]]
    await asyncio.sleep(0)
    assert stepper.stats() == EngineStats(running=1, waiting=4)
    runner.gate.set()
    assert {task.text for task in await asyncio.gather(*tasks)} == {" rain rain rain"}
    assert [jobs.index(it) for it in runner.order] == [0, 2, 3, 1, 4]
    assert stepper.stats() == IDLE
    await stepper.close()


async def test_a_waiting_job_that_is_cancelled_never_runs(codec: ChatTokenizer) -> None:
    runner = Counter(codec, length=10**9)
    stepper = GenerationThread(runner, slots=1)
    running, waiting = (asyncio.create_task(stepper.generate(job(codec))) for _ in range(2))

    async def one_waits() -> bool:
        return stepper.stats() == EngineStats(running=1, waiting=1)

    await wait_until(one_waits)
    for task in (waiting, running):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)
    assert stepper.stats() == IDLE
    assert len(runner.order) == 1
    await stepper.close()


async def test_a_runner_that_fails_is_dead_for_everybody(codec: ChatTokenizer) -> None:
    runner = Counter(codec, length=10**9)
    stepper = GenerationThread(runner, slots=1)
    tasks = [asyncio.create_task(stepper.generate(job(codec))) for _ in range(3)]
    await asyncio.sleep(0)
    runner.error = RuntimeError("out of memory")
    for task in tasks:
        with pytest.raises(EngineUnavailable, match="out of memory"):
            await asyncio.wait_for(task, 5)
    with pytest.raises(EngineUnavailable, match="out of memory"):
        await stepper.generate(job(codec))
    assert stepper.stats() == IDLE
    await stepper.close()


async def test_a_failure_of_one_job_is_its_own(codec: ChatTokenizer) -> None:
    runner = Counter(codec)
    runner.failure = "the attention cache is full"
    stepper = GenerationThread(runner, slots=2)
    with pytest.raises(EngineError, match="cache is full"):
        await stepper.generate(job(codec))
    runner.failure = ""
    said = await stepper.generate(job(codec))
    assert isinstance(said, Generation)
    await stepper.close()


async def test_closing_ends_what_runs(codec: ChatTokenizer) -> None:
    stepper = GenerationThread(Counter(codec, length=10**9), slots=1)
    tasks = [asyncio.create_task(stepper.generate(job(codec))) for _ in range(2)]
    await asyncio.sleep(0)
    await stepper.close()
    for task in tasks:
        with pytest.raises(EngineUnavailable, match="closed"):
            await asyncio.wait_for(task, 5)
