"""Summaries of paragraphs: the sentences that say most, shortened a little.

Paragraphs come from documentation (CC-BY 4.0, Microsoft), the 18F handbook (CC0), books (CC0) and
generated notices. The reference picks sentences by how many content words they share with
the rest of the paragraph and by their place. wiki_concise (CC-BY) adds rewritten sentences.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from training.starter import corpus, grounded
from training.starter.groups import Group, generator
from training.starter.values import Values

from palaver_skills import prompts
from palaver_skills.prompts import Length

FILES = (
    "docs_en_18f_handbook",
    "docs_en_customer_insights",
    "docs_en_dynamics365smb",
    "docs_en_project_operations",
    "standardebooks",
)
MOST = 4000
"""Paragraphs taken from one file."""
COMMON = frozenset(
    "the a an of to in and or for is are was were be been it its this that these those with on at "
    "by from as you your we our they their he she his her i my not can will may if when then so "
    "but "
    "have has had do does did which who what there here also more than into out up all any".split()
)
OPENERS = re.compile(
    r"^(However|Therefore|For example|In addition|Additionally|Also|Then|Moreover|Note that|"
    r"In this case|As a result|Thus|So|But|And|Finally|Instead|Otherwise|Still)\b,?\s+",
    re.I,
)


def sentences(text: str) -> list[str]:
    """Split a paragraph at the ends of sentences."""
    return [part.strip() for part in re.split(r"(?<=[.!?])\s+(?=[A-Z\"'])", text) if part.strip()]


def shortened(sentence: str) -> str:
    """Drop what a summary does without: opening connectives and remarks in brackets."""
    text = re.sub(r"\s*\([^()]*\)", "", OPENERS.sub("", sentence))
    return text[:1].upper() + text[1:]


def ranked(parts: list[str]) -> list[int]:
    """Order sentences by what they share with the others; early ones weigh more."""
    bags = [corpus.words(part) - COMMON for part in parts]
    counts = Counter(word for bag in bags for word in bag)
    scores = [
        sum(counts[word] - 1 for word in bag) / (len(bag) + 4) + (1.5 if place == 0 else 0.0)
        for place, bag in enumerate(bags)
    ]
    return sorted(range(len(parts)), key=lambda place: (-scores[place], place))


def summary(parts: list[str], length: Length) -> str:
    """Return the reference summary of a paragraph's sentences."""
    order = ranked(parts)
    if length == "one sentence":
        return shortened(parts[order[0]])
    chosen = [shortened(parts[place]) for place in sorted(order[:3])]
    if length == "three sentences":
        return " ".join(chosen)
    return "\n".join(f"- {sentence}" for sentence in chosen)


@lru_cache(maxsize=2)
def paragraphs(folder: Path) -> tuple[tuple[str, ...], ...]:
    """Read paragraphs of four to seven plain sentences."""
    found: list[tuple[str, ...]] = []
    for name in FILES:
        mine = [part for row in corpus.rows(folder, name) for part in _paragraphs(row["text"])]
        generator("paragraphs", name).shuffle(mine)
        found += mine[:MOST]
    return tuple(found)


def _paragraphs(text: str) -> list[tuple[str, ...]]:
    found = []
    for block in re.split(r"\n\s*\n", text):
        line = corpus.clean(re.sub(r"\s+", " ", block))
        line = re.sub(r"\*\*|__|`", "", line)
        if 150 < len(line) < 700 and not re.search(r'[|<>\[\]{}#*\\"\u2060]|https?:', line):
            parts = sentences(line)
            if 4 <= len(parts) <= 7 and all(20 < len(part) < 200 for part in parts):
                found.append(tuple(parts))
    return found


@lru_cache(maxsize=2)
def rewrites(folder: Path) -> tuple[tuple[str, str], ...]:
    """Read wordy sentences and their shortest rewriting."""
    found = []
    for row in corpus.rows(folder, "summ_wiki_concise_full"):
        first, *others = [corpus.clean(text) for text in row["cols"][:-1] if text]
        if others and len(min(others, key=len)) < len(first):
            found.append((first, min(others, key=len)))
    return tuple(found)


def notice(random_: random.Random, *, spare: bool = False) -> tuple[str, ...]:
    """Write a short notice from generated facts."""
    values = Values(random_, spare=spare)
    kind = random_.choice(("place", "person", "town", "rule", "product"))
    subject = grounded.make_subject(kind, values)
    chosen = random_.sample(grounded.kinds()[kind], random_.randint(3, 5))
    facts = [grounded.make_fact(fact, subject, values) for fact in chosen]
    text = " ".join(fact.state(random_, fact.subject) for fact in facts)
    return tuple(sentences(f"{text} {random_.choice(grounded.FILLERS)}"))


def example(
    folder: Path, random_: random.Random, length: Length, *, spare: bool
) -> tuple[str, str]:
    """Return a text and its summary."""
    if length == "one sentence" and not spare and random_.random() < 0.2:
        return random_.choice(rewrites(folder))
    while True:
        parts = (
            notice(random_, spare=spare)
            if random_.random() < 0.35
            else random_.choice(paragraphs(folder))
        )
        text = " ".join(parts)
        if (
            len(parts) >= 4
            and corpus.held_out(text) == spare
            and not corpus.resembles_example(text)
        ):
            return text, summary(list(parts), length)


def source(folder: Path) -> Callable[[int], Group]:
    """Return the endless stream of training groups."""

    def at(index: int) -> Group:
        random_ = generator("summary", index)
        length = random_.choices(prompts.LENGTHS, (5, 2, 3))[0]
        pairs = [example(folder, random_, length, spare=False) for _ in range(2)]
        return Group(
            "summary", prompts.build_summarization_system(length), tuple((pair,) for pair in pairs)
        )

    return at


def measured(folder: Path, count: int) -> list[Group]:
    """Return held-out paragraphs, the lengths in turn."""
    found = []
    for index in range(count):
        length = prompts.LENGTHS[index % len(prompts.LENGTHS)]
        pair = example(folder, generator("summary measured", index), length, spare=True)
        found.append(Group("summary", prompts.build_summarization_system(length), ((pair,),)))
    return found
