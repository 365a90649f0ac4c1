"""Another plugin with a skill of the same name as that of `good`."""

from palaver import Skill, Turn


class Twin(Skill):
    """Be good as well."""

    name = "good"

    async def answer(self, turn: Turn) -> None:
        await turn.say("So am I.")
