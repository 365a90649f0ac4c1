"""The conformance suite of embedders."""

import math

from palaver import Embedder

TEXTS = (
    "How do I get my money back?",
    "",
    " \n\t ",
    "Wie bekomme ich mein Geld zurück?",
    "怎么退款？",
    "a byte \x00 of nothing",
    "🚲" * 50,
    "How do I get my money back?",
)


async def check_embedder(embedder: Embedder) -> None:
    """Start the embedder, check what every embedder promises, and leave it started."""
    info = await embedder.start()
    assert info.model
    vectors = await embedder.embed(TEXTS)
    assert len(vectors) == len(TEXTS)
    assert len({len(vector) for vector in vectors}) == 1
    for vector in vectors:
        assert math.isclose(math.hypot(*vector), 1, abs_tol=1e-3)
    # Batches equal single texts, so the order is that of the texts.
    for text, vector in zip(TEXTS, vectors, strict=True):
        assert similarity(vector, (await embedder.embed([text]))[0]) > 0.9999
    assert vectors[0] != vectors[3]
    assert await embedder.embed([]) == []
    # However long a text is, it has a vector; so has a batch of more than any model takes at once.
    (long,) = await embedder.embed(["word after word " * 20_000])
    assert math.isclose(math.hypot(*long), 1, abs_tol=1e-3)
    many = await embedder.embed([f"text {number}" for number in range(100)])
    assert similarity(many[70], (await embedder.embed(["text 70"]))[0]) > 0.9999


def similarity(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))
