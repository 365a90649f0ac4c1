"""Steps of a preparation: each reads the rows of the one before and writes its own."""

import array
import contextlib
import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from palaver.data.cleaning import Cleaner, normalize_example
from palaver.data.duplicates import (
    Array,
    Groups,
    equal_runs,
    join_similar,
    sign,
)
from palaver.data.kinds import Example, Spans, field_names, read_example
from palaver.data.recipe import Recipe, SourceTable
from palaver.data.redaction import Redactor
from palaver.data.rows import (
    Drops,
    RowReader,
    WorkRow,
    encode_row,
    short_hash,
    with_example,
    writing,
)
from palaver.data.sources import RawRow, read_file, read_sqlite
from palaver.errors import InvalidInput
from palaver.evaluation.data import fill_template, template_fields
from palaver.evaluation.leaks import normal_form
from palaver.jobs.folder import Json
from palaver.jobs.people import PeopleNames

PARTS = ("train", "validation", "test")
SUITES_FILE = ".suites.jsonl"
"""Texts of the suites that no row may be like, among the snapshots."""
OnRow = Callable[[int], None]
"""Called with the number of rows that a step has done."""


@dataclasses.dataclass(frozen=True, slots=True)
class Preparation:
    """What the steps need: the recipe, the files that it names by their names, snapshots of the
    ledger and the knowledge base, a directory for the rows, and the people's names."""

    recipe: Recipe
    files: Mapping[str, Path]
    snapshots: Path
    work: Path
    outputs: Path
    names: PeopleNames

    def rows(self, step: str) -> Iterator[tuple[WorkRow, Example]]:
        return RowReader(self.recipe.kind).read(self.work / f"{step}.jsonl")


@dataclasses.dataclass(frozen=True, slots=True)
class StepResult:
    """How many rows a step had and left, which it has dropped, and what else it has counted."""

    rows_in: int
    rows_out: int
    drops: Drops
    figures: Json = dataclasses.field(default_factory=dict)


# 1. Read


def read_sources(task: Preparation, on_row: OnRow) -> StepResult:
    """Read the raw rows of all sources as rows of the kind."""
    drops, rows_in, rows_out = Drops("read"), 0, 0
    by_source: Counter[str] = Counter()
    with writing(task.work / "read.jsonl") as write:
        for source in task.recipe.sources:
            for raw in _raw_rows(task, source):
                rows_in += 1
                on_row(rows_in)
                try:
                    write(_read_row(task, source, raw))
                except InvalidInput as error:
                    drops.add(_first_words(error), WorkRow(source=source.name, example=_NONE), "")
                    continue
                rows_out += 1
                by_source[source.name] += 1
    if not rows_out:
        why = next(iter(drops.counts), "the sources have no rows")
        raise InvalidInput(f"no row of {rows_in} can be used: {why}")
    return StepResult(rows_in, rows_out, drops, {"sources": dict(by_source)})


_NONE = msgspec.Raw(b"null")


def _first_words(error: InvalidInput) -> str:
    """Return the reason without the values of a row, which differ from row to row."""
    return str(error).partition("- at `")[0].strip(" :")[:120]


def _raw_rows(task: Preparation, source: SourceTable) -> Iterator[RawRow]:
    for raw in _all_raw_rows(task, source):
        if all(raw.get(field) == value for field, value in source.where.items()):
            yield raw


def _all_raw_rows(task: Preparation, source: SourceTable) -> Iterator[RawRow]:
    match source.origin:
        case "files":
            for name in source.files:
                yield from read_file(task.files[name])
        case "sql":
            yield from read_sqlite(task.files[source.sql], source.query)
        case _:
            yield from read_file(task.snapshots / f"{source.name}.jsonl")


DEFAULT_TEMPLATES: Mapping[str, Mapping[str, str]] = {
    "chat": {"messages": "{messages}"},
    "instruction": {"instruction": "{message}", "output": "{reply}"},
    "preference": {"prompt": "{prompt}", "chosen": "{chosen}", "rejected": "{rejected}"},
    "classification": {"text": "{message}", "label": "{skill}"},
    "retrieval": {"query": "{message}", "positives": "{passages}"},
}
"""What rows of the ledger become, by kind."""


def _read_row(task: Preparation, source: SourceTable, raw: RawRow) -> WorkRow:
    kind = task.recipe.kind
    templates = source.row
    if not templates and source.ledger:
        templates = dict(DEFAULT_TEMPLATES.get(kind, {}))
    if templates:
        fields = {name: _fill(template, raw) for name, template in templates.items()}
    else:
        fields = {name: raw[name] for name in field_names(kind) if name in raw}
    example = read_example(kind, fields)
    people = tuple(raw.get("people", ())) if source.ledger else ()
    if source.person and (person := _fill(source.person, raw)) is not None:
        people = (task.names.person(source.tenant, str(person)),)
    conversation = str(raw.get("conversation", "")) if source.ledger else ""
    groups = []
    if source.group and (group := _fill(source.group, raw)) is not None:
        groups.append(short_hash(source.name, str(group)))
    if conversation:
        groups.append(conversation)
    if task.recipe.split.by_person:
        groups += people
    return WorkRow(
        source=source.name,
        example=msgspec.Raw(encode_row(example)),
        groups=tuple(groups),
        people=people,
        conversation=conversation,
        at=float(raw.get("at", 0.0)) if source.ledger else 0.0,
    )


