"""Measure the choice by examples, beside a TF-IDF regression and the package semantic-router.

    python -m benchmarks.routing.intents --data DIR [--task "CLINC150 10"] [--own-only]

CLINC150 has a split of its own. Of each intent of another data set, some rows are its examples and
others are tested; a hash of the text decides which, so that this is no official split. The tasks
"messages" are those of messages.jsonl with the examples of the built-in skills, here without
documents and patterns. All routers get the same texts, the descriptions of the skills too, and the
same vectors. Prints accuracy, the area under the curve by which the probability tells what is in
scope (AUROC), and seconds of the processor: until the router is ready, and the median of a message;
those of semantic-router are without vectors.
"""

import argparse
import asyncio
import hashlib
import json
import lzma
import statistics
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tests.own_plugins import load_own_plugins

from benchmarks.routing.semantic_router_baseline import Job, route_all
from palaver import Skill, echo
from palaver.embedding import Embeddings
from palaver.routing.ranking import Ranker
from palaver_plugins.embedders.universal_sentence_encoder import UniversalSentenceEncoder

SEED = 7
Choose = Callable[[str], Awaitable[tuple[str, float]]]


class Task(NamedTuple):
    """Skills with their examples, messages with the right one, and messages without one."""

    name: str
    skills: Mapping[str, type[Skill]]
    messages: list[tuple[str, str]]
    others: list[str]

    @property
    def examples(self) -> dict[str, list[str]]:
        """Return all that a router learns about each skill."""
        return {name: [*skill.examples, skill.description()] for name, skill in self.skills.items()}


class Answers(NamedTuple):
    """The answers to messages: skill and score of each, and its seconds of the processor."""

    ready: float
    choices: list[tuple[str, float]]
    seconds: list[float]


Router = Callable[[Task, Sequence[str]], Awaitable[Answers]]
Embed = Callable[[Sequence[str]], Awaitable[list[list[float]]]]


def read_task(name: str, path: Path, *, limit: int | None, held_out: float = 0.5) -> Task:
    """Hold the share ``held_out`` of each intent's rows out, by a hash of the seed and the text. Of
    the others, at most ``limit`` are examples."""
    texts: defaultdict[str, set[str]] = defaultdict(set)
    for row in _read_rows(path):
        texts[row["intent"]].add(row["text"])
    examples, messages = {}, []
    for intent, found in sorted(texts.items()):
        ordered = sorted(found, key=_hash)
        tested = int(len(ordered) * held_out)
        messages += [(text, intent) for text in ordered[:tested]]
        examples[intent] = ordered[tested:][:limit]
    return Task(name, make_skills(examples), messages, [])


def read_clinc150(data: Path, per_intent: int) -> Task:
    """Take examples from the official training rows, and test on all of the validation rows."""
    messages = [
        (row["text"], row["intent"]) for row in _read_rows(data / "eval/clinc150_val.jsonl.xz")
    ]
    others = [row["text"] for row in _read_rows(data / "eval/clinc150_oos_val.jsonl.xz")]
    tested = {text for text, _ in messages} | set(others)
    texts: defaultdict[str, set[str]] = defaultdict(set)
    for row in _read_rows(data / "train/intent_clinc150_train.jsonl.xz"):
        texts[row["intent"]].add(row["text"])
    examples = {
        intent: sorted(found - tested, key=_hash)[:per_intent]
        for intent, found in sorted(texts.items())
    }
    name = f"CLINC150 {per_intent}"
    return Task(name, make_skills(examples), messages, others)


