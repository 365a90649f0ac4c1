"""A pattern that fills an argument which does not exist."""

from palaver import Skill, Turn


class BadPattern(Skill):
    """Fill nothing."""

    name = "badpattern"
    patterns = (r"do (?P<what>.+)",)

    async def answer(self, turn: Turn) -> None: ...
