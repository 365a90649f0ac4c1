"""Endings of a skill that the server raises through it."""

from collections.abc import Sequence


class SkillEnded(BaseException):
    """Ends a skill. A BaseException, so that a skill's ``except Exception`` does not swallow it."""


class Suspended(SkillEnded):
    """Ends a skill that has asked a question with ``options``; the answer runs the skill again."""

    def __init__(self, options: Sequence[str]) -> None:
        super().__init__()
        self.options = tuple(options)


class ReplyLimitReached(SkillEnded):
    """Ends a skill that would let the model write more than the program asked for."""
