"""Small skills that the core's tests talk with."""

from pydantic import BaseModel, Field, field_validator

from palaver import Sampling, Skill, Turn


class Parrot(Skill):
    """Say what the engine says."""

    name = "parrot"
    examples = ("repeat after the engine", "say something")

    async def answer(self, turn: Turn) -> None:
        await turn.stream(turn.message.text, history=turn.history)


class Clerk(Skill):
    """Take down a name and an age."""

    name = "clerk"
    examples = ("take my particulars", "register me please")

    async def answer(self, turn: Turn) -> None:
        await turn.say("Welcome.")
        name = await turn.ask("What is your name?")
        age = await turn.ask(f"How old are you, {name}?", suggestions=("18", "80"))
        await turn.say(f"{name} is {age} and said: {turn.message.text}")


class Tailor(Skill):
    """Sell a shirt."""

    name = "tailor"
    examples = ("sell me a shirt", "I need new clothes")

    async def answer(self, turn: Turn) -> None:
        size = await turn.ask("Which size?", ["Small", "Large"])
        await turn.say(f"One shirt, {size}.")


class Painter(Skill):
    """Paint a thing in a colour."""

    name = "painter"
    aliases = ("paint",)
    examples = ("paint the house red", "colour my fence green")
    patterns = (r"paint (?P<thing>.+?) in (?P<colour>\w+)",)

    class Arguments(BaseModel):
        thing: str = Field(title="What shall I paint?")
        colour: str = Field(title="In which colour?", examples=["red", "blue"])

        @field_validator("colour")
        @classmethod
        def _known(cls, value: str) -> str:
            if value not in ("red", "green", "blue"):
                raise ValueError(f"There is no paint of colour {value!r}")
            return value

    async def answer(self, turn: Turn[Arguments]) -> None:
        await turn.say(f"The {turn.arguments.thing} is {turn.arguments.colour} now.")


class Judge(Skill):
    """Decide between guilty and innocent."""

    name = "judge"
    examples = ("is the accused guilty", "pass a sentence")
    needs = frozenset({"generate", "choice", "json_schema"})

    class Verdict(BaseModel):
        guilty: bool
        years: int

    async def answer(self, turn: Turn) -> None:
        word = await turn.choose(turn.message.text, ("guilty", "innocent"))
        verdict = await turn.extract(self.Verdict, turn.message.text)
        thought = await turn.generate("think", sampling=Sampling(max_tokens=5))
        await turn.say(f"{word}, {verdict.years} years: {thought}")


class Broken(Skill):
    """Fall over."""

    name = "broken"
    examples = ("fall over", "break down")

    async def answer(self, turn: Turn) -> None:
        await turn.say("So far, ")
        raise LookupError("a bug with a secret: hunter2")


class Biographer(Skill):
    """Write with the history, and ask in between."""

    name = "biographer"
    examples = ("write my biography", "tell my life")

    async def answer(self, turn: Turn) -> None:
        seen = " ".join(line.text for line in turn.history)
        await turn.stream(f"Begin after: {seen}", history=turn.history)
        place = await turn.ask("And then?")
        await turn.stream(f"Go on in {place}", history=turn.history)


class Concierge(Skill):
    """Remember what people like."""

    name = "concierge"
    examples = ("I like the window", "remember my seat")

    async def answer(self, turn: Turn) -> None:
        await turn.say(f"Until now: {await turn.recall('seat') or 'nothing'}.")
        await turn.remember("seat", turn.message.text)


class Printer(Skill):
    """Print something."""

    name = "printer"
    examples = ("print it", "put it on paper")

    async def answer(self, turn: Turn) -> None:
        await turn.call_tool("print")
