"""The last step: rows that belong together go into one part."""

import array
import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from palaver.data.duplicates import Groups, equal_runs, join_similar, sign
from palaver.data.kinds import Example
from palaver.data.preparation import PARTS, SUITES_FILE, OnRow, Preparation, StepResult
from palaver.data.rows import Drops, WorkRow, encode_row, short_hash, writing
from palaver.data.sources import read_file
from palaver.evaluation.leaks import normal_form
from palaver.jobs.folder import Json

MARGIN = 0.07
"""Two standard deviations of an estimated similarity of 0.8: a split joins rather too many rows."""


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
    join_similar(groups, [signatures], task.recipe.duplicates.similarity - MARGIN)
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
