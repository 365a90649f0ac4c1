"""Classifier: compares a message with every skill's examples and description.

Two texts are similar by their words and character n-grams, weighted by how rare they are among the
examples, and by their vectors where there is an embedder: n-grams know names and spellings, vectors
know synonyms and other languages. A multinomial logistic regression over these similarities, fitted
to the examples, gives each skill a probability. Held-out examples calibrate it: how sharp the
probabilities are, and above which score a message is a request to one of the skills at all.
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from palaver.routing.follow_ups import FOLLOW_UPS
from palaver.search_terms import normalize_text
from palaver.skills import Skill

Matrix = npt.NDArray[np.float32]
Vector = Sequence[float]
RIDGE = 0.01
"""Penalty on the weights."""
STEPS, RATE = 30, 0.5
"""Steps of gradient descent, and their size. More steps fit the examples, not new messages."""
FOLDS, MANY_EXAMPLES = 5, 500
"""Parts of the examples that are held out in turn; of many examples, the first part is enough."""
SHARPNESS = (1.0, 1.4, 2.0, 2.8, 4.0)
"""Factors of the scores among which the held-out examples choose."""
FALSE_REJECTIONS = 0.05
"""Share of the held-out examples whose best score is below that of "none of these"."""
FOLLOW_UP, NONE = "@follow-up", "@none"
"""Classes beside the skills: messages that continue what was said before, and all others."""
_WORD = re.compile(r"\w+")


def count_features(text: str) -> Counter[str]:
    """Count words, word pairs and character 3- to 4-grams (1- to 2-grams in Chinese, Japanese)."""
    words = _WORD.findall(normalize_text(text))
    found = Counter(f"w {word}" for word in words)
    found.update(f"p {a} {b}" for a, b in itertools.pairwise(words))
    for word in words:
        padded = word if _is_unspaced(word) else f"<{word}>"
        sizes = (1, 2) if _is_unspaced(word) else (3, 4)
        for size in sizes:
            found.update(padded[i : i + size] for i in range(len(padded) - size + 1))
    return found


def _is_unspaced(word: str) -> bool:
    return any("\u3040" <= letter <= "\u9fff" for letter in word)


class Vectorizer:
    """TF-IDF vectorizer with the vocabulary of the given texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        documents = [count_features(text) for text in texts]
        frequency = Counter(name for document in documents for name in document)
        total = len(documents) + 1
        self._rarest = math.log(total) + 1
        self._index = {name: i for i, name in enumerate(frequency)}
        self._idf = [math.log(total / (1 + count)) + 1 for count in frequency.values()]

    def __len__(self) -> int:
        return len(self._index)

    def vectorize(self, text: str) -> tuple[list[int], Matrix]:
        """Return the columns of a text's known features, and their weights.

        The vector with the unknown features has the length 1, so that a text of mostly unknown
        features is similar to no example.
        """
        columns: list[int] = []
        weights: list[float] = []
        unknown = 0.0
        for name, count in count_features(text).items():
            weight = 1 + math.log(count)
            column = self._index.get(name)
            if column is None:
                unknown += (weight * self._rarest) ** 2
            else:
                columns.append(column)
                weights.append(weight * self._idf[column])
        known: Matrix = np.array(weights, dtype=np.float32)
        length = math.sqrt(float(known @ known) + unknown)
        known /= length or 1
        return columns, known