def _fill(template: str, raw: RawRow) -> Any:  # Any: a JSON value
    for name in template_fields(template):
        is_whole = template == f"{{{name}}}"  # its value may be null
        if name not in raw or (raw[name] is None and not is_whole):
            raise InvalidInput(f"the raw row has no field {name!r}")
    return fill_template(template, raw)


# 2. Redact


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


# 3. Clean


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


# 4. Deduplicate


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


# 5. Split


def split_rows(task: Preparation, on_row: OnRow) -> StepResult:
    """Write the parts: rows that belong together, or are nearly the same, are in one of them."""
    rules, suites = task.recipe.split, list(_suite_texts(task))
    tests = {normal_form(text) for text in suites}
    links = _read_links(task)
    similar = _find_similar(task, links.size, suites)
    groups = _join_rows(links, similar)
    leaders = _find_leaders(groups, links.times)
    held_out = {similar.find(links.size + number) for number in range(len(suites))}
    drops, counts = Drops("split"), dict.fromkeys(PARTS, 0)
    used: dict[str, set[int]] = {part: set() for part in PARTS}
    task.outputs.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        write = {
            part: stack.enter_context(writing(task.outputs / f"{part}.jsonl")) for part in PARTS
        }
        for number, (row, example) in enumerate(task.rows("deduplicate")):
            on_row(number + 1)
            forms = map(normal_form, example.questions)
            if similar.find(number) in held_out or not tests.isdisjoint(forms):
                drops.add("in a suite", row, example.given)
                continue
            root = groups.find(number)
            name = f"{links.names[leaders[root]]:016x}"
            part = choose_part(name, rules.seed, rules.validation, rules.test)
            write[part](_output(row, example, name))
            counts[part] += 1
            used[part].add(root)
    figures = {"parts": counts, "groups": {part: len(found) for part, found in used.items()}}
    return StepResult(links.size, sum(counts.values()), drops, figures)


def _suite_texts(task: Preparation) -> Iterator[str]:
    file = task.snapshots / SUITES_FILE
    if file.exists():
        yield from (str(raw["text"]) for raw in read_file(file))


@dataclasses.dataclass(frozen=True, slots=True)
class Links:
    """What joins rows: pairs of a ``keys`` and one of the ``rows`` that has it. ``names``: the key
    by which each row's group is named, if it is the oldest one in it; ``times``: when it was said.
    """

    keys: "array.array[int]"
    rows: "array.array[int]"
    names: "array.array[int]"
    times: "array.array[float]"

    @property
    def size(self) -> int:
        return len(self.names)


def _read_links(task: Preparation) -> Links:
    links = Links(array.array("Q"), array.array("Q"), array.array("Q"), array.array("d"))
    for number, (row, example) in enumerate(task.rows("deduplicate")):
        form = short_hash(normal_form(example.given))
        keys = [int(each[:16], 16) for each in (*row.groups, form)]
        links.keys.extend(keys)
        links.rows.extend([number] * len(keys))
        links.names.append(keys[0])
        links.times.append(row.at)
    return links


def _find_similar(task: Preparation, size: int, suites: list[str]) -> Groups:
    """Return the groups of the rows with similar questions; texts of suites follow the rows."""
    texts = (example.given for _, example in task.rows("deduplicate"))
    total = size + len(suites)
    signatures = sign(itertools.chain(texts, suites), total, task.work / "given.signatures")
    groups = Groups(total)
    join_similar(groups, [signatures], task.recipe.duplicates.similarity)
    return groups


def _join_rows(links: Links, similar: Groups) -> Groups:
    groups = Groups(links.size)
    rows = np.frombuffer(links.rows, dtype=np.uint64) if links.size else np.zeros(0, np.uint64)
    keys = np.frombuffer(links.keys, dtype=np.uint64) if links.size else rows
    for run in equal_runs(keys):
        first, *others = rows[run].tolist()
        for other in others:
            groups.join(first, other)
    for number in range(links.size):
        groups.join(number, similar.find(number))  # the first of a group is never of a suite
    return groups


def _find_leaders(groups: Groups, times: Sequence[float]) -> dict[int, int]:
    """Return the oldest row of each group, which names it: rows that come later do not."""
    leaders: dict[int, int] = {}
    for number, at in enumerate(times):
        root = groups.find(number)
        if at < times[leaders.setdefault(root, number)]:
            leaders[root] = number
    return leaders


def choose_part(name: str, seed: int, validation: float, test: float) -> str:
    """Return the part of a group, which depends on its name and the seed alone."""
    place = int(short_hash(str(seed), name), 16) / 2**64
    if place < test:
        return "test"
    return "validation" if place < test + validation else "train"


def _output(row: WorkRow, example: Example, name: str) -> Json:
    about = {
        "id": short_hash(row.source, encode_row(example).decode()),
        "source": row.source,
        "language": row.language,
        "group": short_hash(name),
        "people": list(row.people),
        "conversation": row.conversation,
    }
    fields: Json = msgspec.to_builtins(example)
    return fields | {key: value for key, value in about.items() if value}


STEPS: Mapping[str, Callable[[Preparation, OnRow], StepResult]] = {
    "read": read_sources,
    "redact": redact_rows,
    "clean": clean_rows,
    "deduplicate": deduplicate_rows,
    "split": split_rows,
}
