"""Flaws of a text that a small model wrote: loops, sentences said twice, the wrong language."""

import itertools
import re

from palaver import is_unspaced
from palaver_skills.language_detection import detect_language
from palaver_skills.text_splitting import split_sentences

_WORD = re.compile(r"\w+")
_LOOP = re.compile(r"([^\W\d]\S{0,11}?)\1{4,}")
"""The same characters five times in a row, from a letter on."""
_RUN, _REPEATS = 3, 3
"""Words in a row that occur several times."""
_OWN_WORDS = 0.1
"""Most of the words of a summary that its text has not."""
_CERTAIN_CHARACTERS = 24
"""Characters of the shortest text whose language is certain, if its script does not tell."""


def drop_repeats(text: str) -> str:
    """Return a text without the sentences, or beginnings of sentences, that it has already."""
    kept: list[str] = []
    said: list[str] = []
    for sentence in split_sentences(text):
        words = " ".join(_WORD.findall(sentence.casefold()))
        if not words or not any(before.startswith(words) for before in said):
            kept.append(sentence)
            said.append(words)
    return "".join(kept).strip()


def is_loop(text: str, source: str) -> bool:
    """Return True when a text repeats itself as its source does not."""
    return _repeats(text) and not _repeats(source)


def _repeats(text: str) -> bool:
    words = _WORD.findall(text.casefold())
    runs = list(zip(*(words[at:] for at in range(_RUN)), strict=False))
    return _LOOP.search(text) is not None or any(
        len(list(group)) >= _REPEATS for _, group in itertools.groupby(sorted(runs))
    )


def is_made_of(summary: str, text: str) -> bool:
    """Return True for a text that is shorter than another one, and has hardly a word of its own."""
    words, known = _WORD.findall(summary.casefold()), set(_WORD.findall(text.casefold()))
    own = sum(word not in known for word in words)
    return 0 < len(words) and len(summary) < len(text) and own <= _OWN_WORDS * len(words)


def is_in_language(text: str, code: str) -> bool:
    """Return False for a text that is surely in another language."""
    letters = [letter for letter in text if letter.isalpha()]
    unspaced = sum(map(is_unspaced, letters))
    if code == "zh":
        return not letters or 2 * unspaced >= len(letters)
    if unspaced:
        return False
    found = detect_language(text) if len(text) >= _CERTAIN_CHARACTERS else None
    return found is None or found.code == code


def count_words(text: str) -> int:
    """Return the number of words; two Chinese or Japanese characters count as one."""
    words = _WORD.findall(text)
    return sum((len(word) + 1) // 2 if is_unspaced(word[0]) else 1 for word in words)
