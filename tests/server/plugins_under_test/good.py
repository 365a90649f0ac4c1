"""A module that just defines a skill; the one that it imports is not its own."""

from tests.server.skills_under_test import Parrot

from palaver import Skill, Turn

BASE = Parrot


class Good(Skill):
    """Be good."""

    name = "good"
    examples = ("be good", "behave")

    async def answer(self, turn: Turn) -> None:
        await turn.say("I am.")
