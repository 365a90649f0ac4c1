"""A plugin whose skill has an alias that nobody can type."""

from palaver import Skill, Turn


class Spaced(Skill):
    """Answer."""

    name = "spaced"
    aliases = ("two words",)

    async def answer(self, turn: Turn) -> None:
        await turn.say("yes")
