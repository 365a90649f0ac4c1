"""Texts of suites of ``palaver evaluate``, which no row for training may be like."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from palaver.data.preparation import SUITES_FILE
from palaver.data.rows import writing
from palaver.evaluation.data import Reader, fill_template
from palaver.evaluation.suites import load_suite


def suite_texts(path: Path) -> Iterator[str]:
    """Yield the messages of a suite, whose data is beside it. Raises `InvalidInput`."""
    suite = load_suite(path)
    for row in Reader(path.parent, lambda paths: ()).rows(suite.rows):
        yield str(fill_template(suite.rows.text, row))


def write_suite_texts(suites: Iterable[Path], folder: Path) -> None:
    with writing(folder / SUITES_FILE) as write:
        for path in suites:
            for text in suite_texts(path):
                write({"text": text})
