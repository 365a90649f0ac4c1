"""Jobs with a real program: progress, pause, stop, crash, resumption, priority, limits."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.server.jobs import counting_program

from palaver.errors import Conflict, InvalidInput, NotFound, Overloaded
from palaver.jobs import folder as job_folder
from palaver.jobs.folder import PROGRESS, JobFolder, ProcessIdentity
from palaver.jobs.store import JobStore

pytestmark = pytest.mark.slow

STEPS = 40
SLOW = 0.02
"""Seconds of a step, where a test does something between two."""
PATIENCE = 60.0
"""Seconds that a test waits for the program: each start is that of an interpreter."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    store = JobStore(tmp_path / "jobs", in_background=False)
    yield store
    for job in store.jobs():
        if job.state() in ("running", "paused"):
            store.kill(job)


def create(store: JobStore, name: str = "", **config: float) -> JobFolder:
    command = [sys.executable, counting_program.__file__]
    return store.create("count", command, {"steps": STEPS} | config, name=name)


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def wait_for(job: JobFolder, *states: str) -> None:
    wait(lambda: job.state() in states)


def steps_done(job: JobFolder) -> int:
    reports = job.progress()
    return int(reports[-1]["step"]) if reports else 0


@pytest.fixture
def expected(tmp_path: Path) -> str:
    """The result of a run without an interruption."""
    store = JobStore(tmp_path / "others", in_background=False)
    job = create(store)
    store.start(job)
    wait_for(job, "finished")
    end = job.end()
    assert end is not None
    return str(end.result["mix"])


def result(job: JobFolder) -> str:
    end = job.end()
    assert end is not None
    return str(end.result.get("mix"))


def test_a_job_runs_and_leaves_its_result(store: JobStore) -> None:
    job = create(store)
    assert job.state() == "waiting"
    store.start(job)
    wait_for(job, "finished")
    assert [report["step"] for report in job.progress()] == list(range(1, STEPS + 1))
    assert result(job)
    with pytest.raises(Conflict, match="finished"):
        store.start(job)


def test_a_paused_job_goes_on_where_it_was(store: JobStore, expected: str) -> None:
    job = create(store, seconds=SLOW)
    store.start(job)
    wait(lambda: steps_done(job) >= 3)
    store.pause(job)
    wait_for(job, "paused")
    with pytest.raises(Conflict, match="paused"):
        store.pause(job)
    store.resume(job)
    wait_for(job, "finished")
    assert result(job) == expected


def test_a_stopped_job_saves_a_checkpoint_and_goes_on(store: JobStore, expected: str) -> None:
    job = create(store, seconds=SLOW)
    store.start(job)
    wait(lambda: steps_done(job) >= 3)
    store.stop(job)
    wait_for(job, "stopped")
    assert steps_done(job) < STEPS
    store.resume(job)
    wait_for(job, "finished")
    assert result(job) == expected
    assert len(job.progress()) == STEPS, "no step was done twice"


def test_a_paused_job_can_be_stopped(store: JobStore) -> None:
    job = create(store, seconds=SLOW)
    store.start(job)
    wait(lambda: steps_done(job) >= 3)
    store.pause(job)
    wait_for(job, "paused")
    store.stop(job)
    wait_for(job, "stopped")


def test_a_killed_job_goes_on_from_its_checkpoint_with_the_same_result(
    store: JobStore, expected: str
) -> None:
    job = create(store, seconds=SLOW)
    store.start(job)
    wait(lambda: steps_done(job) >= 13)
    store.kill(job)
    wait_for(job, "interrupted")
    store.resume(job)
    wait_for(job, "finished")
    assert result(job) == expected
    lines = (job.path / PROGRESS).read_text(encoding="utf-8").split("\n")
    assert len([line for line in lines if line]) > STEPS, "steps 11 to 13 were done again"
    assert [report["step"] for report in job.progress()] == list(range(1, STEPS + 1))


def test_a_report_that_was_cut_spoils_no_other_one(store: JobStore, expected: str) -> None:
    job = create(store, seconds=SLOW)
    store.start(job)
    wait(lambda: steps_done(job) >= 13)
    store.kill(job)
    wait_for(job, "interrupted")
    with (job.path / PROGRESS).open("ab") as lines:
        lines.write(b'{"step": 14, "ste')
    store.resume(job)
    wait_for(job, "finished")
    assert [report["step"] for report in job.progress()] == list(range(1, STEPS + 1))


