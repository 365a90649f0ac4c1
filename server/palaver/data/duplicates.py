"""Near-duplicates: groups of rows whose texts are nearly the same.

A text is a set of shingles: runs of 5 characters of its normal form. MinHash signatures estimate
the Jaccard similarity of two sets. Rows with a band of equal values in their signatures are
candidates; the whole signatures decide. The signatures are on disk, so that memory grows with the
number of rows by a few numbers each.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from palaver.evaluation.libraries import load_library
from palaver.search_terms import normalize_text

SHINGLE = 5
PERMUTATIONS = 128
BANDS = 32
SEED = 20_261_130
BATCH = 2_000
MAX_LEADERS = 16
"""Members of a bucket with which the others are compared."""
_DIGITS = re.compile(r"\d+")
Array = Any  # an array of numpy


def comparable(text: str) -> str:
    """Return the form of a text in which near-duplicates are found: without case and accents, all
    numbers alike."""
    return " ".join(_DIGITS.sub("0", normalize_text(text)).split())


def shingles(text: str) -> list[str]:
    return [text[at : at + SHINGLE] for at in range(max(1, len(text) - SHINGLE + 1))]


class Groups:
    """Union-find over rows by their numbers. A group is named by its first row."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._parents = np.arange(size, dtype=np.int64)

    def find(self, row: int) -> int:
        parents = self._parents
        while (parent := int(parents[row])) != row:
            parents[row] = parents[parent]
            row = int(parents[parent])
        return row

    def join(self, one: int, other: int) -> None:
        one, other = sorted((self.find(one), self.find(other)))
        self._parents[other] = one


def equal_runs(keys: Array) -> Iterator[Array]:
    """Yield the numbers of the rows that have the same key, for each key of several rows."""
    order = np.argsort(keys, kind="stable")
    changes = np.flatnonzero(np.diff(keys[order])) + 1
    yield from (run for run in np.split(order, changes) if len(run) > 1)


def sign(texts: Iterable[str], size: int, file: Path) -> Array:
    """Write the signatures of ``size`` texts to a file, and return them as an array on disk."""
    rensa = load_library("rensa", extra="data")
    signatures = np.memmap(file, dtype=np.uint32, mode="w+", shape=(max(1, size), PERMUTATIONS))
    at = 0
    for batch in _batches(texts):
        sets = [shingles(comparable(text)) for text in batch]
        digests = rensa.RMinHash.digests_from_token_sets(sets, PERMUTATIONS, SEED)
        signatures[at : at + len(batch)] = np.asarray(digests, dtype=np.uint32)
        at += len(batch)
    return signatures


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def join_similar(
    groups: Groups, signatures: Sequence[Array], similarity: float, apart: Array | None = None
) -> None:
    """Join the rows that are similar by each of their signatures. Those with different values in
    ``apart`` are not."""
    width = PERMUTATIONS // BANDS
    for band in range(BANDS):
        keys = _band_keys(signatures[0][: groups.size, band * width : (band + 1) * width])
        for run in equal_runs(keys):
            _join_run(groups, signatures, run.tolist(), similarity, apart)


def _band_keys(values: Array) -> Array:
    """Return one number for the values of each row's band."""
    keys = np.zeros(len(values), dtype=np.uint64)
    for column in values.T:
        keys = (keys ^ column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    return keys


def _join_run(
    groups: Groups,
    signatures: Sequence[Array],
    run: Sequence[int],
    similarity: float,
    apart: Array | None,
) -> None:
    def is_similar(one: int, other: int) -> bool:
        if apart is not None and apart[one] != apart[other]:
            return False
        return groups.find(one) == groups.find(other) or all(
            float(np.mean(each[one] == each[other])) >= similarity for each in signatures
        )

    leaders: list[int] = []
    for row in run:
        leader = next((each for each in leaders if is_similar(row, each)), None)
        if leader is not None:
            groups.join(leader, row)
        elif len(leaders) < MAX_LEADERS:
            leaders.append(row)