class ExampleClassifier:
    """Classifier of messages, fitted to the examples of all skills.

    ``vectors`` are those of `example_texts`, in order; without them it compares words alone.
    """

    def __init__(
        self, skills: Mapping[str, type[Skill]], vectors: Sequence[Vector] | None = None
    ) -> None:
        pairs = _example_pairs(skills)
        self._classes = [*skills, FOLLOW_UP]
        self._vectorizer = Vectorizer([text for _, text in pairs])
        rows = [self._vectorizer.vectorize(text) for _, text in pairs]
        similarities = _multiply_sparse(rows, len(self._vectorizer))
        self._share = 0.0
        if vectors is not None:
            self._share = 0.5
            examples = np.array(vectors, dtype=np.float32)
            similarities += examples @ examples.T
            similarities *= 0.5
        wanted = np.eye(len(self._classes), dtype=np.float32)[
            [self._classes.index(name) for name, _ in pairs]
        ]
        sharpness, self._none = _calibrate(similarities, wanted)
        shares, bias = _fit(similarities, wanted)
        shares *= sharpness
        self._bias = bias * sharpness
        self._weights = np.zeros((len(self._vectorizer), len(self._classes)), dtype=np.float32)
        for (columns, weights), share in zip(rows, shares, strict=True):
            self._weights[columns] += np.outer((1 - self._share) * weights, share)
        if vectors is not None:
            self._directions = self._share * examples.T @ shares

    def weigh(
        self, text: str, vector: Vector | None = None, *, follows: bool = False
    ) -> dict[str, float]:
        """Return a probability for each skill, for `NONE` of them and, if the message ``follows``
        another one, for `FOLLOW_UP`; they sum to 1. ``vector`` is the text's, if the examples have
        some."""
        columns, weights = self._vectorizer.vectorize(text)
        scores: Matrix = weights @ self._weights[columns] + self._bias
        if vector is not None:
            scores += np.array(vector, dtype=np.float32) @ self._directions
        names = [*self._classes, NONE]
        scores = np.append(scores, np.float32(self._none)).astype(np.float32)
        if not follows:
            scores[names.index(FOLLOW_UP)] = -np.inf
        return dict(zip(names, _softmax(scores).tolist(), strict=True))


def example_texts(skills: Mapping[str, type[Skill]]) -> list[str]:
    """Return the texts to which `ExampleClassifier` is fitted."""
    return [text for _, text in _example_pairs(skills)]


def _example_pairs(skills: Mapping[str, type[Skill]]) -> list[tuple[str, str]]:
    own = [
        (name, text)
        for name, skill in skills.items()
        for text in (*skill.examples, skill.description())
    ]
    return own + [(FOLLOW_UP, text) for text in FOLLOW_UPS]


def _multiply_sparse(rows: Sequence[tuple[list[int], Matrix]], width: int) -> Matrix:
    """Return the products of all rows with each other, without a dense matrix of them."""
    holders: list[list[int]] = [[] for _ in range(width)]
    values: list[list[float]] = [[] for _ in range(width)]
    for row, (columns, weights) in enumerate(rows):
        for column, weight in zip(columns, weights.tolist(), strict=True):
            holders[column].append(row)
            values[column].append(weight)
    products = np.zeros((len(rows), len(rows)), dtype=np.float32)
    for holder, value in zip(holders, values, strict=True):
        products[np.ix_(holder, holder)] += np.outer(value, value)
    return products


def _fit(similarities: Matrix, wanted: Matrix) -> tuple[Matrix, Matrix]:
    """Fit shares (examples by classes) and bias (classes) by gradient descent over the examples'
    similarities: there are far fewer examples than features."""
    shares = np.zeros(wanted.shape, dtype=np.float32)
    bias = np.zeros(wanted.shape[1], dtype=np.float32)
    for _ in range(STEPS):
        error = _softmax(similarities @ shares + bias) - wanted
        shares -= RATE * (error + RIDGE * shares)
        bias -= RATE / 10 * error.mean(axis=0)
    return shares, bias


def _calibrate(similarities: Matrix, wanted: Matrix) -> tuple[float, float]:
    """Return the sharpness that makes held-out examples likeliest, and the score of none."""
    total = len(wanted)
    fold_of = np.arange(total) % FOLDS
    scores, truths = [], []
    for fold in range(FOLDS if total <= MANY_EXAMPLES else 1):
        kept, held = fold_of != fold, fold_of == fold
        shares, bias = _fit(similarities[np.ix_(kept, kept)], wanted[kept])
        scores.append(similarities[np.ix_(held, kept)] @ shares + bias)
        truths.append(wanted[held])
    found, truth = np.concatenate(scores), np.concatenate(truths).argmax(axis=1)
    rows = np.arange(len(truth))

    def surprise(sharpness: float) -> float:
        return -float(np.log(_softmax(np.float32(sharpness) * found)[rows, truth] + 1e-9).mean())

    sharpness = min(SHARPNESS, key=surprise)
    return sharpness, sharpness * float(np.quantile(found.max(axis=1), FALSE_REJECTIONS))


def _softmax(scores: Matrix) -> Matrix:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))
