"""A pattern whose time cannot be guaranteed to be linear."""

from palaver import Skill, Turn


class SlowPattern(Skill):
    """Answer requests that are not polite."""

    name = "slowpattern"
    patterns = (r"(?!please ).+",)

    async def answer(self, turn: Turn) -> None: ...