def read_messages(part: str, name: str) -> Task:
    lines = (Path(__file__).parent / "messages.jsonl").read_text("utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["part"] == part]
    pairs = [(row["text"], row["skill"]) for row in rows]
    return Task(name, load_own_plugins().skills, pairs, [])


def _read_rows(path: Path) -> list[dict[str, Any]]:
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _hash(text: str) -> bytes:
    return hashlib.sha256(f"{SEED} {text}".encode()).digest()


def make_skills(examples: Mapping[str, Sequence[str]]) -> dict[str, type[Skill]]:
    return {
        intent: type(
            "Intent", (Skill,), {"name": intent, "examples": tuple(texts), "__doc__": intent}
        )
        for intent, texts in examples.items()
    }


async def answer_all(make: Callable[[], Choose], texts: Sequence[str]) -> Answers:
    began = time.process_time()
    choose = make()
    await choose("the first message")
    ready = time.process_time() - began
    choices, seconds = [], []
    for text in texts:
        began = time.process_time()
        choices.append(await choose(text))
        seconds.append(time.process_time() - began)
    return Answers(ready, choices, seconds)


def own_router(embed: Embed | None) -> Router:
    async def answer(task: Task, texts: Sequence[str]) -> Answers:
        def make() -> Choose:
            embeddings = Embeddings("benchmark", embed) if embed else None
            ranker = Ranker(task.skills, default="", embeddings=embeddings, timeout=600)

            async def choose(text: str) -> tuple[str, float]:
                return (await ranker.rank(text)).best

            return choose

        return await answer_all(make, texts)

    return answer


async def regression(task: Task, texts: Sequence[str]) -> Answers:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    def make() -> Choose:
        pairs = [(text, intent) for intent, found in task.examples.items() for text in found]
        model = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
            LogisticRegression(C=30, max_iter=1000),
        )
        model.fit([text for text, _ in pairs], [intent for _, intent in pairs])

        async def choose(text: str) -> tuple[str, float]:
            (chances,) = model.predict_proba([text])
            best = int(chances.argmax())
            return str(model.classes_[best]), float(chances[best])

        return choose

    return await answer_all(make, texts)


def semantic_router(embed: Embed) -> Router:
    async def answer(task: Task, texts: Sequence[str]) -> Answers:
        embeddings = Embeddings("benchmark", embed)
        every = [*texts, *(text for found in task.examples.values() for text in found)]
        vectors = dict(zip(every, await embeddings(every), strict=True))
        job = Job(examples=task.examples, messages=list(texts), vectors=vectors)
        found = await asyncio.to_thread(route_all, job)
        choices = [(name, score) for name, score, _ in found["choices"]]
        return Answers(found["ready"], choices, [seconds for *_, seconds in found["choices"]])

    return answer


async def measure(task: Task, name: str, router: Router) -> None:
    answers = await router(task, [text for text, _ in task.messages] + task.others)
    count = len(task.messages)
    right = sum(
        chosen == intent
        for (chosen, _), (_, intent) in zip(answers.choices, task.messages, strict=False)
    )
    line = f"{task.name:20} {name:20} accuracy {right / count:.3f}"
    if task.others:
        scores = [score for _, score in answers.choices]
        line += f"  AUROC {area(scores[:count], scores[count:]):.3f}"
    p50 = 1000 * statistics.median(answers.seconds)
    echo(f"{line}  CPU: {answers.ready:.1f} s, then {p50:.1f} ms  ({count} messages)")


def area(inside: Sequence[float], outside: Sequence[float]) -> float:
    """Return the chance that a message in scope has a higher score than one out of scope."""
    one, other = np.array(inside)[:, None], np.array(outside)[None, :]
    return float((one > other).mean() + (one == other).mean() / 2)


def list_tasks(data: Path) -> dict[str, Callable[[], Task]]:
    banking = data / "train/intent_banking77_train.jsonl.xz"
    return {
        **{
            f"CLINC150 {number}": lambda number=number: read_clinc150(data, number)  # type: ignore[misc]
            for number in (10, 20, 50)
        },
        **{
            f"xSID {code}": lambda code=code: read_task(  # type: ignore[misc]
                f"xSID {code}", data / f"eval/xsid_{code}.valid.jsonl.xz", limit=10
            )
            for code in ("en", "de", "zh")
        },
        "BANKING77 20": lambda: read_task("BANKING77 20", banking, limit=20, held_out=0.2),
        "BANKING77 all": lambda: read_task("BANKING77 all", banking, limit=None, held_out=0.2),
        "messages kept aside": lambda: read_messages("test", "messages kept aside"),
        "messages tuned": lambda: read_messages("tuning", "messages tuned"),
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--task", action="append", default=[], help="may be given several times")
    parser.add_argument("--own-only", action="store_true", help="without the baselines")
    options = parser.parse_args()
    encoder = UniversalSentenceEncoder()
    await encoder.start()
    await encoder.embed(["load the model"])
    routers: dict[str, Router] = {
        "TF-IDF regression": regression,
        "semantic-router": semantic_router(encoder.embed),
        "words": own_router(None),
        "words and vectors": own_router(encoder.embed),
    }
    if options.own_only:
        del routers["TF-IDF regression"], routers["semantic-router"]
    tasks = list_tasks(options.data)
    for chosen in options.task or tasks:
        task = await asyncio.to_thread(tasks[chosen])
        for name, router in routers.items():
            await measure(task, name, router)
    await encoder.close()


if __name__ == "__main__":
    asyncio.run(main())
