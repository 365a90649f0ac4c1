"""A plugin whose skill has the alias of another one."""

from palaver import Skill, Turn


class Finest(Skill):
    """Answer in the finest way."""

    name = "finest"
    aliases = ("Best",)

    async def answer(self, turn: Turn) -> None:
        await turn.say("finest")
