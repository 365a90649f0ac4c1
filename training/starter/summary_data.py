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

from training.starter import corpus, grounded_data
from training.starter.groups import Group, seeded_random
from training.starter.slot_values import SlotValues

from palaver_skills import prompts
from palaver_skills.prompts import Length

FILES = (
    "docs_en_18f_handbook",
    "docs_en_customer_insights",
    "docs_en_dynamics365smb",
    "docs_en_project_operations",
    "standardebooks",
)
MAX_PARAGRAPHS = 4000
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


def split_sentences(text: str) -> list[str]:
    """Split a paragraph at the ends of sentences."""
    return [part.strip() for part in re.split(r"(?<=[.!?])\s+(?=[A-Z\"'])", text) if part.strip()]


def shorten(sentence: str) -> str:
    """Remove opening connectives and remarks in brackets."""
    text = re.sub(r"\s*\([^()]*\)", "", OPENERS.sub("", sentence))
    return text[:1].upper() + text[1:]


def rank_sentences(parts: list[str]) -> list[int]:
    """Rank sentences by the words shared with the others; the first one gets a bonus."""
    bags = [corpus.word_set(part) - COMMON for part in parts]
    counts = Counter(word for bag in bags for word in bag)
    scores = [
        sum(counts[word] - 1 for word in bag) / (len(bag) + 4) + (1.5 if place == 0 else 0.0)
        for place, bag in enumerate(bags)
    ]
    return sorted(range(len(parts)), key=lambda place: (-scores[place], place))


def summarize(parts: list[str], length: Length) -> str:
    """Return the reference summary of a paragraph's sentences."""
    order = rank_sentences(parts)
    if length == "one sentence":
        return shorten(parts[order[0]])
    chosen = [shorten(parts[place]) for place in sorted(order[:3])]
    if length == "three sentences":
        return " ".join(chosen)
    return "\n".join(f"- {sentence}" for sentence in chosen)


@lru_cache(maxsize=2)
def read_paragraphs(folder: Path) -> tuple[tuple[str, ...], ...]:
    """Read paragraphs of four to seven plain sentences."""
    found: list[tuple[str, ...]] = []
    for name in FILES:
        mine = [part for row in corpus.read_rows(folder, name) for part in _paragraphs(row["text"])]
        seeded_random("paragraphs", name).shuffle(mine)
        found += mine[:MAX_PARAGRAPHS]
    return tuple(found)


def _paragraphs(text: str) -> list[tuple[str, ...]]:
    found = []
    for block in re.split(r"\n\s*\n", text):
        line = corpus.clean(re.sub(r"\s+", " ", block))
        line = re.sub(r"\*\*|__|`", "", line)
        if 150 < len(line) < 700 and not re.search(r'[|<>\[\]{}#*\\"\u2060]|https?:', line):
            parts = split_sentences(line)
            if 4 <= len(parts) <= 7 and all(20 < len(part) < 200 for part in parts):
                found.append(tuple(parts))
    return found


@lru_cache(maxsize=2)
def read_rewrites(folder: Path) -> tuple[tuple[str, str], ...]:
    """Read wordy sentences and their shortest rewriting."""
    found = []
    for row in corpus.read_rows(folder, "summ_wiki_concise_full"):
        first, *others = [corpus.clean(text) for text in row["cols"][:-1] if text]
        if others and len(min(others, key=len)) < len(first):
            found.append((first, min(others, key=len)))
    return tuple(found)


def make_notice(random_: random.Random, *, held_out: bool = False) -> tuple[str, ...]:
    """Write a short notice from generated facts."""
    values = SlotValues(random_, held_out=held_out)
    kind = random_.choice(("place", "person", "town", "rule", "product"))
    subject = grounded_data.make_subject(kind, values)
    chosen = random_.sample(grounded_data.read_fact_kinds()[kind], random_.randint(3, 5))
    facts = [grounded_data.make_fact(fact, subject, values) for fact in chosen]
    text = " ".join(fact.state(random_, fact.subject) for fact in facts)
    return tuple(split_sentences(f"{text} {random_.choice(grounded_data.FILLERS)}"))


def make_example(
    folder: Path, random_: random.Random, length: Length, *, held_out: bool
) -> tuple[str, str]:
    """Return a text and its summary."""
    if length == "one sentence" and not held_out and random_.random() < 0.2:
        return random_.choice(read_rewrites(folder))
    while True:
        parts = (
            make_notice(random_, held_out=held_out)
            if random_.random() < 0.35
            else random_.choice(read_paragraphs(folder))
        )
        text = " ".join(parts)
        if (
            len(parts) >= 4
            and corpus.is_held_out(text) == held_out
            and not corpus.resembles_example(text)
        ):
            return text, summarize(list(parts), length)


def training_source(folder: Path) -> Callable[[int], Group]:
    """Return the endless stream of training groups."""

    def at(index: int) -> Group:
        random_ = seeded_random("summary", index)
        length = random_.choices(prompts.LENGTHS, (5, 2, 3))[0]
        pairs = [make_example(folder, random_, length, held_out=False) for _ in range(2)]
        return Group(
            "summary", prompts.build_summarization_system(length), tuple((pair,) for pair in pairs)
        )

    return at


def held_out_groups(folder: Path, count: int) -> list[Group]:
    """Return held-out paragraphs, the lengths in turn."""
    found = []
    for index in range(count):
        length = prompts.LENGTHS[index % len(prompts.LENGTHS)]
        pair = make_example(folder, seeded_random("summary measured", index), length, held_out=True)
        found.append(Group("summary", prompts.build_summarization_system(length), ((pair,),)))
    return found
