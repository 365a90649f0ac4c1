"""The jobs of a data directory: starts, pauses, stops and removes them."""

import contextlib
import dataclasses
import fcntl
import hashlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from palaver.errors import Conflict, InvalidInput, NotFound, Overloaded
from palaver.jobs import folder as job_folder
from palaver.jobs.folder import (
    JOB,
    LOG,
    PROCESS,
    RESUMABLE,
    JobDescription,
    JobFolder,
    ProcessIdentity,
    State,
)
from palaver.private_files import make_private_directory

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,99}")
JOBS_DIRECTORY = "jobs"
"""Directory of the jobs in ``server.data``."""
DAY = 86_400.0
"""Seconds."""
HASHED_BYTES = 1 << 20
"""Bytes of a file that are read at once."""


class JobStore:
    """The jobs of one directory. Safe to use from several processes.

    At most ``max_running`` run at once, ``in_background``: only when no other process wants to
    compute. ``keep_days`` after its end, a job is removed when another one is created; 0: never.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_running: int = 1,
        in_background: bool = True,
        keep_days: float = 0.0,
    ) -> None:
        self.directory = directory.absolute()  # programs start in their own folders
        self._max_running = max_running
        self._in_background = in_background
        self._keep_seconds = keep_days * DAY

    def jobs(self) -> list[JobFolder]:
        """Return all jobs, the oldest first."""
        if not self.directory.is_dir():
            return []
        paths = [path.parent for path in self.directory.glob(f"*/{JOB}")]
        found = [JobFolder(path) for path in paths if NAME.fullmatch(path.name)]
        return sorted(found, key=lambda job: (job.describe().created, job.name))

    def find(self, name: str) -> JobFolder:
        """Raises `NotFound`."""
        for job in self.jobs():
            if job.name == name:
                return job
        names = ", ".join(job.name for job in self.jobs()[-10:]) or "none"
        raise NotFound(f"there is no job {name!r}; the latest are: {names}")

    def create(
        self,
        kind: str,
        command: Sequence[str],
        config: Mapping[str, Any],
        *,
        inputs: Sequence[Path] = (),
        disk_bytes: int = 0,
        memory_bytes: int = 0,
        name: str = "",
    ) -> JobFolder:
        """Create a job that waits. Raises `InvalidInput` for a name of other characters or an
        input that cannot be read, `Conflict` when there is such a job."""
        name = name or self._new_name(kind)
        if not NAME.fullmatch(name):
            raise InvalidInput(f"a job cannot be named {name!r}: use a-z, 0-9 and '-'")
        description = JobDescription(
            kind=kind,
            command=list(command),
            config=dict(config),
            inputs={str(path.absolute()): compute_sha256(path) for path in inputs},
            disk_bytes=disk_bytes,
            memory_bytes=memory_bytes,
            created=time.time(),
        )
        make_private_directory(self.directory)
        self._remove_old()
        fresh = JobFolder(self.directory / f".{name}.{os.getpid()}")
        fresh.path.mkdir(mode=0o700)
        fresh.write(JOB, dataclasses.asdict(description))
        try:
            return JobFolder(fresh.path.rename(self.directory / name))
        except OSError as error:  # one that has anything in it is not replaced
            shutil.rmtree(fresh.path)
            raise Conflict(f"there is a job {name!r} already") from error

    def _remove_old(self) -> None:
        if self._keep_seconds:
            for job in self.jobs():
                end = job.end()
                if end and end.time < time.time() - self._keep_seconds:
                    self.remove(job)

    def _new_name(self, kind: str) -> str:
        taken = {job.name for job in self.jobs()}
        name = time.strftime(f"{kind}-%Y%m%d-%H%M%S", time.gmtime())
        numbered = (f"{name}-{number}" for number in itertools.count(2))
        return next(it for it in itertools.chain([name], numbered) if it not in taken)

    def start(self, job: JobFolder) -> None:
        """Start the job's program, or start it again where it can go on.

        Raises `Conflict` for a job that runs or has finished, and when too many others run;
        `Overloaded` when the machine has too little disk space or memory.
        """
        with self._lock():
            state = job.state()
            if state not in RESUMABLE:
                raise Conflict(f"job {job.name!r} is {state}")
            self._check_running()
            check_resources(job)
            job.clear_end()
            pid = self._start_program(job)
            job.write(PROCESS, dataclasses.asdict(ProcessIdentity.of(pid)))

    def _start_program(self, job: JobFolder) -> int:
        command = [sys.executable, "-P", job_folder.__file__, str(job.path)]
        with open(job.path / LOG, "ab") as log:
            done = subprocess.run(
                [*command, "background"] if self._in_background else command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=job.path,
                check=True,
            )
        return int(done.stdout)

    def _check_running(self) -> None:
        running = [job.name for job in self.jobs() if job.state() in ("running", "paused")]
        if len(running) >= self._max_running:
            raise Conflict(
                f"{', '.join(running)} runs: jobs.max_running is {self._max_running}. Wait for it, "
                f"or stop it: palaver jobs stop {running[0]}"
            )

    def pause(self, job: JobFolder) -> None:
        """Halt the processes of a running job; they keep their memory. Raises `Conflict`."""
        self._signal(job, "running", signal.SIGSTOP)

    def resume(self, job: JobFolder) -> None:
        """Let a paused job go on, or start one again from its last checkpoint.

        Raises as `start`."""
        if job.state() == "paused":
            self._signal(job, "paused", signal.SIGCONT)
        else:
            self.start(job)

    def stop(self, job: JobFolder) -> None:
        """Ask a job to save a checkpoint and to end. Raises `Conflict` when it does not run."""
        if job.state() == "paused":  # it gets the first signal when it goes on
            self._signal(job, "paused", signal.SIGTERM, signal.SIGCONT)
        else:
            self._signal(job, "running", signal.SIGTERM)

    def kill(self, job: JobFolder) -> None:
        """End the processes of a running job at once. Raises `Conflict` when it does not run."""
        self._signal(job, "paused" if job.state() == "paused" else "running", signal.SIGKILL)

    def _signal(self, job: JobFolder, expected: State, *signals: signal.Signals) -> None:
        state, process = job.state(), job.process()
        if state != expected or process is None:
            raise Conflict(f"job {job.name!r} is {state}")
        with contextlib.suppress(ProcessLookupError):
            for signum in signals:
                os.killpg(process.pid, signum)

    def remove(self, job: JobFolder) -> None:
        """Delete the job's folder. Raises `Conflict` for one that runs."""
        with self._lock():
            state = job.state()
            if state in ("running", "paused"):
                raise Conflict(f"job {job.name!r} is {state}; stop it first")
            shutil.rmtree(job.path)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        with open(self.directory / ".lock", "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def check_resources(job: JobFolder) -> None:
    """Raise `Overloaded` when the machine has too little free disk space or memory for the job."""
    needed = job.describe()
    free = shutil.disk_usage(job.path).free
    if free < needed.disk_bytes:
        raise Overloaded(
            f"job {job.name!r} needs {needed.disk_bytes / 1e6:,.0f} MB of disk space; "
            f"{free / 1e6:,.0f} MB are free in {job.path.parent}"
        )
    available = available_memory()
    if available < needed.memory_bytes:
        raise Overloaded(
            f"job {job.name!r} needs {needed.memory_bytes / 1e6:,.0f} MB of memory; "
            f"{available / 1e6:,.0f} MB are available"
        )


def available_memory() -> int:
    """Return the bytes of memory that new programs can use without swapping (proc(5), meminfo)."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))


def compute_sha256(file: Path) -> str:
    """Raises `InvalidInput` when the file cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(file, "rb") as stream:
            while block := stream.read(HASHED_BYTES):
                digest.update(block)
    except OSError as error:
        raise InvalidInput(f"{str(file)!r}: {error.strerror}") from error
    return digest.hexdigest()
