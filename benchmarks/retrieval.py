"""Measure how often the knowledge base finds the passage with the answer.

    python benchmarks/retrieval.py --data DIR

Two tasks, each in its own knowledge base: SQuAD 2.0 (find the paragraph with the answer) and
MedQuAD (find the article with the answer; most articles have near duplicates about the same
disease). Prints recall@1, recall@5 and the time per question.
"""

import argparse
import asyncio
import json
import lzma
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from palaver import Document, echo
from palaver_plugins.knowledge.sqlite import SqliteKnowledge

TENANT = "benchmark"


class Task(NamedTuple):
    """Documents, and questions with the ids of the documents that answer them."""

    name: str
    documents: list[Document]
    questions: list[tuple[str, set[str]]]


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def squad_task(data: Path) -> Task:
    ids: dict[str, str] = {}
    documents, questions = [], []
    for row in read_rows(data / "eval/squad_v2_dev_1500.jsonl.xz"):
        context = row["context"]
        if context not in ids:
            ids[context] = f"{row['title']}/{len(ids)}"
            documents.append(Document(id=ids[context], title=row["title"], text=context))
        if not row["impossible"]:
            questions.append((row["question"], {ids[context]}))
    return Task("SQuAD 2.0", documents, questions)


def medquad_task(data: Path) -> Task:
    documents, questions = [], []
    answers: dict[tuple[str, str], set[str]] = {}
    for number, row in enumerate(read_rows(data / "eval/medquad_700.jsonl.xz")):
        document = Document(id=str(number), title=row["focus"], text=row["answer"])
        documents.append(document)
        same = answers.setdefault((row["focus"], row["qtype"]), set())
        same.add(document.id)
        questions.append((row["question"], same))
    return Task("MedQuAD", documents, questions)


async def measure_task(task: Task, folder: Path) -> str:
    knowledge = SqliteKnowledge(folder / f"{task.name}.sqlite")
    await knowledge.start()
    passages = await knowledge.add(TENANT, task.documents)
    first = fifth = 0
    began = time.perf_counter()
    for question, right in task.questions:
        found = [p.document for p in await knowledge.search(TENANT, question, 5)]
        first += found[:1] != [] and found[0] in right
        fifth += bool(right & set(found))
    took = (time.perf_counter() - began) / len(task.questions)
    await knowledge.close()
    count = len(task.questions)
    return (
        f"{task.name:10} {len(task.documents):5} documents {passages:6} passages"
        f" {count:5} questions  recall@1 {first / count:.3f}  recall@5 {fifth / count:.3f}"
        f"  {1000 * took:.1f} ms per question"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    for task in (squad_task(options.data), medquad_task(options.data)):
        with tempfile.TemporaryDirectory() as folder:
            echo(asyncio.run(measure_task(task, Path(folder))), keep_lines=True)


if __name__ == "__main__":
    main()
