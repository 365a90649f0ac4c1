"""The parts of the package."""

from palaver import Skill, Turn, tool


@tool
def roll() -> int:
    """Roll a die."""
    return 6


class Gambler(Skill):
    """Roll a die."""

    name = "gambler"

    async def answer(self, turn: Turn) -> None:
        await turn.say(await turn.call_tool("roll"))
