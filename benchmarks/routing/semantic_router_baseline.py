"""Route messages by the package semantic-router, in an environment of its own.

It needs other versions of packages than the server, so it runs as a process that gets the examples,
the messages and their vectors as JSON, and answers with JSON. `requirements/semantic-router.lock`
pins the environment, which the first call makes: `.venv-semantic-router`.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".venv-semantic-router"
LOCK = ROOT / "requirements" / "semantic-router.lock"


class Job(TypedDict):
    """Examples by their skill, messages to route, and the vectors of both by text."""

    examples: dict[str, list[str]]
    messages: list[str]
    vectors: dict[str, list[float]]


class Answers(TypedDict):
    """Seconds of the processor until the router was ready; skill, confidence and seconds of each
    message."""

    ready: float
    choices: list[tuple[str, float, float]]


def route_all(job: Job) -> Answers:
    """Route messages in the environment of the package."""
    python = _make_environment()
    done = subprocess.run(
        [python, Path(__file__)],
        input=json.dumps(job),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    answers: Answers = json.loads(done.stdout)
    return answers


def _make_environment() -> Path:
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        uv = Path(sys.executable).with_name("uv")
        subprocess.run([uv, "venv", "--quiet", "-p", sys.executable, ENVIRONMENT], check=True)
        install = (uv, "pip", "install", "--quiet", "-p", python, "--no-deps", "--require-hashes")
        subprocess.run([*install, "-r", LOCK], check=True)
    return python


def answer(job: Job) -> Answers:
    """Route messages with the package, as it comes: the mean of the best five similarities."""
    from semantic_router import IndexedRouter, Route
    from semantic_router.encoders import DenseEncoder

    vectors = job["vectors"]

    class Given(DenseEncoder):  # type: ignore[misc]
        """Encoder with the vectors of the server's embedder."""

        name: str = "given"

        def __call__(self, docs: Sequence[Any]) -> list[list[float]]:  # Any: as in the base class
            return [vectors[text] for text in docs]

    began = time.process_time()
    routes = [Route(name=name, utterances=texts) for name, texts in job["examples"].items()]
    router = IndexedRouter(encoder=Given(), routes=routes)
    ready = time.process_time() - began
    choices = []
    for text in job["messages"]:
        began = time.process_time()
        choice = router(text)
        choices.append((choice.name, choice.confidence, time.process_time() - began))
    return Answers(ready=ready, choices=choices)


if __name__ == "__main__":
    json.dump(answer(json.load(sys.stdin)), sys.stdout)
