"""Checks of prepared data: files as they were written, valid rows, no leaks."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from palaver.data.kinds import TYPES, Example
from palaver.data.preparation import PARTS
from palaver.data.profile import read_outputs
from palaver.data.suite_texts import suite_texts
from palaver.errors import InvalidInput
from palaver.evaluation.leaks import normal_form
from palaver.jobs.folder import Json, read_object
from palaver.jobs.people import MANIFEST, describe_rows

SHOWN = 5


def check_data(folder: Path, suites: Iterable[Path]) -> list[str]:
    """Return a sentence for each problem."""
    manifest = read_object(folder / MANIFEST)
    problems = [*_check_files(folder, manifest), *_check_rows(folder, manifest)]
    if problems:
        return problems
    given: dict[str, set[str]] = {part: set() for part in PARTS}
    questions: dict[str, set[str]] = {part: set() for part in PARTS}
    for part, _, example in read_outputs(folder, manifest):
        given[part].add(normal_form(example.given))
        questions[part].update(map(normal_form, example.questions))
    problems += _check_parts(given)
    for path in suites:
        tests = {normal_form(text) for text in suite_texts(path)}
        for part in PARTS:
            problems += _describe_leaks(f"suite {path.name}", part, tests & questions[part])
    return problems


def _check_files(folder: Path, manifest: Json) -> Iterator[str]:
    for name, expected in manifest["outputs"].items():
        if not (folder / name).is_file():
            yield f"{name} is missing"
        elif describe_rows(folder / name) != expected:
            yield f"{name} is not as it was written"


def _check_rows(folder: Path, manifest: Json) -> Iterator[str]:
    kind = TYPES[manifest["kind"]]
    for name in manifest["outputs"]:
        if not (folder / name).is_file():
            continue
        with open(folder / name, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if problem := _find_problem(line, kind):
                    yield f"{name}, line {number}: {problem}"


def _find_problem(line: bytes, kind: type[Example]) -> str:
    try:
        msgspec.convert(json.loads(line), kind).check()
    except (ValueError, InvalidInput) as error:
        return str(error)
    return ""


def _check_parts(parts: dict[str, set[str]]) -> Iterator[str]:
    for number, one in enumerate(PARTS):
        for other in PARTS[number + 1 :]:
            yield from _describe_leaks(one, other, parts[one] & parts[other])


def _describe_leaks(one: str, other: str, leaks: set[str]) -> Iterator[str]:
    if leaks:
        shown = ", ".join(repr(text[:60]) for text in sorted(leaks)[:SHOWN])
        yield f"{len(leaks)} texts of {one} are in {other}, or nearly the same: {shown}"
