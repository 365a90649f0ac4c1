"""EngineSkill: a skill with the engine's text as its reply."""

from palaver import Skill, Turn


class EngineSkill(Skill):
    """Stream the engine's reply to the message."""

    name = "engine"

    async def answer(self, turn: Turn) -> None:
        await turn.stream(turn.message.text)
