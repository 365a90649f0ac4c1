"""Classifier: compares a message with every skill's examples and description.

A text is a bag of words and character n-grams, weighted by how rare they are among the examples;
n-grams let it work across inflections and in languages that do not separate words. A multinomial
logistic regression, fitted to the examples when the server starts, gives each skill a probability.
The ridge penalty calibrates them on unseen messages: of the choices with a probability of 0.5 and
more, about four in five are right on held-out examples.
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from palaver.search_terms import normalize_text
from palaver.skills import Skill

Matrix = npt.NDArray[np.float64]
RIDGE = 0.01
"""Penalty on the weights, chosen by five-fold cross-validation over the built-in skills' examples:
a smaller one is overconfident on unseen messages."""
STEPS = 400
RATE = 0.5
_WORD = re.compile(r"\w+")


class RankedSkill(NamedTuple):
    """A skill, and the probability that the message is a request to it."""

    skill: str
    probability: float


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
        self.matrix = np.zeros((len(texts), len(self._index)))
        for row, text in enumerate(texts):
            columns, weights = self.vectorize(text)
            self.matrix[row, columns] = weights

    def vectorize(self, text: str) -> tuple[list[int], Matrix]:
        """Return the columns of a text's known features, and their weights.

        The vector with the unknown features has the length 1, so that a text of mostly unknown
        features is similar to no example.
        """
        columns, weights, unknown = [], [], 0.0
        for name, count in count_features(text).items():
            weight = 1 + math.log(count)
            column = self._index.get(name)
            if column is None:
                unknown += (weight * self._rarest) ** 2
            else:
                columns.append(column)
                weights.append(weight * self._idf[column])
        known = np.array(weights)
        length = math.sqrt(float(known @ known) + unknown)
        return columns, known / length if length else known


class ExampleClassifier:
    """Classifier of messages, fitted to the examples of all skills."""

    def __init__(self, skills: Mapping[str, type[Skill]]) -> None:
        pairs = [(name, text) for name, skill in skills.items() for text in _texts(skill)]
        self._skills = list(skills)
        self._vectorizer = Vectorizer([text for _, text in pairs])
        owners = [self._skills.index(name) for name, _ in pairs]
        self._weights, self._bias = _fit(self._vectorizer.matrix, np.eye(len(skills))[owners])

    def rank(self, text: str) -> list[RankedSkill]:
        """Return all skills, the likeliest first; the probabilities sum to 1."""
        columns, weights = self._vectorizer.vectorize(text)
        probabilities = _softmax(weights @ self._weights[columns] + self._bias)
        ranked = [
            RankedSkill(skill, float(probability))
            for skill, probability in zip(self._skills, probabilities, strict=True)
        ]
        return sorted(ranked, key=lambda r: -r.probability)


def _fit(inputs: Matrix, wanted: Matrix) -> tuple[Matrix, Matrix]:
    """Fit weights (features by skills) and bias (skills) by gradient descent over the examples'
    similarities: there are far fewer examples than features."""
    similarities = inputs @ inputs.T
    shares = np.zeros(wanted.shape)
    bias = np.zeros(wanted.shape[1])
    for _ in range(STEPS):
        error = _softmax(similarities @ shares + bias) - wanted
        shares -= RATE * (error + RIDGE * shares)
        bias -= RATE / 10 * error.mean(axis=0)
    return inputs.T @ shares, bias


def _softmax(scores: Matrix) -> Matrix:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def _texts(skill: type[Skill]) -> list[str]:
    return [*skill.examples, skill.description()]
