"""Folder of a job: the files by which the server and the program that does the work communicate.

| file | written by | content |
| --- | --- | --- |
| ``job.json`` | the server, once | kind, command, configuration, hashes of the inputs, needs |
| ``process.json`` | the server, at each start | the process that works on the job |
| ``log.txt`` | the program | what it prints |
| ``progress.jsonl`` | the program | a JSON object a line: step, steps, time, and any figures |
| ``end.json`` | the program | how it has ended: finished with a result, stopped, or failed |

A program may keep further files, such as checkpoints. It is called with the path of the folder, and
may run in a Python environment without Palaver: this module needs the standard library alone, and
can be loaded by its path. Run as a program, it starts that of a job and prints its process number::

    python folder.py FOLDER [background]
"""

import contextlib
import dataclasses
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal, cast

Json = dict[str, Any]  # a parsed JSON object
State = Literal["waiting", "running", "paused", "finished", "stopped", "failed", "interrupted"]
"""``waiting``: not started. ``stopped``: ended by request. ``interrupted``: the process is gone
without having said how it ended, as after SIGKILL or a power failure."""
RESUMABLE: frozenset[State] = frozenset({"waiting", "stopped", "failed", "interrupted"})
JOB, PROCESS, PROGRESS, END, LOG = (
    *("job.json", "process.json", "progress.jsonl", "end.json"),
    "log.txt",
)
MAX_ERROR_CHARACTERS = 500


@dataclasses.dataclass(frozen=True, slots=True)
class JobDescription:
    """What a job does. ``command`` gets the folder as its last argument. ``inputs``: SHA-256 by
    path. ``disk_bytes`` and ``memory_bytes`` must be free at the start. ``created``: Unix time."""

    kind: str
    command: Sequence[str]
    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    disk_bytes: int
    memory_bytes: int
    created: float


@dataclasses.dataclass(frozen=True, slots=True)
class JobEnd:
    """How a job has ended. ``error`` is one line; ``result`` what the program has found out."""

    state: Literal["finished", "stopped", "failed"]
    error: str
    result: Json
    time: float


@dataclasses.dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process, which its number alone does not identify: numbers are used again. ``started``:
    clock ticks since the boot."""

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> "ProcessIdentity":
        """Return the identity of a process of this machine, which may have ended already."""
        started = 0
        with contextlib.suppress(ProcessLookupError):
            started, _ = read_process(pid)
        return cls(pid, started, read_boot_id())

    def status(self) -> str:
        """Return the letter of the process's status (proc(5)), "" when it has ended."""
        if self.boot != read_boot_id():
            return ""
        try:
            started, status = read_process(self.pid)
        except ProcessLookupError:
            return ""
        return status if started == self.started and status not in "ZX" else ""


