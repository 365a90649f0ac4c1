"""Measure the choice among many intents, beside a TF-IDF regression of scikit-learn.

    python -m benchmarks.routing.intents --data DIR [--examples 10]

Half of CLINC150's validation rows of each intent are its examples, as many as given; the other half
is tested, with 100 messages out of scope. For xSID in three languages likewise. Prints accuracy,
the area under the curve by which the probability tells what is in scope (AUROC), the seconds until
the router is ready, and the median time of a message.
"""

import argparse
import asyncio
import itertools
import json
import lzma
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from palaver import Skill, echo
from palaver.embedding import Embeddings
from palaver.routing.ranking import Ranker
from palaver_plugins.embedders.universal_sentence_encoder import UniversalSentenceEncoder

SEED = 7
Choose = Callable[[str], Awaitable[tuple[str, float]]]


class Task(NamedTuple):
    """Examples by intent, messages with their intents, and messages without one."""

    name: str
    examples: dict[str, list[str]]
    messages: list[tuple[str, str]]
    others: list[str]


def read_task(name: str, path: Path, others: Path | None, limit: int) -> Task:
    texts: defaultdict[str, list[str]] = defaultdict(list)
    rows = list(_read_rows(path))
    random.Random(SEED).shuffle(rows)
    for row in rows:
        texts[row["intent"]].append(row["text"])
    halves = {intent: (len(found) + 1) // 2 for intent, found in sorted(texts.items())}
    return Task(
        name,
        {intent: texts[intent][: min(limit, half)] for intent, half in halves.items()},
        [(text, intent) for intent, half in halves.items() for text in texts[intent][half:]],
        [row["text"] for row in _read_rows(others)] if others else [],
    )


def _read_rows(path: Path) -> list[dict[str, Any]]:
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def make_router(task: Task, embeddings: Embeddings | None) -> Choose:
    skills = {
        intent: type(
            "Intent", (Skill,), {"name": intent, "examples": tuple(examples), "__doc__": intent}
        )
        for intent, examples in task.examples.items()
    }
    ranker = Ranker(skills, default="", embeddings=embeddings)

    async def choose(text: str) -> tuple[str, float]:
        return (await ranker.rank(text)).best

    return choose


def make_regression(task: Task) -> Choose:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

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


async def measure(task: Task, name: str, make: Callable[[], Choose]) -> None:
    began = time.perf_counter()
    choose = make()
    await choose("the first message")
    ready = time.perf_counter() - began
    times: list[float] = []
    scores: list[float] = []
    right = 0
    for text, intent in task.messages:
        began = time.perf_counter()
        chosen, score = await choose(text)
        times.append(time.perf_counter() - began)
        right += chosen == intent
        scores.append(score)
    line = f"{task.name:8} {name:20} accuracy {right / len(task.messages):.3f}"
    if task.others:
        others = [(await choose(text))[1] for text in task.others]
        line += f"  AUROC {area(scores, others):.3f}"
    p50 = 1000 * statistics.median(times)
    echo(f"{line}  ready after {ready:.1f} s  p50 {p50:.1f} ms  ({len(task.examples)} intents)")


def area(inside: Sequence[float], outside: Sequence[float]) -> float:
    """Return the chance that a message in scope has a higher score than one out of scope."""
    one, other = np.array(inside)[:, None], np.array(outside)[None, :]
    return float((one > other).mean() + (one == other).mean() / 2)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--examples", type=int, default=10)
    options = parser.parse_args()
    folder: Path = options.data / "eval"
    tasks = [
        read_task(
            "CLINC150",
            folder / "clinc150_val.jsonl.xz",
            folder / "clinc150_oos_val.jsonl.xz",
            options.examples,
        ),
        *(
            read_task(
                f"xSID {code}", folder / f"xsid_{code}.valid.jsonl.xz", None, options.examples
            )
            for code in ("en", "de", "zh")
        ),
    ]
    encoder = UniversalSentenceEncoder()
    embeddings = Embeddings((await encoder.start()).model, encoder.embed)
    await embeddings(["load the model"])
    routers: list[tuple[str, Callable[[Task], Choose]]] = [
        ("TF-IDF regression", make_regression),
        ("words", lambda task: make_router(task, None)),
        ("words and vectors", lambda task: make_router(task, embeddings)),
    ]
    for task, (name, make) in itertools.product(tasks, routers):
        await measure(task, name, lambda task=task, make=make: make(task))  # type: ignore[misc]
    await encoder.close()


if __name__ == "__main__":
    asyncio.run(main())
