"""Pack groups of examples into rows of a fixed length.

A group is a tree: the system text, the shared beginning, and the branches. Every branch attends to
its ancestors and itself, at the positions that it would have alone. So a row gives exactly the
losses of its examples computed one by one, and computes shared text only once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from training.starter import tokenization
from training.starter.groups import Group, Source, Turn

Ints = npt.NDArray[np.int64]
Pairs = set[tuple[int, int]]

NUMBER_WEIGHT = 6.0
"""Weight of the number of the cited passage, relative to a word of the answer."""


@dataclass(slots=True)
class Segment:
    """Run of tokens with its parent in the row (-1: none) and the weight of each prediction."""

    ids: list[int]
    weights: list[float]
    parent: int = -1


@dataclass(slots=True)
class Row:
    """Row under construction: segments in order and their number of tokens."""

    segments: list[Segment] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    length: int = 0
    systems: dict[str, int] = field(default_factory=dict)

    def add(self, segment: Segment) -> int:
        """Append a segment and return its number."""
        parent = segment.parent
        before = self.starts[parent] + len(self.segments[parent].ids) if parent >= 0 else 0
        self.segments.append(segment)
        self.starts.append(before)
        self.length += len(segment.ids)
        return len(self.segments) - 1


class Encoder:
    """Encoder of groups as segments.

    `prompt_weight` is the weight of the source text of a translation relative to the answer: the
    source text teaches its language, too. `copy_weight` is the weight of repeated words in
    passages and questions: predicting them trains lookup, which answers from passages need.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompt_weight: float = 0.0, copy_weight: float = 0.0
    ) -> None:
        self.tokenizer = tokenizer
        self.copy_weight = copy_weight
        self.prompt_weight = prompt_weight
        self.special = {
            name: tokenization.special_token_id(tokenizer, name) for name in tokenization.SPECIAL
        }
        self.pad = self.special[tokenization.PAD]
        self.end = self.special[tokenization.END]
        self.opening, self.closing = self.encode(" [")[-1], self.encode("]")[-1]

    def encode(self, text: str) -> list[int]:
        """Encode plain text."""
        found: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return found

    def encode_system(self, text: str) -> Segment:
        """Encode the system text; without one the segment is empty."""
        ids = [self.special[tokenization.SYSTEM], *self.encode(text)] if text else []
        return Segment(ids, [0.0] * len(ids))

    def encode_shared(self, text: str, parent: int) -> Segment:
        """Encode the beginning of the user's text that branches share."""
        ids = [self.special[tokenization.USER], *self.encode(text)]
        return Segment(ids, self._copy_weights(ids, set()), parent)

    def _answer_weights(self, said: list[int]) -> list[float]:
        """Weigh an answer: the number of the passage counts `NUMBER_WEIGHT` times."""
        inside = False
        weights = []
        for token in said:
            inside = inside and token != self.closing
            weights.append(NUMBER_WEIGHT if inside else 1.0)
            inside = inside or token == self.opening
        return weights

    def _copy_weights(self, ids: list[int], known: Pairs) -> list[float]:
        """Weigh the tokens that follow the same token as before; add all pairs to `known`."""
        weights = [0.0] * len(ids)
        for place, pair in enumerate(pairwise(ids), 1):
            weights[place] = self.copy_weight if pair in known else 0.0
            known.add(pair)
        return weights

    def encode_branch(
        self, group: Group, turns: tuple[Turn, ...], shared: Segment | None
    ) -> Segment:
        """Encode turns. The first one begins with the shared text, if any."""
        weight = self.prompt_weight if group.task == "translation" else 0.0
        known: Pairs = set(pairwise(shared.ids)) if shared else set()
        opened = bool(group.shared)
        ids: list[int] = []
        learn: list[float] = []
        for place, (user, answer) in enumerate(turns):
            marker = [] if opened and place == 0 else [self.special[tokenization.USER]]
            asked = [*marker, *self.encode(user), self.special[tokenization.ASSISTANT]]
            said = [*self.encode(answer), self.end]
            ids += asked + said
            learn += (
                self._copy_weights(asked, known) if shared else [weight] * (len(asked) - 1) + [0.0]
            )
            learn += self._answer_weights(said) if shared else [1.0] * len(said)
        return Segment(ids, learn)


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows as arrays [rows, length]; `segments` numbers the segment of every token.

    `visible` [rows, segments, segments] is True where the first segment attends to the second;
    `targets` is the token to predict or -1, `weights` its weight, `answers` True in an answer.
    """

    tokens: Ints
    positions: Ints
    segments: Ints
    visible: npt.NDArray[np.bool_]
    targets: Ints
    weights: npt.NDArray[np.float32]
    answers: npt.NDArray[np.bool_]
    names: tuple[str, ...]

    def mask(self) -> npt.NDArray[np.bool_]:
        """Return [rows, length, length]: True where a token attends to another."""
        rows = np.arange(len(self.segments))[:, None, None]
        seen = self.visible[rows, self.segments[:, :, None], self.segments[:, None, :]]
        length = self.segments.shape[1]
        return seen & np.tri(length, dtype=np.bool_)


class Packer:
    """Filler of rows from a source. Its only state is the cursor."""

    def __init__(self, source: Source, encoder: Encoder, *, weight: float = 1.0) -> None:
        self.source, self.encoder, self.weight = source, encoder, weight
        self.cursor = 0
        self._next: tuple[int, Group] | None = None

    def fill_row(self, length: int) -> Row:
        """Fill a row of at most `length` tokens. A group that does not fit is cut or dropped."""
        row = Row()
        while True:
            group = self._peek()
            added = self._fit(row, group, length)
            if not added and row.length:
                return row
            self.cursor += 1

    def _peek(self) -> Group:
        if self._next is None or self._next[0] != self.cursor:
            self._next = (self.cursor, self.source(self.cursor))
        return self._next[1]

    def _fit(self, row: Row, group: Group, length: int) -> bool:
        """Add as many branches of a group as fit. Return True if any did."""
        encoder = self.encoder
        system = encoder.encode_system(group.system)
        known = row.systems.get(group.system, -1) if group.system else -1
        fixed = 0 if known >= 0 else len(system.ids)
        shared = encoder.encode_shared(group.shared, -1) if group.shared else None
        fixed += len(shared.ids) if shared else 0
        left = length - row.length - fixed
        branches = []
        for turns in group.branches:
            branch = encoder.encode_branch(group, turns, shared)
            if len(branch.ids) <= left:
                branches.append(branch)
                left -= len(branch.ids)
        if not branches or (row.length and len(branches) < min(2, len(group.branches))):
            return False
        self._append(row, group.system, known, system, shared, branches)
        return True

    def _append(
        self,
        row: Row,
        text: str,
        known: int,
        system: Segment,
        shared: Segment | None,
        branches: list[Segment],
    ) -> None:
        parent = known
        if parent < 0 and system.ids:
            parent = row.systems[text] = row.add(system)
        if shared:
            shared.parent = parent
            parent = row.add(shared)
        for branch in branches:
            branch.parent = parent
            row.add(branch)


def collate(rows: list[tuple[Row, float]], length: int, pad: int, names: list[str]) -> Batch:
    """Turn (row, weight of its targets) pairs into arrays; `names` are the rows' tasks."""
    count = len(rows)
    most = max(len(row.segments) for row, _ in rows) + 1
    shape = (count, length)
    batch = Batch(
        tokens=np.full(shape, pad),
        positions=np.zeros(shape, np.int64),
        segments=np.full(shape, most - 1),
        visible=np.zeros((count, most, most), np.bool_),
        targets=np.full(shape, -1),
        weights=np.zeros(shape, np.float32),
        answers=np.zeros(shape, np.bool_),
        names=tuple(names),
    )
    for number, (row, weight) in enumerate(rows):
        _write_row(batch, number, row, weight)
    batch.visible[:, most - 1, most - 1] = True
    return batch


def _write_row(batch: Batch, number: int, row: Row, weight: float) -> None:
    at = 0
    for place, (segment, start) in enumerate(zip(row.segments, row.starts, strict=True)):
        size = len(segment.ids)
        span = slice(at, at + size)
        batch.tokens[number, span] = segment.ids
        batch.positions[number, span] = np.arange(start, start + size)
        batch.segments[number, span] = place
        batch.visible[number, place, place] = True
        if segment.parent >= 0:
            batch.visible[number, place] |= batch.visible[number, segment.parent]
        _write_targets(batch, number, at, segment, weight)
        at += size


def _write_targets(batch: Batch, number: int, at: int, segment: Segment, weight: float) -> None:
    """Predict every learned token from the token before it, which is in the same segment."""
    for offset, learn in enumerate(segment.weights):
        if learn and offset:
            batch.targets[number, at + offset - 1] = segment.ids[offset]
            batch.weights[number, at + offset - 1] = weight * learn
            batch.answers[number, at + offset - 1] = learn >= 1.0