def read_process(pid: int) -> tuple[int, str]:
    """Return when a process has started, in clock ticks since the boot, and its status (proc(5)).

    Raises `ProcessLookupError`.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessLookupError(pid) from error
    return int(fields[19]), fields[0].decode()


def read_boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


class JobFolder:
    """The files of one job."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        return self.path.name

    def describe(self) -> JobDescription:
        """Raises `OSError`, `ValueError` or `KeyError` when the file is missing or damaged."""
        found = self.read(JOB)
        return JobDescription(**{name: found[name] for name in JobDescription.__slots__})

    def state(self) -> State:
        if end := self.end():
            return end.state
        process = self.process()
        if process is None:
            return "waiting"
        match process.status():
            case "":
                # It may have ended properly since the first look.
                return end.state if (end := self.end()) else "interrupted"
            case "T":
                return "paused"
        return "running"

    def end(self) -> JobEnd | None:
        found = self._read(END)
        return JobEnd(**found) if found else None

    def process(self) -> ProcessIdentity | None:
        found = self._read(PROCESS)
        return ProcessIdentity(**found) if found else None

    def progress(self) -> list[Json]:
        """Return the reports in the order of their steps. A step that was done again after an
        interruption is there once; a line that a dying program has cut is left out."""
        by_step: dict[int, Json] = {}
        for report in self._reports():
            by_step[report["step"]] = report
        return [by_step[step] for step in sorted(by_step)]

    def _reports(self) -> Iterator[Json]:
        with contextlib.suppress(FileNotFoundError), open(self.path / PROGRESS, "rb") as lines:
            for line in lines:
                with contextlib.suppress(ValueError):
                    report = json.loads(line)
                    if isinstance(report, dict) and isinstance(report.get("step"), int):
                        yield report

    def _read(self, name: str) -> Json | None:
        with contextlib.suppress(FileNotFoundError):
            return self.read(name)
        return None

    def read(self, name: str) -> Json:
        return read_object(self.path / name)

    def write(self, name: str, content: Json) -> None:
        """Write a file so that it is there complete or not at all, also after a power failure."""
        file = self.path / name
        fresh = file.with_name(f".{file.name}.{os.getpid()}")
        with open(fresh, "w", encoding="utf-8") as stream:
            json.dump(content, stream, ensure_ascii=False, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(fresh, file)

    def clear_end(self) -> None:
        (self.path / END).unlink(missing_ok=True)


def read_object(file: Path) -> Json:
    found = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{file} has no JSON object")
    return found


class JobProgram:
    """The program's side of a job, as a context.

    ::

        with JobProgram(Path(sys.argv[1])) as job:
            for step in range(start, job.config["steps"]):
                ...
                job.report(step=step + 1, steps=job.config["steps"], loss=loss)
                if job.is_stop_requested:
                    save_checkpoint(job.path)
                    return
            job.finish({"loss": loss})
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_stop_requested = False
        """The program should save a checkpoint and leave the context: SIGTERM has come."""
        self._folder = JobFolder(path)
        self.config = self._folder.describe().config
        self._result: Json | None = None

    def __enter__(self) -> "JobProgram":
        signal.signal(signal.SIGTERM, self._request_stop)
        # A line that was cut by the death of the process before must not join the next one.
        self._progress = open(self.path / PROGRESS, "ab", buffering=0)
        if self._progress.tell():
            self._progress.write(b"\n")
        return self

    def _request_stop(self, signum: int, frame: FrameType | None) -> None:
        self.is_stop_requested = True

    def report(self, *, step: int, steps: int, **figures: float | str) -> None:
        """Add a line to the progress: ``step`` of ``steps`` is done."""
        line = {"step": step, "steps": steps, "time": time.time()} | figures
        self._progress.write(json.dumps(line).encode() + b"\n")

    def finish(self, result: Json) -> None:
        """Keep the result, which is written when the context ends."""
        self._result = result

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.close()
        if error is not None and not isinstance(error, SystemExit):
            traceback.print_exception(error)
        write_end(self._folder, *self._how_it_ended(error), self._result)

    def _how_it_ended(self, error: BaseException | None) -> tuple[str, str]:
        if error is not None:
            return "failed", f"{type(error).__name__}: {error}"
        if self._result is not None:
            return "finished", ""
        if self.is_stop_requested:
            return "stopped", ""
        return "failed", "the program has ended without a result"


def write_end(folder: JobFolder, state: str, error: str, result: Json | None = None) -> None:
    line = " ".join(error.split())[:MAX_ERROR_CHARACTERS]
    end = JobEnd(cast("Any", state), line, result or {}, time.time())
    folder.write(END, dataclasses.asdict(end))


def start_program(path: Path, *, in_background: bool) -> int:
    """Start the program of a job in a process that nobody has to wait for. Return its number.

    It has a session of its own, and prints to where this process reports errors.
    """
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    if in_background:
        lower_priority()
    folder = JobFolder(path)
    command = [*folder.describe().command, str(path)]
    try:
        os.execvp(command[0], command)
    except OSError as error:
        write_end(folder, "failed", f"{command[0]!r} cannot be run: {error.strerror}")
    finally:
        os._exit(1)


def lower_priority() -> None:
    """Let this process compute when no other one wants to.

    The process has a session of its own, and with it a group in which Linux schedules fairly
    against other sessions: the priority of the group counts there, not that of the process
    (sched(7), autogroup).
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text("19", encoding="ascii")
    with contextlib.suppress(OSError):
        os.nice(19)
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


if __name__ == "__main__":
    sys.stdout.write(
        str(start_program(Path(sys.argv[1]), in_background="background" in sys.argv[2:]))
    )
