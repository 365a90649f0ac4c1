"""A skill with an unusable name."""

from palaver import Skill, Turn


class Nameless(Skill):
    """Have a bad name."""

    name = "Not A Name"

    async def answer(self, turn: Turn) -> None: ...
