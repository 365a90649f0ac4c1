"""Agent plugin: a skill whose model carries out a plan that depends on the message alone, and tools
that log their effects outside of the server."""

import asyncio
import contextlib
import json
import os
import random
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.proofs.reference_plugin import LAMP, NoSettings, PacedSettings, random_words

from palaver import Backend, OutcomeUnknown, Skill, Tool, ToolContext, Turn, hookimpl, tool
from palaver.engine import ChatMessage, Engine, GenerationRequest
from palaver.hooks import BuildContext
from palaver.knowledge import KnowledgeBase
from palaver.testing import ListKnowledge, ScriptedEngine, ScriptedReply, tool_call
from palaver.turns.tool_calls import describe_failure
from palaver.turns.tool_results import present_result

ToolName = Literal["deposit", "book", "stamp", "errand"]
ONCE: tuple[ToolName, ...] = ("deposit", "book")
"""Tools that must not run twice: ``book`` runs beside others. ``stamp`` may, with the same call."""
MAX_SECONDS = 0.05
"""Seconds that a tool takes before its effect, and after it."""
UNKNOWN = describe_failure(OutcomeUnknown())
WRONG = "WRONG"


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """Call of a plan. ``key`` identifies its effect."""

    tool: ToolName
    key: str


@dataclass(frozen=True, slots=True)
class PlannedStep:
    text: str
    calls: tuple[PlannedCall, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """3 to 8 steps, and the answer after them."""

    steps: tuple[PlannedStep, ...]
    answer: str

    @classmethod
    def of(cls, task: str) -> "Plan":
        rng = random.Random(task)
        steps = tuple(_plan_step(task, number, rng) for number in range(rng.randint(3, 8)))
        return cls(steps, random_words(f"answer {task}", 4, 10).strip())

    @property
    def reply(self) -> str:
        """Return the whole reply."""
        texts = [*(step.text for step in self.steps), self.answer]
        return "\n\n".join(filter(None, texts))

    @property
    def effects(self) -> Iterator[PlannedCall]:
        """Yield the calls with an effect, those of the skill too."""
        for step in self.steps:
            for call in step.calls:
                yield PlannedCall("deposit", call.key) if call.tool == "errand" else call


def _plan_step(task: str, number: int, rng: random.Random) -> PlannedStep:
    text = random_words(f"{task} {number}", 1, 4).strip() if rng.random() < 0.5 else ""
    names: Sequence[ToolName] = ("deposit", "book", "book", "stamp", "stamp", "errand")
    calls = [
        PlannedCall(rng.choice(names), f"{task}#{number}#{position}")
        for position in range(rng.choice((1, 1, 2, 3)))
    ]
    return PlannedStep(text, tuple(calls))


class Task(Skill):
    """Carry out a plan."""

    name = "task"
    examples = ("carry out the plan",)

    async def answer(self, turn: Turn) -> None:
        await turn.run(turn.message.text, tools=["deposit", "book", "stamp", "errand"])


class Errand(Skill):
    """Make a deposit, and say so."""

    name = "errand"
    examples = ("run an errand",)

    async def answer(self, turn: Turn) -> None:
        key = turn.message.text
        await turn.generate(f"before {key}")
        with contextlib.suppress(OutcomeUnknown):
            await turn.call_tool("deposit", key=key, nonce="errand")
        await turn.generate(f"after {key}")
        await turn.say(_result(key))


def make_tools(path: Path, *, all_idempotent: bool = False) -> list[Tool]:
    """Return the tools. Each effect appends a line to the file at ``path``: the tool, the key and
    the id of the call. ``all_idempotent``: a wrong declaration."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    rng = random.Random()

    async def act(name: ToolName, key: str, context: ToolContext) -> str:
        await asyncio.sleep(rng.uniform(0, MAX_SECONDS))
        os.write(file, f"{name} {key} {context.call}\n".encode())
        await asyncio.sleep(rng.uniform(0, MAX_SECONDS))
        return _result(key)

    @tool(idempotent=all_idempotent)
    async def deposit(key: str, nonce: str, context: ToolContext) -> str:
        """Deposit money."""
        return await act("deposit", key, context)

    @tool(idempotent=all_idempotent, parallel=True)
    async def book(key: str, nonce: str, context: ToolContext) -> str:
        """Book a seat."""
        return await act("book", key, context)

    @tool(idempotent=True, parallel=True)
    async def stamp(key: str, nonce: str, context: ToolContext) -> str:
        """Stamp a letter."""
        return await act("stamp", key, context)

    return [deposit, book, stamp]


def _result(key: str) -> str:
    return f"done {key}"


def _script(request: GenerationRequest) -> ScriptedReply:
    """Return the next step of the plan. A model of its own mind: the arguments differ each time."""
    task = next(message.content for message in request.messages if message.role == "user")
    if not request.tools:
        return ScriptedReply(text=random_words(task, 1, 3).strip())
    plan = Plan.of(task)
    done = [message for message in request.messages if message.tool_calls]
    if problem := _find_problem(plan, done, request.messages):
        return ScriptedReply(text=f"{WRONG}: {problem}")
    if len(done) == len(plan.steps):
        return ScriptedReply(text=plan.answer)
    step = plan.steps[len(done)]
    calls = [
        tool_call("errand", text=call.key)
        if call.tool == "errand"
        else tool_call(call.tool, key=call.key, nonce=uuid.uuid4().hex)
        for call in step.calls
    ]
    return ScriptedReply(text=step.text, tool_calls=tuple(calls))


def _find_problem(plan: Plan, done: Sequence[ChatMessage], messages: Sequence[ChatMessage]) -> str:
    """Return what is wrong with the steps that the model sees, or ""."""
    results = {it.tool_call_id: it.content for it in messages if it.role == "tool"}
    for step, message in zip(plan.steps, done, strict=False):
        keys = [_key_of(call.arguments) for call in message.tool_calls]
        if keys != [call.key for call in step.calls]:
            return f"the step has the calls {keys}"
        for call, key in zip(message.tool_calls, keys, strict=True):
            allowed = [present_result(text) for text in (_result(key), UNKNOWN)]
            if results.get(call.id) not in allowed:
                return f"{key} has the result {results.get(call.id)!r}"
    return ""


def _key_of(arguments: str) -> str:
    values = json.loads(arguments)
    return str(values.get("key") or values["text"])


def _build_engine(settings: PacedSettings, build_context: BuildContext) -> Engine:
    return ScriptedEngine(_script, seconds_per_token=settings.pace, slots=1_000)


def _build_knowledge(settings: NoSettings, build_context: BuildContext) -> KnowledgeBase:
    return ListKnowledge(LAMP)


@hookimpl
def palaver_register_skills() -> Iterable[type[Skill]]:
    return [Task, Errand]


@hookimpl
def palaver_register_engines() -> Iterable[Backend[Engine]]:
    return [Backend(name="paced", settings=PacedSettings, build=_build_engine)]


@hookimpl
def palaver_register_knowledge() -> Iterable[Backend[KnowledgeBase]]:
    return [Backend(name="list", settings=NoSettings, build=_build_knowledge)]
