"""A plugin whose skill has the name of another one as an alias, in capitals."""

from palaver import Skill, Turn


class Better(Skill):
    """Answer better."""

    name = "better"
    aliases = ("best", "GOOD")

    async def answer(self, turn: Turn) -> None:
        await turn.say("better")
