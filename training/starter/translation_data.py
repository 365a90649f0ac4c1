"""Translation examples from Tatoeba and, a little, from Microsoft's documentation.

Tatoeba pairs: CC-BY 2.0 FR, https://tatoeba.org. Documentation pairs: CC-BY 4.0, Microsoft.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from training.starter import corpus
from training.starter.groups import Group, seeded_random

from palaver_skills import prompts

FOREIGN = ("fr", "de", "es", "zh")
MAX_WORDS = 9
"""Words of the English side."""
MEASURED_WORDS = 8
"""Words of the English side of the sentences that the model is measured on."""
MAX_PER_SENTENCE = 3
"""Translations that are kept of one English sentence."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One sentence in English and in another language."""

    english: str
    foreign: str


@dataclass(frozen=True, slots=True)
class Pairs:
    """The pairs of one language, split so that no sentence of either side is in both parts."""

    train: tuple[Pair, ...]
    held_out: tuple[Pair, ...]


def simplifier() -> Callable[[str], str]:
    """Return a function that writes Chinese in simplified characters (OpenCC, Apache-2.0)."""
    from opencc import OpenCC  # type: ignore[import-not-found,unused-ignore]

    convert: Callable[[str], str] = OpenCC("t2s").convert
    return convert


@lru_cache(maxsize=8)
def read_pairs(folder: Path, language: str) -> Pairs:
    """Read, clean and split the pairs of English and `language`."""
    tatoeba = _read(folder, f"tatoeba_en-{language}", language, MAX_WORDS)
    docs = _read(folder, f"msdocs_en-{language}", language, 8)
    held_out = [pair for pair in tatoeba if corpus.is_held_out(pair.english)]
    closed = {corpus.normalize(pair.foreign) for pair in held_out}
    train = [pair for pair in tatoeba if _is_trainable(pair, closed)]
    seeded_random("documentation", language).shuffle(docs)
    train += [pair for pair in docs[: len(train) // 50] if _is_trainable(pair, closed)]
    seeded_random("pairs", language).shuffle(train)
    return Pairs(tuple(train), tuple(held_out))


def _is_trainable(pair: Pair, closed: set[str]) -> bool:
    """Return whether a pair may be trained on."""
    if corpus.is_held_out(pair.english) or corpus.normalize(pair.foreign) in closed:
        return False
    return not (corpus.resembles_example(pair.english) or corpus.resembles_example(pair.foreign))


def _read(folder: Path, name: str, language: str, longest: int) -> list[Pair]:
    convert = simplifier() if language == "zh" else str
    seen: dict[str, int] = {}
    found: dict[tuple[str, str], Pair] = {}
    for row in corpus.read_rows(folder, name):
        english = corpus.clean(row["en"])
        pair = Pair(english, convert(corpus.clean(row[language])))
        if not 0 < len(english.split()) <= longest or len(pair.foreign) > 120:
            continue
        if any(mark in english for mark in "|[]{}<>_*`#"):
            continue
        if seen.get(english, 0) < MAX_PER_SENTENCE and (english, pair.foreign) not in found:
            seen[english] = seen.get(english, 0) + 1
            found[english, pair.foreign] = pair
    return list(found.values())


def make_group(source: str, target: str, text: str, answer: str) -> Group:
    """Make one example from two language codes, a text and its translation."""
    system = prompts.build_translation_system(prompts.LANGUAGES[source], prompts.LANGUAGES[target])
    return Group("translation", system, (((text, answer),),))


def group_of_pair(language: str, *, into_english: bool, pair: Pair) -> Group:
    """Turn a pair into an example of one direction."""
    if into_english:
        return make_group(language, "en", pair.foreign, pair.english)
    return make_group("en", language, pair.english, pair.foreign)


def training_source(folder: Path, language: str, *, into_english: bool) -> Callable[[int], Group]:
    """Return the endless stream of training examples of one direction, reshuffled every epoch."""
    train = read_pairs(folder, language).train

    @lru_cache(maxsize=2)
    def order(epoch: int) -> list[int]:
        numbers = list(range(len(train)))
        seeded_random("order", language, into_english, epoch).shuffle(numbers)
        return numbers

    def at(index: int) -> Group:
        epoch, place = divmod(index, len(train))
        return group_of_pair(language, into_english=into_english, pair=train[order(epoch)[place]])

    return at


def held_out_groups(folder: Path, language: str, *, into_english: bool, count: int) -> list[Group]:
    """Return held-out examples of one direction: Tatoeba, up to eight English words."""
    held_out = [
        p for p in read_pairs(folder, language).held_out if len(p.english.split()) <= MEASURED_WORDS
    ]
    chosen: dict[str, Pair] = {}
    for pair in held_out:
        chosen.setdefault(pair.foreign if into_english else pair.english, pair)
    kept = sorted(chosen.values(), key=lambda pair: (pair.english, pair.foreign))
    seeded_random("measured", language, into_english).shuffle(kept)
    return [group_of_pair(language, into_english=into_english, pair=pair) for pair in kept[:count]]