def test_a_failure_is_one_line_and_can_be_repeated(store: JobStore) -> None:
    job = create(store, fails_at=3)
    store.start(job)
    wait_for(job, "failed")
    end = job.end()
    assert end is not None
    assert end.error == "ValueError: the data is damaged"
    assert "Traceback" in (job.path / "log.txt").read_text(encoding="utf-8")
    store.resume(job)
    wait_for(job, "failed")


def test_a_program_that_cannot_be_run_fails_the_job(store: JobStore) -> None:
    job = store.create("count", ["/no/such/python"], {})
    store.start(job)
    wait_for(job, "failed")
    end = job.end()
    assert end is not None
    assert "'/no/such/python' cannot be run" in end.error


def test_one_job_runs_at_a_time(store: JobStore) -> None:
    first, second = create(store, "first", seconds=SLOW), create(store, "second")
    store.start(first)
    with pytest.raises(Conflict, match=r"first runs: jobs\.max_running is 1.*jobs stop first"):
        store.start(second)
    with pytest.raises(Conflict, match="'first' is running"):
        store.remove(first)
    store.kill(first)
    wait_for(first, "interrupted")
    store.start(second)
    wait_for(second, "finished")
    store.remove(first)
    assert [job.name for job in store.jobs()] == ["second"]


def test_the_program_computes_only_when_nobody_else_wants_to(store: JobStore) -> None:
    job = create(store, seconds=SLOW)
    JobStore(job.path.parent).start(job)
    process = job.process()
    assert process is not None
    wait(lambda: os.sched_getscheduler(process.pid) == os.SCHED_IDLE)
    assert os.getpriority(os.PRIO_PROCESS, process.pid) == 19
    assert os.getsid(process.pid) == process.pid, "it outlives the terminal"


def test_a_job_that_the_machine_has_no_room_for_is_refused(store: JobStore) -> None:
    command = [sys.executable, counting_program.__file__]
    large = store.create("count", command, {"steps": 1}, disk_bytes=1 << 60)
    with pytest.raises(Overloaded, match="MB of disk space"):
        store.start(large)
    hungry = store.create("count", command, {"steps": 1}, memory_bytes=1 << 60)
    with pytest.raises(Overloaded, match="MB of memory"):
        store.start(hungry)


def test_a_process_with_the_number_of_a_dead_one_is_not_the_job(store: JobStore) -> None:
    job = create(store)
    other = ProcessIdentity.of(os.getpid())
    for stranger in (
        dataclasses.replace(other, started=other.started - 1),
        dataclasses.replace(other, boot="another boot"),
    ):
        job.write("process.json", dataclasses.asdict(stranger))
        assert job.state() == "interrupted"
        with pytest.raises(Conflict):
            store.kill(job)


def test_names_and_inputs_are_checked(store: JobStore, tmp_path: Path) -> None:
    for name in ("../x", "A", "", "-x", "x/y"):
        if name:
            with pytest.raises(InvalidInput, match="cannot be named"):
                create(store, name)
    create(store, "one")
    with pytest.raises(Conflict, match="'one' already"):
        create(store, "one")
    with pytest.raises(NotFound, match="no job 'two'; the latest are: one"):
        store.find("two")
    with pytest.raises(InvalidInput, match=r"missing\.csv"):
        store.create("count", ["true"], {}, inputs=[tmp_path / "missing.csv"])


def test_the_folder_works_without_palaver(tmp_path: Path) -> None:
    """The program may run in an environment of its own."""
    code = "import runpy, sys; print(runpy.run_path(sys.argv[1])['JobProgram'].__name__)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, job_folder.__file__],
        capture_output=True,
        check=True,
        cwd=tmp_path,
        env={},
        text=True,
    )
    assert done.stdout == "JobProgram\n"


def test_jobs_created_within_one_second_have_different_names(store: JobStore) -> None:
    names = {create(store).name for _ in range(3)}
    assert len(names) == 3


def test_signals_before_the_first_step_are_not_lost(store: JobStore) -> None:
    """A program that has not yet said that it handles SIGTERM ends; its job can be resumed."""
    job = create(store, seconds=SLOW)
    store.start(job)
    process = job.process()
    assert process is not None
    os.kill(process.pid, signal.SIGTERM)
    wait_for(job, "stopped", "interrupted")
    store.resume(job)
    wait_for(job, "finished")
