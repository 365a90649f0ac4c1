"""The plugin of the servers under proof: a skill whose reply follows from the message alone, though
it uses the verbs that have effects, and an engine that speaks at a steady pace."""

import contextlib
import os
import random
from collections.abc import Iterable
from pathlib import Path

from palaver import Backend, OutcomeUnknown, Skill, Tool, Turn, hookimpl, tool
from palaver.config.settings import PluginSettings
from palaver.engine import Engine, GenerationRequest
from palaver.hooks import BuildContext
from palaver.knowledge import Document, KnowledgeBase
from palaver.testing import ListKnowledge, ScriptedEngine

WORDS = (
    "Licht río día naïf 雨 夜 😀 ombre lantern quay gull tide harbour fog bell rope mast".split()
)
LAMP = Document(id="lamp.txt", title="The lamp", text="The lamp turns once in nine seconds.")
RING = "ring"


def words(text: str, fewest: int, most: int) -> str:
    """Words that follow from ``text``, about as many as one says in a second or two."""
    chance = random.Random(text)
    return "".join(f"{chance.choice(WORDS)} " for _ in range(chance.randint(fewest, most)))


def spoken(prompt: str) -> str:
    """What the engine says to a prompt."""
    return words(prompt, 2, 4) if prompt.startswith("coda ") else words(prompt, 8, 16)


def reply_to(text: str) -> str:
    """The whole reply to a message, character by character."""
    return f"To {text!r}: {spoken(text)}[{LAMP.title}; {text}] {spoken(f'coda {text}')}"


class Witness(Skill):
    """Tell what was seen."""

    name = "witness"
    examples = ("what did you see", "tell us")

    async def answer(self, turn: Turn) -> None:
        text, place = turn.message.text, turn.message.conversation.thread
        await turn.say(f"To {text!r}: ")
        (passage,) = await turn.search("lamp", 1)
        await turn.remember(place, text)
        await turn.stream(text)
        with contextlib.suppress(OutcomeUnknown):
            await turn.call_tool(RING, message=turn.message.id)
        await turn.say(f"[{passage.title}; {await turn.recall(place)}] ")
        await turn.stream(f"coda {text}")


def ring_into(path: Path) -> Tool:
    """A tool that must not run twice; each run is a line of the file at ``path``."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    @tool(name=RING)
    async def ring(message: str) -> str:
        """Ring a bell."""
        os.write(file, f"{message}\n".encode())
        return "rung"

    return ring


class PacedSettings(PluginSettings):
    pace: float = 0.06
    """Seconds per word."""


class NoSettings(PluginSettings):
    pass


def _build_engine(settings: PacedSettings, build_context: BuildContext) -> Engine:
    return ScriptedEngine(_script, seconds_per_token=settings.pace, slots=1_000)


def _script(request: GenerationRequest) -> str:
    return spoken(request.messages[-1].content)


def _build_knowledge(settings: NoSettings, build_context: BuildContext) -> KnowledgeBase:
    return ListKnowledge(LAMP)


@hookimpl
def palaver_register_skills() -> Iterable[type[Skill]]:
    return [Witness]


@hookimpl
def palaver_register_engines() -> Iterable[Backend[Engine]]:
    return [Backend(name="paced", settings=PacedSettings, build=_build_engine)]


@hookimpl
def palaver_register_knowledge() -> Iterable[Backend[KnowledgeBase]]:
    return [Backend(name="list", settings=NoSettings, build=_build_knowledge)]
