"""The training mixture: number and length of the rows of each task."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from training.starter import (
    code_data,
    dialogue_data,
    grounded_data,
    recall_data,
    routing_data,
    summary_data,
    translation_data,
)
from training.starter.groups import Source, seeded_random
from training.starter.packing import Batch, Encoder, Packer, collate

SHORT, NARROW, WIDE, LONG = 128, 256, 512, 1024
"""Lengths of rows in tokens; a quarter of a step has rows of one length."""
LONG_EVERY = 16
"""Interval in steps at which long rows replace wide ones."""

TRANSLATION = {"fr": 0.24, "de": 0.25, "es": 0.23, "zh": 0.28}
INTO_FOREIGN = 0.58
"""Share of translations out of English; English as a target benefits from all four."""
NARROW_TASKS = {"code": 0.3, "chat": 0.45, "routing": 0.15, "recall": 0.1}
EXERCISES = {"recall": 0.7, "grounded": 0.3}
EXERCISE_STEPS = 1000
"""Steps in which a quarter of the rows are lookup exercises; grounded questions follow."""
WIDE_TASKS = {"grounded": 0.9, "summary": 0.1}
LONG_TASKS = {"long": 0.8, "summary": 0.2}
REVISION_TASKS = {"chat": 0.7, "code": 0.25, "routing": 0.05}
REVISION_EXERCISES = {"grounded": 0.5, "chat": 0.3, "code": 0.2}
"""Narrow rows of a run that goes on from an exported model."""
LOSS_WEIGHTS = {"grounded": 2.0, "code": 0.5, "summary": 1.0, "long": 2.0}


def training_sources(folder: Path) -> dict[str, Source]:
    """Build all streams of training groups."""
    paragraphs = summary_data.read_paragraphs(folder)
    found: dict[str, Source] = {
        "grounded": grounded_data.training_source(folder, paragraphs),
        "long": grounded_data.training_source(folder, paragraphs, noise=6),
        "code": code_data.training_source(),
        "chat": dialogue_data.training_source(folder),
        "summary": summary_data.training_source(folder),
        "routing": routing_data.training_source(folder),
        "recall": recall_data.training_source(),
    }
    for language in translation_data.FOREIGN:
        found[f"en-{language}"] = translation_data.training_source(
            folder, language, into_english=False
        )
        found[f"{language}-en"] = translation_data.training_source(
            folder, language, into_english=True
        )
    return found


def tokenizer_texts(folder: Path, count: int) -> Iterator[str]:
    """Yield texts for the tokenizer from every task and language."""
    for name, source in training_sources(folder).items():
        share = 4 if name in {"en-zh", "zh-en"} else 3 if len(name) == 5 else 1
        for index in range(count * share if "-" in name else count // 10):
            group = source(index)
            yield group.system
            yield group.shared
            for branch in group.branches:
                for user, answer in branch:
                    yield user
                    yield answer


@dataclass(slots=True)
class Mixture:
    """Source of the batches of each step. Its state is the cursors of the packers."""

    packers: dict[str, Packer]
    encoder: Encoder
    tokens: int
    revises: bool = False
    """The run goes on from an exported model."""

    @classmethod
    def open(
        cls,
        streams: dict[str, Source],
        tokenizer: Tokenizer,
        tokens: int,
        prompt_weight: float = 0.0,
        copy_weight: float = 0.0,
        *,
        revises: bool = False,
    ) -> Mixture:
        """Pack the streams by name (see `sources`); `tokens` is half the size of a step."""
        encoder = Encoder(tokenizer, prompt_weight, copy_weight)
        packers = {
            name: Packer(source, encoder, weight=LOSS_WEIGHTS.get(name, 1.0))
            for name, source in streams.items()
        }
        return cls(packers, encoder, tokens, revises)

    def cursors(self) -> dict[str, int]:
        """Return the state."""
        return {name: packer.cursor for name, packer in self.packers.items()}

    def restore(self, cursors: dict[str, int]) -> None:
        """Restore a saved state."""
        for name, cursor in cursors.items():
            self.packers[name].cursor = cursor

    def draw_step(self, number: int) -> list[Batch]:
        """Draw the batches of a step: translations, grounded questions, other tasks in turn."""
        random_ = seeded_random("mix", number)
        quarter = self.tokens // 2
        directions = {f"en-{x}": part * INTO_FOREIGN for x, part in TRANSLATION.items()}
        directions |= {f"{x}-en": part * (1 - INTO_FOREIGN) for x, part in TRANSLATION.items()}
        wide, length = (LONG_TASKS, LONG) if number % LONG_EVERY == 0 else (WIDE_TASKS, WIDE)
        plan = ((directions, SHORT), (wide, length), *self._narrow_rows(number))
        return [self._draw_batch(random_, shares, quarter, length) for shares, length in plan]

    def _narrow_rows(self, number: int) -> Iterator[tuple[dict[str, float], int]]:
        """Yield the shares of the tasks in two quarters of a step."""
        if self.revises:
            yield REVISION_TASKS, NARROW
            yield REVISION_EXERCISES, NARROW
            return
        yield NARROW_TASKS if number % 2 else {"recall": 0.5, "grounded": 0.5}, NARROW
        yield EXERCISES if number < EXERCISE_STEPS else {"grounded": 1.0}, NARROW

    def _draw_batch(
        self, random_: random.Random, shares: dict[str, float], tokens: int, length: int
    ) -> Batch:
        names = random_.choices(list(shares), list(shares.values()), k=max(1, tokens // length))
        return self._batch(names, length)

    def _batch(self, names: list[str], length: int) -> Batch:
        rows = [(self.packers[name].fill_row(length), self.packers[name].weight) for name in names]
        return collate(rows, length, self.encoder.pad, names)
