"""A plugin with a skill of the same name as the one of `good`."""

from palaver import Skill, Turn


class Duplicate(Skill):
    """Be good as well."""

    name = "good"

    async def answer(self, turn: Turn) -> None:
        await turn.say("So am I.")
