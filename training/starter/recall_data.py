"""Lookup exercises: repeat words, and name the word beside another one.

They have no system text, so no prompt of a skill looks like them. Answering from passages needs
attention that finds an earlier place and copies from it; that forms several times sooner with
exercises that consist of nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from training.starter.groups import Group, Turn, seeded_random
from training.starter.slot_values import SlotValues


def draw_words(values: SlotValues, count: int) -> list[str]:
    """Draw different words: names, numbers, codes and things."""
    kinds = ("person", "town", "thing", "code", "color", "price", "duration", "time", "company")
    found: dict[str, None] = {}
    while len(found) < count:
        found[values.draw(values.random.choice(kinds))] = None
    return list(found)


def repeat_turn(values: SlotValues) -> Turn:
    """Repeat a list of words."""
    text = ", ".join(draw_words(values, values.random.randint(3, 8)))
    return f"Repeat: {text}", text


def recall_turns(values: SlotValues) -> tuple[str, list[Turn]]:
    """Return a numbered list of pairs and questions for the second word of a pair."""
    drawn = draw_words(values, 2 * values.random.randint(3, 6))
    pairs = list(zip(drawn[::2], drawn[1::2], strict=True))
    lines = [f"[{number}] {key}: {value}" for number, (key, value) in enumerate(pairs, 1)]
    turns = [(f"Find: {key}", f"{value}. [{n}]") for n, (key, value) in enumerate(pairs, 1)]
    return "\n".join(lines) + "\n\n", turns


def training_source() -> Callable[[int], Group]:
    """Return the endless stream of exercises."""

    def at(index: int) -> Group:
        random_: random.Random = seeded_random("recall", index)
        values = SlotValues(random_)
        if random_.random() < 0.4:
            return Group("recall", "", tuple((repeat_turn(values),) for _ in range(4)))
        shared, turns = recall_turns(values)
        return Group("recall", "", tuple((turn,) for turn in turns), shared)

    return at
