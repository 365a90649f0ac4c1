"""Readers of the public data: cleaning, held-out splits, questions excluded from training."""

from __future__ import annotations

import json
import lzma
import os
import re
import tomllib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from training.starter.groups import hash_fraction

HELD_OUT_SHARE = 0.012
"""Share of every source that is kept for measuring."""

EXAMPLES = Path(__file__).with_name("examples.toml")
FIRST_MINUTE = Path(__file__).parents[2] / "benchmarks" / "first_minute"
FIRST_QUESTIONS = ("questions.jsonl", "held_out.jsonl")
EXAMPLE_OVERLAP = 0.85
"""Share of common words above which a training text is a copy of an example question."""

_SPACES = re.compile(r"[\u00a0\u202f\u2009\ufeff\u3000]")
_QUOTES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "…": "..."})


def default_data_folder() -> Path:
    """Return the default data folder: `PALAVER_TRAINING_DATA` or `data/train`."""
    return Path(os.environ.get("PALAVER_TRAINING_DATA", "data/train"))


def read_rows(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of `<name>.jsonl.xz`."""
    path = folder / f"{name}.jsonl.xz"
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def clean(text: str) -> str:
    """Unify spaces and typographic quotes."""
    return _SPACES.sub(" ", text).translate(_QUOTES).strip()


def word_set(text: str) -> frozenset[str]:
    """Return the lower-case words (and single Chinese characters) of a text."""
    return frozenset(re.findall(r"[\u4e00-\u9fff]|[^\W_]+", text.lower()))


def normalize(text: str) -> str:
    """Reduce a text to its lower-case words, to match other spellings."""
    return " ".join(re.findall(r"[\u4e00-\u9fff]|[^\W_]+", text.lower()))


def is_held_out(text: str) -> bool:
    """Return whether a text belongs to the measuring split."""
    return hash_fraction(normalize(text)) < HELD_OUT_SHARE


@lru_cache(maxsize=1)
def read_examples() -> dict[str, Any]:
    """Read the example questions that documentation shows; none of them is trained on."""
    return tomllib.loads(EXAMPLES.read_text(encoding="utf-8"))


@lru_cache(maxsize=1)
def _example_words() -> tuple[frozenset[str], ...]:
    return tuple(word_set(text) for text in example_texts())


def example_texts() -> list[str]:
    """Return every text of the examples: requests and the texts that they are about; and the
    questions of the first minute."""
    return [*_strings(read_examples()), *_first_questions()]


def _first_questions() -> Iterator[str]:
    for name in FIRST_QUESTIONS:
        for line in (FIRST_MINUTE / name).read_text("utf-8").splitlines():
            yield json.loads(line)["text"]


def _strings(value: object) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in {"source", "target", "length", "language", "document", "expect"}:
                yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def resembles_example(text: str) -> bool:
    """Return whether a text is an example question or nearly one."""
    mine = word_set(text)
    return any(
        len(mine & other) >= EXAMPLE_OVERLAP * len(mine | other)
        for other in _example_words()
        if other
    )
