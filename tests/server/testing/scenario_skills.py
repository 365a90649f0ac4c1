"""A skill with tools for scenario files."""

from palaver import InvalidInput, Skill, ToolContext, Turn, tool


@tool(read_only=True)
async def look_up(place: str, context: ToolContext) -> str:
    """Look up how to get to a place."""
    passages = await context.services.search(place, 1)
    if not passages:
        raise InvalidInput("There is no such place: no such place is known.")
    return f"[{context.services.cite(passages[0])}] {passages[0].text}"


@tool
def book(place: str, seats: int) -> str:
    """Book seats."""
    return f"booked: {place}"


class Traveller(Skill):
    """Plans a journey."""

    name = "traveller"

    async def answer(self, turn: Turn) -> None:
        place = turn.message.text.rpartition(" ")[2]
        found = await turn.call_tool("look_up", place=place)
        await turn.stream(found)
        await turn.ask("Shall I book?")
        await turn.say(await turn.call_tool("book", place=place, seats=1))
