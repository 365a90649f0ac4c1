"""Choice by meaning: compares a message with every skill's examples and description.

A text is a bag of words and character n-grams, weighted by how rare they are among the examples;
n-grams let it work across inflections and in languages that do not separate words. A multinomial
logistic regression, fitted to the examples when the server starts, gives each skill a probability.
The ridge keeps these modest, so that they mean what they say on messages nobody has seen: of what
it is sure about (0.5 and more), about four in five are right on examples kept back.
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from palaver.skills import Skill

Matrix = npt.NDArray[np.float64]
RIDGE = 0.01
"""Penalty on the weights, chosen by five-fold cross-validation over the built-in skills' examples:
a smaller one claims more than it knows."""
STEPS = 400
RATE = 0.5
_WORD = re.compile(r"\w+")


class RankedSkill(NamedTuple):
    """A skill and the probability that it is the right one."""

    skill: str
    probability: float


def count_features(text: str) -> Counter[str]:
    """Words, word pairs and character 3- to 4-grams (in Chinese and Japanese 1- and 2-grams)."""
    words = _WORD.findall(text.lower())
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
    """Turns texts into vectors of TF-IDF weighted features, by a fixed vocabulary."""

    def __init__(self, texts: Sequence[str]) -> None:
        documents = [count_features(text) for text in texts]
        frequency = Counter(name for document in documents for name in document)
        total = len(documents) + 1
        self._rarest = math.log(total) + 1
        self._index = {name: i for i, name in enumerate(frequency)}
        self._idf = [math.log(total / (1 + count)) + 1 for count in frequency.values()]
        self.matrix = np.zeros((len(texts), len(self._index)))
        for row, text in enumerate(texts):
            at, weights = self.vectorize(text)
            self.matrix[row, at] = weights

    def vectorize(self, text: str) -> tuple[list[int], Matrix]:
        """The places of a text's known features and their weights.

        Unknown features count towards the length, which is 1: a text about something else has a
        short known part, and is similar to nothing.
        """
        places, weights, unknown = [], [], 0.0
        for name, count in count_features(text).items():
            weight = 1 + math.log(count)
            at = self._index.get(name)
            if at is None:
                unknown += (weight * self._rarest) ** 2
            else:
                places.append(at)
                weights.append(weight * self._idf[at])
        known = np.array(weights)
        length = math.sqrt(float(known @ known) + unknown)
        return places, known / length if length else known


class ExampleClassifier:
    """The examples of all skills, ready to be compared with a message."""

    def __init__(self, skills: Mapping[str, type[Skill]]) -> None:
        pairs = [(name, text) for name, skill in skills.items() for text in _texts(skill)]
        self._skills = list(skills)
        self._vectorizer = Vectorizer([text for _, text in pairs])
        owners = [self._skills.index(name) for name, _ in pairs]
        self._weights, self._bias = _fit(self._vectorizer.matrix, np.eye(len(skills))[owners])

    def rank(self, text: str) -> list[RankedSkill]:
        """All skills, the likeliest first; the probabilities sum to 1."""
        places, weights = self._vectorizer.vectorize(text)
        probabilities = _softmax(weights @ self._weights[places] + self._bias)
        ranked = [
            RankedSkill(skill, float(probability))
            for skill, probability in zip(self._skills, probabilities, strict=True)
        ]
        return sorted(ranked, key=lambda r: -r.probability)


def _fit(inputs: Matrix, wanted: Matrix) -> tuple[Matrix, Matrix]:
    """Weights (features by skills) and bias (skills) by gradient descent, over the examples'
    similarities rather than the features: there are far fewer examples."""
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
