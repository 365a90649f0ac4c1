"""A skill whose tool needs an approval, for the tests of channels."""

from palaver import Denied, Tool, Turn, tool
from palaver.testing.channels import Obeys


class Pays(Obeys):
    """Pay, or do what a message says."""

    def __init__(self) -> None:
        super().__init__()
        self.paid: list[str] = []

    @property
    def tools(self) -> dict[str, Tool]:
        @tool(needs_approval=True)
        def pay(to: str) -> str:
            """Pay money."""
            self.paid.append(to)
            return f"Paid {to}."

        return {"pay": pay}

    async def answer(self, turn: Turn) -> None:
        command, _, rest = turn.message.text.partition(" ")
        if command != "pay":
            await super().answer(turn)
            return
        try:
            await turn.say(await turn.call_tool("pay", to=rest))
        except Denied:
            await turn.say("Not paid.")
