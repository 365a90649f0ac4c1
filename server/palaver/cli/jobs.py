"""``palaver jobs``: list, show, pause, resume, stop and remove jobs."""

import functools
import sys
import time
from collections.abc import Callable

import click

from palaver.cli.console import (
    EXIT_INTERRUPTED,
    Console,
    echo,
    echo_over,
    echo_row,
    format_time,
    print_json,
)
from palaver.cli.download_progress import format_bytes
from palaver.errors import PalaverError
from palaver.jobs.folder import LOG, JobFolder, Json
from palaver.jobs.store import JOBS_DIRECTORY, JobStore

FOLLOW_SECONDS = 0.5
"""Seconds between two looks at the progress of a job."""
LOG_LINES = 50
BAR_WIDTH = 30

name_argument = click.argument("name")


def job_store(console: Console) -> JobStore:
    """Return the jobs of the data directory of the settings."""
    chosen = console.settings.jobs
    return JobStore(
        console.settings.server.data / JOBS_DIRECTORY,
        max_running=chosen.max_running,
        in_background=chosen.background,
        keep_days=chosen.keep_days,
    )


@click.group()
def jobs() -> None:
    """List, watch, pause, resume, stop and remove long work.

    A job goes on when the terminal is closed. After a crash it is resumed from its last
    checkpoint.
    """


@jobs.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_jobs(console: Console, as_json: bool) -> None:
    """List the jobs, the oldest first."""
    found = job_store(console).jobs()
    if as_json:
        print_json([_to_json(job) for job in found])
        return
    for job in found:
        echo(f"{job.name:<32} {job.state():<12} {_describe_progress(job)}")


def _to_json(job: JobFolder) -> Json:
    end = job.end()
    return {
        "name": job.name,
        "kind": job.describe().kind,
        "state": job.state(),
        "progress": next(reversed(job.progress()), None),
        "error": end.error if end else "",
        "result": end.result if end else {},
    }


def _describe_progress(job: JobFolder) -> str:
    reports = job.progress()
    return describe_report(reports[-1]) if reports else ""


def describe_report(report: Json) -> str:
    """Return a line with a bar, the step, and the figures of a report."""
    steps = max(1, int(report.get("steps") or 1))
    done = min(int(report["step"]), steps)
    bar = "#" * (BAR_WIDTH * done // steps)
    figures = [
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in report.items()
        if key not in ("step", "steps", "time")
    ]
    return "  ".join([f"[{bar:<{BAR_WIDTH}}] {done}/{steps}", *figures])


@jobs.command()
@name_argument
@click.option("--follow", is_flag=True, help="Show the progress until the job ends.")
@click.pass_obj
def show(console: Console, name: str, follow: bool) -> None:
    """Show what a job does, how far it is, and its result.

    With --follow, the command fails when the job does.
    """
    job = job_store(console).find(name)
    if follow:
        follow_job(job)
        return
    description, end = job.describe(), job.end()
    rows = {
        "name": job.name,
        "kind": description.kind,
        "state": job.state(),
        "created": format_time(description.created),
        "folder": str(job.path),
        "progress": _describe_progress(job),
        "needs": _describe_needs(description.disk_bytes, description.memory_bytes),
        "error": end.error if end else "",
        **{f"input {path}": sha256 for path, sha256 in description.inputs.items()},
        **{f"result {key}": str(value) for key, value in (end.result if end else {}).items()},
    }
    for key, value in rows.items():
        if value:
            echo_row(key, value)


def _describe_needs(disk_bytes: int, memory_bytes: int) -> str:
    needs = {"disk space": disk_bytes, "memory": memory_bytes}
    return ", ".join(f"{format_bytes(size)} of {what}" for what, size in needs.items() if size)


def follow_job(job: JobFolder, *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Show the progress of a job until it does not run any more, on a terminal in one line.

    Ctrl-C ends the watching alone. Raises `PalaverError` when the job has failed or was
    interrupted.
    """
    is_terminal = sys.stderr.isatty()
    show = echo_over if is_terminal else functools.partial(echo, err=True)
    shown = ""
    try:
        while job.state() in ("running", "paused"):
            if (line := _describe_progress(job)) != shown:
                show(shown := line)
            sleep(FOLLOW_SECONDS)
    except KeyboardInterrupt:
        echo(
            f"\nJob {job.name!r} goes on. Watch it with: palaver jobs show --follow {job.name}",
            keep_lines=True,
            err=True,
        )
        sys.exit(EXIT_INTERRUPTED)
    if (line := _describe_progress(job)) != shown:
        show(line)
    if is_terminal:
        echo(err=True)
    report_end(job)


def report_end(job: JobFolder) -> None:
    """Print how a job has ended. Raises `PalaverError` when it has failed or was interrupted."""
    end = job.end()
    match job.state():
        case "failed" if end:
            raise PalaverError(f"job {job.name!r} has failed: {end.error}. See {job.path / LOG}")
        case "interrupted":
            raise PalaverError(
                f"job {job.name!r} was interrupted. Go on with: palaver jobs resume {job.name}"
            )
        case state:
            echo(f"Job {job.name!r} is {state}.")


@jobs.command()
@name_argument
@click.option("--lines", default=LOG_LINES, show_default=True, type=click.IntRange(min=1))
@click.pass_obj
def log(console: Console, name: str, lines: int) -> None:
    """Print the last lines of what a job has printed."""
    file = job_store(console).find(name).path / LOG
    text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
    for line in text.splitlines()[-lines:]:
        echo(f"  {line}")  # so that none of them looks like a line of this command


@jobs.command()
@name_argument
@click.pass_obj
def pause(console: Console, name: str) -> None:
    """Halt a job. It keeps its memory, and goes on with 'resume'."""
    store = job_store(console)
    store.pause(store.find(name))
    echo(f"Job {name!r} is paused. Let it go on with: palaver jobs resume {name}")


@jobs.command()
@name_argument
@click.pass_obj
def resume(console: Console, name: str) -> None:
    """Let a paused job go on, or start one again from its last checkpoint."""
    store = job_store(console)
    store.resume(store.find(name))
    echo(f"Job {name!r} runs. Watch it with: palaver jobs show --follow {name}")


@jobs.command()
@name_argument
@click.option("--now", is_flag=True, help="Do not wait for a checkpoint.")
@click.pass_obj
def stop(console: Console, name: str, now: bool) -> None:
    """Ask a job to save a checkpoint and to end."""
    store = job_store(console)
    job = store.find(name)
    if now:
        store.kill(job)
    else:
        store.stop(job)
    echo(f"Job {name!r} ends. Start it again with: palaver jobs resume {name}")


@jobs.command()
@name_argument
@click.pass_obj
def remove(console: Console, name: str) -> None:
    """Delete the folder of a job, with its checkpoints and its result."""
    store = job_store(console)
    store.remove(store.find(name))
    echo(f"Removed job {name!r}.")
