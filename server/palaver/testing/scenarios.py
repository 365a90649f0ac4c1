"""Scenarios: conversations in files that say what is said, called, asked and answered.

pytest runs each file ``*.scenario.toml``, see `palaver.testing.pytest_plugin`.
"""

import importlib
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pydantic

from palaver.config.settings import Settings
from palaver.engine import Engine, GenerationRequest, ToolCall
from palaver.errors import ConfigurationError
from palaver.knowledge import Document
from palaver.messages import Asked, ToolCalled
from palaver.skills import Skill
from palaver.testing.engine import ScriptedEngine, ScriptedReply, tool_call
from palaver.testing.harness import Reply, converse
from palaver.testing.installed_engine import installed_engine
from palaver.testing.recorded_engine import RecordedEngine
from palaver.tools import Tool
from palaver.turns.approvals import APPROVE, DENY

_OBJECT = re.compile(r"(?P<module>[\w.]+):(?P<name>\w+)")


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class ModelReply(_Part):
    """One generation of the scripted engine: a text, calls of tools, or both."""

    text: str = ""
    calls: tuple["ModelCall", ...] = ()

    def to_scripted(self) -> ScriptedReply:
        calls: list[ToolCall] = [tool_call(each.tool, **each.arguments) for each in self.calls]
        return ScriptedReply(text=self.text, tool_calls=tuple(calls))


class ModelCall(_Part):
    tool: str
    arguments: dict[str, Any] = {}  # JSON values


class ExpectedCall(_Part):
    """A call that the turn makes. What is not given is not compared."""

    tool: str
    arguments: dict[str, Any] | None = None  # JSON values
    state: str = "done"
    result: str | None = None
    """Text that the result holds."""


class ExpectedApproval(_Part):
    """A call that the turn asks the person to approve. What is not given is not compared."""

    tool: str
    arguments: dict[str, Any] | None = None  # JSON values


class ScenarioTurn(_Part):
    """A message, what the scripted engine replies to it, and what is expected of the turn."""

    say: str = ""
    """The message; also the answer to a question. It answers an approval, too: as a denial, unless
    it is ``Approve``."""
    approve: bool | None = None
    """In place of a message: approve the call that waits, or deny it, as the buttons do."""
    skill: str | None = None
    """The skill that the message names."""
    model: tuple[ModelReply, ...] = ()
    calls: tuple[ExpectedCall, ...] | None = None
    """All calls of tools of the turn, in order."""
    text: str | None = None
    """The whole text of the reply."""
    contains: tuple[str, ...] = ()
    """Texts that the reply holds."""
    question: str | None = None
    """Text that the question holds with which the turn ends. Without it and ``approval`` there is
    no question."""
    approval: ExpectedApproval | None = None
    """The call whose approval the turn asks for at its end."""
    citations: tuple[str, ...] | None = None
    """Titles of the reply's citations."""
    outcome: str | None = None
    """Without it: ``asked`` with a question or an approval, else ``done``."""

    @pydantic.model_validator(mode="after")
    def _has_one_message(self) -> Self:
        if bool(self.say) == (self.approve is not None):
            raise ValueError("a turn has either 'say' or 'approve'")
        if self.skill and self.approve is not None:
            raise ValueError("'approve' and 'skill' exclude each other")
        return self

    @property
    def text_to_send(self) -> str:
        return self.say if self.approve is None else (APPROVE if self.approve else DENY)


class Scenario(_Part):
    """One conversation. Objects are named as ``module:name``, paths are relative to the file."""

    description: str = ""
    skills: tuple[str, ...]
    tools: tuple[str, ...] = ()
    documents: dict[str, str] = {}
    """Texts of the knowledge base by title."""
    recording: str = ""
    """File of a `RecordedEngine`; without it, the turns say what the model replies."""
    settings: dict[str, Any] = {}  # TOML values
    """Settings of the server; ``engine`` is for recording."""
    skill_settings: dict[str, Any] = {}  # TOML values
    turns: tuple[ScenarioTurn, ...] = pydantic.Field(min_length=1)

    @pydantic.model_validator(mode="after")
    def _has_one_engine(self) -> Self:
        if self.recording and any(turn.model for turn in self.turns):
            raise ValueError("'recording' and the 'model' of a turn exclude each other")
        return self


