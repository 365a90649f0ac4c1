"""Reference plugin: a skill with a reply that depends on the message alone, and an engine.

The skill uses every verb of a turn that has an effect, so a replay that repeats or omits one of
them changes the reply.
"""

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


def random_words(seed: str, fewest: int, most: int) -> str:
    """Return words that depend on ``seed`` alone."""
    rng = random.Random(seed)
    return "".join(f"{rng.choice(WORDS)} " for _ in range(rng.randint(fewest, most)))


def generated_text(prompt: str) -> str:
    """Return the text that the engine generates for a prompt."""
    if prompt.startswith("coda "):
        return random_words(prompt, 2, 4)
    return random_words(prompt, 8, 16)


def reply_to(text: str) -> str:
    """Return the whole reply of the skill to a message."""
    coda = generated_text(f"coda {text}")
    return f"To {text!r}: {generated_text(text)}[{LAMP.title}; {text}] {coda}"


class ReferenceSkill(Skill):
    """Say, search, remember, generate, call a tool, recall and forget."""

    name = "reference"
    examples = ("what did you see", "tell us")

    async def answer(self, turn: Turn) -> None:
        text, thread = turn.message.text, turn.message.conversation.thread
        await turn.say(f"To {text!r}: ")
        (passage,) = await turn.search("lamp", 1)
        await turn.remember(thread, text)
        await turn.stream(text)
        with contextlib.suppress(OutcomeUnknown):
            await turn.call_tool(RING, message=turn.message.id)
        await turn.say(f"[{passage.title}; {await turn.recall(thread)}] ")
        await turn.stream(f"coda {text}")
        await turn.remember(thread, None)  # a person has few memories, and a client many threads


def make_ring_tool(path: Path) -> Tool:
    """Return a tool that must not run twice; each run appends a line to the file at ``path``."""
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
    return generated_text(request.messages[-1].content)


def _build_knowledge(settings: NoSettings, build_context: BuildContext) -> KnowledgeBase:
    return ListKnowledge(LAMP)


@hookimpl
def palaver_register_skills() -> Iterable[type[Skill]]:
    return [ReferenceSkill]


@hookimpl
def palaver_register_engines() -> Iterable[Backend[Engine]]:
    return [Backend(name="paced", settings=PacedSettings, build=_build_engine)]


@hookimpl
def palaver_register_knowledge() -> Iterable[Backend[KnowledgeBase]]:
    return [Backend(name="list", settings=NoSettings, build=_build_knowledge)]
