from palaver import Skill, Turn


class Haiku(Skill):
    """Write a haiku about whatever the person names."""

    name = "haiku"
    examples = ("write a haiku about rain", "a short poem on winter", "compose a haiku for me")

    async def answer(self, turn: Turn) -> None:
        await turn.stream("Write one haiku about: " + turn.message.text)
