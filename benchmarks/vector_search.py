"""Measure the exact search for the nearest vectors in a knowledge base of many passages.

    python -m benchmarks.vector_search --passages 100000

Vectors are random, of 512 dimensions. Prints the size of the file, and the time of one core for the
first search, which reads the vectors, for further ones, and for one after a document was added.
"""

import argparse
import contextlib
import tempfile
import time
from pathlib import Path

import numpy as np

from palaver import Document, echo
from palaver_plugins.knowledge.index import SearchIndex

TENANT, SIZE, PER_DOCUMENT, SEARCHES = "benchmark", 512, 500, 20
SOURCE = np.random.default_rng(0)


def make_vectors(count: int) -> list[list[float]]:
    vectors = SOURCE.standard_normal((count, SIZE))
    made: list[list[float]] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).tolist()
    return made


def add_document(index: SearchIndex, name: str, passages: int) -> None:
    text = "\n\n".join(f"# Section {n}\n\nText {n}" for n in range(passages))
    index.add(TENANT, Document(id=name, title=name, text=text))
    missing = index.vectors.find_missing(0, passages)
    index.vectors.store("random", list(zip(missing, make_vectors(len(missing)), strict=True)))


def search_seconds(index: SearchIndex, times: int = 1) -> float:
    """Return the seconds of the processor for the slowest of several searches."""
    found = []
    for vector in make_vectors(times):
        began = time.process_time()
        index.rank_by_vector(TENANT, vector, 50)
        found.append(time.process_time() - began)
    return max(found)


def measure(passages: int, path: Path) -> None:
    with contextlib.closing(SearchIndex(path)) as index:
        index.vectors.use_model("random")
        for number in range(0, passages, PER_DOCUMENT):
            add_document(index, str(number), min(PER_DOCUMENT, passages - number))
        stored, _ = index.vectors.count()
        vectors, file = 2 * SIZE * stored / 1e6, path.stat().st_size / 1e6
        echo(f"passages            {stored}")
        echo(f"file                {file:.0f} MB, of which vectors {vectors:.0f} MB")
        echo(f"memory for vectors  {4 * SIZE * stored / 1e6:.0f} MB")
        echo(f"first search        {1000 * search_seconds(index):.0f} ms")
        echo(f"slowest of {SEARCHES}       {1000 * search_seconds(index, SEARCHES):.0f} ms")
        add_document(index, "new", 10)
        echo(f"after a change      {1000 * search_seconds(index):.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(options.passages, Path(folder) / "knowledge.sqlite")


if __name__ == "__main__":
    main()
