"""The steps of a preparation: each reads the rows of the one before and writes its own."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import msgspec
import numpy as np

from palaver.data.cleaning import Cleaner, normalize_example
from palaver.data.duplicates import Array, Groups, equal_runs, join_similar, sign
from palaver.data.kinds import Example, Spans
from palaver.data.preparation import OnRow, Preparation, StepResult
from palaver.data.reading import read_sources
from palaver.data.redaction import Redactor
from palaver.data.rows import Drops, WorkRow, encode_row, short_hash, with_example, writing
from palaver.data.splitting import split_rows
from palaver.errors import InvalidInput


def redact_rows(task: Preparation, on_row: OnRow) -> StepResult:
    """Bring the texts into one form, and replace personal data in them."""
    rules = task.recipe.redact
    redactor = Redactor(rules.kinds, rules.regions)
    drops, count, changed = Drops("redact"), 0, 0
    with writing(task.work / "redact.jsonl") as write:
        for row, example in task.rows("read"):
            before = redactor.counts.total()
            example = redact_example(normalize_example(example), redactor)
            changed += redactor.counts.total() > before
            count += 1
            try:
                example.check()
            except InvalidInput:
                drops.add("nothing is left", row, "")
                continue
            write(with_example(row, example))
            on_row(count)
    found = dict(sorted(redactor.counts.items()))
    return StepResult(
        count, count - drops.counts.total(), drops, {"redactions": found, "rows": changed}
    )


def redact_example(example: Example, redactor: Redactor) -> Example:
    """Return the example with marks in place of personal data."""
    if isinstance(example, Spans):  # a finding may reach over the limits of spans
        return example.replace(
            [(each.start, each.end, each.mark) for each in redactor.take(example.text)]
        )
    return example.edit(redactor.redact)


def clean_rows(task: Preparation, on_row: OnRow) -> StepResult:
    """Drop rows of other languages, and those that are too short, repeat themselves, …"""
    cleaner, drops, count = Cleaner(task.recipe.clean), Drops("clean"), 0
    languages: Counter[str] = Counter()
    with writing(task.work / "clean.jsonl") as write:
        for row, example in task.rows("redact"):
            count += 1
            on_row(count)
            language = cleaner.language(example)
            if reason := cleaner.reason(example, language):
                drops.add(reason, row, full_text(example))
                continue
            languages[language or "unknown"] += 1
            write(msgspec.structs.replace(row, language=language))
    figures = {"languages": dict(languages.most_common())}
    return StepResult(count, count - drops.counts.total(), drops, figures)


def full_text(example: Example) -> str:
    return "\n".join(filter(None, (example.given, example.wanted)))


def deduplicate_rows(task: Preparation, on_row: OnRow) -> StepResult:
    """Drop rows that are the same as an earlier one, or nearly the same."""
    drops = Drops("deduplicate")
    contents, labels = _hash_rows(
        task.rows("clean"), lambda example: (encode_row(example).decode(), example.distinction)
    )
    size = len(contents)
    repeated = np.zeros(size, dtype=bool)
    for run in equal_runs(contents):
        repeated[run[1:]] = True
    groups = Groups(size)
    if not task.recipe.duplicates.keep:
        given = (example.given for _, example in task.rows("clean"))
        wanted = (example.wanted for _, example in task.rows("clean"))
        signatures = [
            sign(given, size, task.work / "given.signatures"),
            sign(wanted, size, task.work / "wanted.signatures"),
        ]
        join_similar(groups, signatures, task.recipe.duplicates.similarity, apart=labels)
    with writing(task.work / "deduplicate.jsonl") as write:
        for number, (row, example) in enumerate(task.rows("clean")):
            on_row(number + 1)
            if repeated[number]:
                drops.add("the same as another row", row, full_text(example))
            elif groups.find(number) != number:
                drops.add("nearly the same as another row", row, full_text(example))
            else:
                write(row)
    return StepResult(size, size - drops.counts.total(), drops)


def _hash_rows(
    rows: Iterator[tuple[WorkRow, Example]], texts: Callable[[Example], tuple[str, ...]]
) -> tuple[Array, ...]:
    """Return an array of numbers for each of the ``texts`` of a row."""
    hashed = [tuple(int(short_hash(text), 16) for text in texts(each)) for _, each in rows]
    return tuple(np.array(column, dtype=np.uint64) for column in zip(*hashed, strict=True))


STEPS: Mapping[str, Callable[[Preparation, OnRow], StepResult]] = {
    "read": read_sources,
    "redact": redact_rows,
    "clean": clean_rows,
    "deduplicate": deduplicate_rows,
    "split": split_rows,
}