def load_scenario(path: Path) -> Scenario:
    """Read a scenario. Raises `ConfigurationError` that names what is wrong."""
    try:
        return Scenario.model_validate(tomllib.loads(path.read_text("utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{path.name}: {error}") from error
    except pydantic.ValidationError as error:
        problems = [f"{_location(each['loc'])}: {each['msg']}" for each in error.errors()]
        raise ConfigurationError(f"{path.name}: {'; '.join(problems)}") from error


def _location(keys: tuple[int | str, ...]) -> str:
    return ".".join(map(str, keys)) or "the file"


async def run_scenario(scenario: Scenario, folder: Path) -> None:
    """Talk as the scenario says. ``folder`` is that of its file.

    Raises `AssertionError` that names the turn and what differs, and `ConfigurationError`.
    """
    engine = _make_engine(scenario, folder)
    skills = [_find(name, type) for name in scenario.skills]
    async with converse(
        *skills,
        engine=engine,
        tools=[_find(name, Tool) for name in scenario.tools],
        knowledge=[
            Document(id=title, title=title, text=text) for title, text in scenario.documents.items()
        ],
        settings=_make_settings(scenario, skills) if scenario.settings else None,
        skill_settings=scenario.skill_settings,
    ) as chat:
        question: Asked | None = None
        for number, turn in enumerate(scenario.turns, 1):
            place = f"turn {number}, {turn.text_to_send!r}"
            reply = await chat.say(turn.text_to_send, **_fields_of(turn, question, place))
            question = reply.question
            if problems := "\n  ".join(_find_problems(turn, reply)):
                raise AssertionError(f"{place}:\n  {problems}")
    if isinstance(engine, _TurnEngine):
        engine.check_used()


def _make_settings(scenario: Scenario, skills: list[type[Skill]]) -> Settings:
    defaults = {"routing": {"default": skills[0].name, "consult_engine": False}}
    try:
        return Settings.model_validate({**defaults, **scenario.settings})
    except pydantic.ValidationError as error:
        raise ConfigurationError(f"settings: {error}") from error


def _find(name: str, kind: type[Any]) -> Any:
    """Return an object named as ``module:name``. Raises `ConfigurationError`."""
    match = _OBJECT.fullmatch(name)
    try:
        found = getattr(importlib.import_module(match["module"]), match["name"]) if match else None
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"{name!r} cannot be imported: {error}") from error
    if not isinstance(found, kind):
        raise ConfigurationError(f"{name!r} is not a {kind.__name__}, named as 'module:name'")
    return found


# Engines


class _TurnEngine(ScriptedEngine):
    """Scripted engine that replies as the turns of a scenario say."""

    def __init__(self, scenario: Scenario) -> None:
        self._left = [reply for turn in scenario.turns for reply in turn.model]
        super().__init__(self._next)

    def _next(self, request: GenerationRequest) -> ScriptedReply:
        if not self._left:
            raise AssertionError(
                f"the model is asked once more than the scenario has replies: "
                f"{request.messages[-1].content[:200]!r}"
            )
        return self._left.pop(0).to_scripted()

    def check_used(self) -> None:
        if self._left:
            raise AssertionError(f"{len(self._left)} replies of the model were not asked for")


def _make_engine(scenario: Scenario, folder: Path) -> Engine:
    if not scenario.recording:
        return _TurnEngine(scenario)
    engine = scenario.settings.get("engine", {})
    return RecordedEngine(
        folder / scenario.recording,
        lambda: installed_engine(Settings.model_validate({"engine": engine})),
    )


# Turns


def _fields_of(turn: ScenarioTurn, question: Asked | None, place: str) -> dict[str, str]:
    """Return further fields of the turn's message, which may answer ``question``."""
    if turn.approve is None:
        return {"skill": turn.skill} if turn.skill else {}
    if question is None or not question.approval:
        raise AssertionError(f"{place}: the turn before asks for no approval")
    return {"answers": question.approval.id}


def _find_problems(turn: ScenarioTurn, reply: Reply) -> Iterator[str]:
    asks = turn.question is not None or turn.approval is not None
    outcome = turn.outcome or ("asked" if asks else "done")
    if reply.outcome != outcome:
        reason = f": {reply.problem.message}" if reply.problem else ""
        yield f"outcome: expected {outcome!r}, got {reply.outcome!r}{reason}"
    if turn.calls is not None:
        yield from _compare_calls(turn.calls, reply)
    if turn.text is not None and reply != turn.text:
        yield f"text: expected {turn.text!r}, got {str(reply)!r}"
    for text in turn.contains:
        if text not in reply:
            yield f"text: expected {text!r} in {str(reply)!r}"
    question = reply.question.question if reply.question else ""
    if (turn.question or "") not in question or (question and not asks):
        yield f"question: expected {turn.question!r}, got {question!r}"
    if turn.approval is not None:
        yield from _compare_approval(turn.approval, reply.question)
    titles = tuple(citation.title for citation in reply.citations)
    if turn.citations is not None and titles != turn.citations:
        yield f"citations: expected {list(turn.citations)}, got {list(titles)}"


def _compare_approval(expected: ExpectedApproval, question: Asked | None) -> Iterator[str]:
    got = question.approval if question else None
    if not got:
        yield f"approval: expected one of {expected.tool!r}, got none"
    elif got.tool != expected.tool:
        yield f"approval: expected one of {expected.tool!r}, got one of {got.tool!r}"
    elif expected.arguments is not None and got.arguments != expected.arguments:
        wanted, had = (
            json.dumps(each, ensure_ascii=False) for each in (expected.arguments, got.arguments)
        )
        yield f"approval: expected the arguments {wanted}, got {had}"


def _compare_calls(expected: tuple[ExpectedCall, ...], reply: Reply) -> Iterator[str]:
    events = [event for event in reply.events if isinstance(event, ToolCalled)]
    made = list({event.call: event for event in events}.values())
    for number, (wanted, got) in enumerate(zip(expected, made, strict=False), 1):
        place = f"call {number}"
        if got.name != wanted.tool:
            yield f"{place}: expected the tool {wanted.tool!r}, got {_describe(got)}"
            continue
        if wanted.arguments is not None and got.arguments != wanted.arguments:
            arguments = json.dumps(wanted.arguments, ensure_ascii=False)
            yield f"{place}: expected the arguments {arguments}, got {_describe(got)}"
        if got.state != wanted.state:
            yield f"{place}: expected {wanted.state!r}, got {_describe(got)}"
        if wanted.result is not None and wanted.result not in got.result:
            yield f"{place}: expected {wanted.result!r} in the result, got {_describe(got)}"
    for wanted in expected[len(made) :]:
        yield f"calls: {wanted.tool!r} was not called"
    for got in made[len(expected) :]:
        yield f"calls: not expected: {_describe(got)}"


def _describe(event: ToolCalled) -> str:
    arguments = json.dumps(event.arguments, ensure_ascii=False)
    return f"{event.name}({arguments}) {event.state}: {event.result[:200]!r}"
