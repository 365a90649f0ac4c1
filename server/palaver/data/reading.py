"""The first step: raw rows of all sources become rows of one kind."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from palaver.data.kinds import field_names, read_example
from palaver.data.preparation import OnRow, Preparation, StepResult
from palaver.data.recipe import SourceTable
from palaver.data.rows import Drops, WorkRow, encode_row, short_hash, writing
from palaver.data.sources import RawRow, read_file, read_sqlite
from palaver.errors import InvalidInput
from palaver.evaluation.data import fill_template, template_fields


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
