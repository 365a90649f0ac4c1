"""Choice by meaning: compares a message with every skill's examples and description.

Without an embedding engine a text is a bag of words and character n-grams, weighted by how rare
they are among the examples; n-grams let it work across inflections and in languages that do not
separate words. The score is a probability: a logistic curve fitted to how well each example finds
its own skill when it is left out.
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

Vector = npt.NDArray[np.float32]
NEAREST = 2
"""Examples of a skill whose similarity is averaged into the skill's own."""
_WORD = re.compile(r"\w+")


class Ranked(NamedTuple):
    """A skill and the probability that it is the right one."""

    skill: str
    probability: float


def features(text: str) -> Counter[str]:
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


class Bag:
    """Turns texts into unit vectors of TF-IDF weighted features, by a fixed vocabulary."""

    def __init__(self, texts: Sequence[str]) -> None:
        documents = [features(text) for text in texts]
        frequency = Counter(name for document in documents for name in document)
        self._index = {name: i for i, name in enumerate(sorted(frequency))}
        total = len(documents) + 1
        self._rarest = math.log(total) + 1
        self._idf = np.array(
            [math.log(total / (1 + frequency[name])) + 1 for name in sorted(frequency)],
            dtype=np.float32,
        )
        self.matrix = np.stack([self.vector(text) for text in texts])

    def vector(self, text: str) -> Vector:
        """Unit length as long as every feature is known; unknown ones only shorten it, so that
        a text about something else is similar to nothing."""
        result = np.zeros(len(self._index), dtype=np.float32)
        unknown = 0.0
        for name, count in features(text).items():
            weight = 1 + math.log(count)
            at = self._index.get(name)
            if at is None:
                unknown += (weight * self._rarest) ** 2
            else:
                result[at] = weight * self._idf[at]
        norm = math.sqrt(float(result @ result) + unknown)
        return result / norm if norm else result


class Curve:
    """Probability that the best skill is right, from its similarity and its lead."""

    def __init__(self, observations: Sequence[tuple[float, float, bool]]) -> None:
        inputs = np.array([(1.0, top, lead) for top, lead, _ in observations])
        right = np.array([float(correct) for _, _, correct in observations])
        self._weights = _logistic_regression(inputs, right)

    def __call__(self, top: float, lead: float) -> float:
        return float(_sigmoid(self._weights @ np.array([1.0, top, lead])))


def _sigmoid(value: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-np.clip(value, -30, 30))))


def _logistic_regression(
    inputs: npt.NDArray[np.float64], right: npt.NDArray[np.float64], ridge: float = 0.05
) -> npt.NDArray[np.float64]:
    """Newton's method on the ridge-penalised log-likelihood; 25 steps are plenty for 3 weights."""
    weights = np.zeros(inputs.shape[1])
    for _ in range(25):
        p = _sigmoid(inputs @ weights)
        gradient = inputs.T @ (right - p) - ridge * weights
        curvature = (inputs * (p * (1 - p))[:, None]).T @ inputs + ridge * np.eye(len(weights))
        weights = weights + np.linalg.solve(curvature, gradient)
    return weights


class MeaningIndex:
    """The examples of all skills, ready to be compared with a message."""

    def __init__(self, skills: Mapping[str, type[Skill]]) -> None:
        pairs = [(name, text) for name, skill in skills.items() for text in _texts(skill)]
        self._skills = list(skills)
        self._owners = np.array([self._skills.index(name) for name, _ in pairs])
        self._bag = Bag([text for _, text in pairs])
        self._curve = Curve(self._leave_one_out())

    def rank(self, text: str) -> list[Ranked]:
        """All skills, the likeliest first; the probabilities sum to 1 at most."""
        scores = self._scores(self._bag.matrix @ self._bag.vector(text))
        order = np.argsort(-scores, kind="stable")
        best, second = _two_best(scores)
        sure = self._curve(best, best - second)
        rest = scores.sum() - best
        ranked = [Ranked(self._skills[order[0]], sure)]
        for i in order[1:]:
            share = float(scores[i] / rest) if rest > 0 else 0.0
            ranked.append(Ranked(self._skills[i], (1 - sure) * share))
        return ranked

    def _scores(self, similarities: Vector) -> Vector:
        """Each skill's mean similarity over its nearest examples."""
        scores = np.zeros(len(self._skills), dtype=np.float32)
        for skill in range(len(self._skills)):
            own = similarities[self._owners == skill]
            scores[skill] = np.sort(own)[-NEAREST:].mean() if own.size else 0.0
        return scores

    def _leave_one_out(self) -> list[tuple[float, float, bool]]:
        observations = []
        similarities = self._bag.matrix @ self._bag.matrix.T
        for i, owner in enumerate(self._owners):
            row = similarities[i].copy()
            row[i] = 0.0
            scores = self._scores(row)
            best, second = _two_best(scores)
            observations.append((best, best - second, int(scores.argmax()) == int(owner)))
        # A message that resembles nothing belongs to nobody.
        observations += [(0.0, 0.0, False)] * max(1, len(observations) // 20)
        return observations


def _texts(skill: type[Skill]) -> list[str]:
    return [*skill.examples, skill.description()]


def _two_best(scores: Vector) -> tuple[float, float]:
    ordered = np.sort(scores)
    return float(ordered[-1]), float(ordered[-2]) if len(ordered) > 1 else 0.0
