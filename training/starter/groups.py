"""The unit of training data: a group of examples that share how their prompt begins."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass

Turn = tuple[str, str]
"""What a person wrote, and what the assistant answers."""


@dataclass(frozen=True, slots=True)
class Group:
    """Examples with one system text and, if given, one beginning of the user's first text.

    The shared text is computed once for all branches, which is several times cheaper than
    repeating it: five questions about the same four passages cost little more than one.
    """

    task: str
    system: str
    branches: tuple[tuple[Turn, ...], ...]
    shared: str = ""

    def prompts(self) -> list[tuple[list[dict[str, str]], str]]:
        """Return every branch as (chat messages up to the last answer, the last answer)."""
        return [self._prompt(branch) for branch in self.branches]

    def _prompt(self, branch: tuple[Turn, ...]) -> tuple[list[dict[str, str]], str]:
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for position, (user, answer) in enumerate(branch):
            text = self.shared + user if position == 0 else user
            messages.append({"role": "user", "content": text})
            messages.append({"role": "assistant", "content": answer})
        return messages[:-1], branch[-1][1]


Source = Callable[[int], Group]
"""A deterministic, endless stream: the group at an index."""


def seeded_random(*key: object) -> random.Random:
    """Return a random generator that depends on the key alone, on every machine and run."""
    text = "\x1f".join(str(part) for part in key)
    return random.Random(hashlib.sha256(text.encode()).digest())


def hash_fraction(text: str) -> float:
    """Map a text to a fixed number in [0, 1): the same text always falls into the same split."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48
