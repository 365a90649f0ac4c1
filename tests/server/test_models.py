"""Several models in one server: each with an engine and a queue of its own."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.server.turns.test_takeover import die, stored

from palaver import ConfigurationError, PluginSettings, Skill, Turn
from palaver.app import build_server
from palaver.checks import check_settings, find_secrets
from palaver.config.loading import load_settings
from palaver.config.settings import Settings
from palaver.engine import EngineInfo, GenerationRequest
from palaver.errors import EngineUnavailable, NotFound, PluginLoadError
from palaver.ledger import HistoryEntry
from palaver.messages import Conversation, Finished, ProgramRequest
from palaver.plugins import check_skill, load_plugins
from palaver.server import Server
from palaver.testing import (
    ListKnowledge,
    MemoryLedger,
    ScriptedEngine,
    ScriptedReply,
    converse,
    tool_call,
)
from palaver.testing.harness import ChatClient

pytestmark = pytest.mark.slow


class Talk(Skill):
    """Talk about anything."""

    name = "talk"

    async def answer(self, turn: Turn) -> None:
        await turn.stream(turn.message.text)


class Code(Skill):
    """Write code."""

    name = "code"

    async def answer(self, turn: Turn) -> None:
        await turn.stream(turn.message.text)


class Both(Skill):
    """Draft with one model and write with another."""

    name = "both"

    async def answer(self, turn: Turn) -> None:
        draft = await turn.generate(turn.message.text)
        turn.use_model("coder")
        await turn.stream(f"improve: {draft}")


class Echo(Skill):
    """Say the message."""

    name = "echo"

    async def answer(self, turn: Turn) -> None:
        await turn.say(turn.message.text)


class Ask(Skill):
    """Let the skill that writes code work."""

    name = "ask"

    async def answer(self, turn: Turn) -> None:
        await turn.run(turn.message.text, tools=["code"])


def settings(**values: Any) -> Settings:
    return Settings.model_validate(
        {
            "routing": {"default": "talk", "consult_engine": False},
            "ledger": {"use": "memory"},
            "engine": {"restart_backoff": 0.01},
            "skills": {"code": {"model": "coder"}},
            **values,
        }
    )


Reply = ScriptedReply | Callable[[GenerationRequest], str]


class Named(ScriptedEngine):
    """A scripted engine with a name of its own, which cannot be reached while ``is_down``."""

    def __init__(self, name: str, *replies: Reply, is_down: bool = False, **values: Any) -> None:
        super().__init__(*(replies or (always("Hello."),)), **values)
        self.name = name
        self.is_down = is_down

    async def start(self) -> EngineInfo:
        if self.is_down:
            raise EngineUnavailable("nobody is there")
        return dataclasses.replace(await super().start(), model=self.name)


def always(text: str) -> Callable[[GenerationRequest], str]:
    return lambda request: text


@pytest.fixture
async def chat() -> AsyncIterator[ChatClient]:
    coder = Named("acme/coder", always("print()"))
    async with converse(
        *(Talk, Code, Both, Echo),
        engine=Named("acme/general"),
        models={"coder": coder},
        settings=settings(),
    ) as client:
        yield client


async def test_a_skill_writes_with_the_model_of_its_settings(chat: ChatClient) -> None:
    assert await chat.say("hi") == "Hello."
    reply = await chat.say("/code something")
    assert (reply, reply.model) == ("print()", "coder")


async def test_the_reply_tells_who_wrote_it(chat: ChatClient) -> None:
    assert (await chat.say("hi")).model == "acme/general"
    assert (await chat.say("/echo hi")).model == ""
    assert (await chat.say("/both hi")).model == "coder"
    snapshot = await chat.server.snapshot(chat.conversation)
    replies = [entry for entry in snapshot.history if entry.role == "assistant"]
    assert [model_of(entry) for entry in replies] == ["acme/general", "", "coder"]


def model_of(entry: HistoryEntry) -> str:
    return entry.model or ""


async def test_a_skill_may_change_the_model(chat: ChatClient) -> None:
    reply = await chat.say("/both hi")
    assert reply == "print()"
    finished = reply.events[-1]
    assert isinstance(finished, Finished)
    assert finished.usage.completion_tokens > 1  # of both models


async def test_a_program_names_the_model(chat: ChatClient) -> None:
    program = ProgramRequest(model="coder")
    reply = await chat.say("hi", skill="@engine", program=program)
    assert (reply, reply.model) == ("print()", "coder")


async def test_an_unknown_model_is_refused_with_the_names_of_all(chat: ChatClient) -> None:
    with pytest.raises(NotFound, match="there is no model 'big'; there are: default, coder"):
        await chat.say("hi", program=ProgramRequest(model="big"))


async def test_a_skill_that_another_one_calls_has_its_own_model() -> None:
    calls = ScriptedReply(tool_calls=(tool_call("code", text="a loop"),))
    async with converse(
        *(Talk, Code, Ask),
        engine=Named("acme/general", calls, ScriptedReply(text="There it is.")),
        models={"coder": Named("acme/coder", always("for x in y:"))},
        settings=settings(),
    ) as chat:
        reply = await chat.say("/ask a loop, please")
        assert reply == "There it is."
        assert reply.tools[-1].result == "for x in y:"
        assert reply.model == "acme/general"


async def test_a_busy_model_does_not_delay_the_others() -> None:
    coder = Named("acme/coder", ScriptedReply(text="for x in y", pause_after=1), slots=1)
    async with converse(
        *(Talk, Code),
        engine=Named("acme/general", slots=1),
        models={"coder": coder},
        settings=settings(),
    ) as chat:
        coding = await chat.send("/code x")
        await chat.recorder.wait_for(coding, text="for")
        metrics = chat.server.metrics.exposition().decode()
        running = 'palaver_scheduler_running{lane="channel",model="%s"} %s\n'
        assert running % ("coder", "1.0") in metrics
        assert running % ("default", "0.0") in metrics
        other = ChatClient(chat.server, Conversation("default", "test", "other"), "bob")
        subscription = await chat.server.subscribe(other.conversation, other.recorder)
        assert await other.say("hi") == "Hello."
        chat.server.unsubscribe(subscription)
        coder.resume()
        assert await chat.reply(coding) == "for x in y"


# Models that fail


async def test_a_model_that_cannot_be_reached_is_started_later() -> None:
    coder = Named("acme/coder", always("print()"), is_down=True)
    async with converse(
        Talk, Code, engine=Named("acme/general"), models={"coder": coder}, settings=settings()
    ) as chat:
        assert await chat.say("hi") == "Hello."
        failed = await chat.say("/code x")
        assert failed.outcome == "failed"
        assert failed.problem is not None
        assert failed.problem.code == "engine_unavailable"
        assert not chat.server.readiness()
        assert 'palaver_engine_up{model="coder"} 0.0' in chat.server.metrics.exposition().decode()
        assert chat.server.models()["coder"] is None
        coder.is_down = False
        async with asyncio.timeout(5):
            while chat.server.models()["coder"] is None:  # noqa: ASYNC110  it starts by itself
                await asyncio.sleep(0.01)
        assert await chat.say("/code x") == "print()"
        assert 'palaver_engine_up{model="coder"} 1.0' in chat.server.metrics.exposition().decode()


async def test_a_server_whose_model_is_wrongly_configured_does_not_start() -> None:
    class Wrong(ScriptedEngine):
        async def start(self) -> EngineInfo:
            raise ConfigurationError("there is no such file")

    chat = converse(Talk, Code, models={"coder": Wrong()}, settings=settings())
    with pytest.raises(ConfigurationError, match="there is no such file"):
        async with chat:
            pass


async def test_a_model_that_crashes_is_restarted_alone() -> None:
    crashing = ScriptedReply(text="for x in y", crash_after=1)
    async with converse(
        *(Talk, Code),
        engine=Named("acme/general"),
        models={"coder": Named("acme/coder", crashing)},
        settings=settings(),
    ) as chat:
        assert await chat.say("/code x") == "for x in y"
        metrics = chat.server.metrics.exposition().decode()
        assert 'palaver_engine_restarts_total{model="coder"} 1.0' in metrics
        assert 'palaver_engine_restarts_total{model="default"} 0.0' in metrics


async def test_the_needs_of_a_skill_are_checked_against_its_own_model() -> None:
    class Choosy(Code):
        """Write code that is chosen."""

        needs = frozenset({"generate", "choice"})

    poor = Named("acme/poor", missing_capabilities=("choice",))
    async with converse(
        Talk, Choosy, engine=poor, models={"coder": Named("c")}, settings=settings()
    ):
        pass
    refused = converse(Talk, Choosy, engine=Named("g"), models={"coder": poor}, settings=settings())
    with pytest.raises(
        ConfigurationError, match="skill 'code' needs an engine with choice; 'coder'"
    ):
        async with refused:
            pass


async def test_a_takeover_continues_with_the_same_model() -> None:
    """Also where the settings of the other server bind the skill to another model."""
    ledger = MemoryLedger()
    text = "one two three four"
    conversation = Conversation("default", "test", "main")
    first = Named("acme/coder", ScriptedReply(text=text, pause_after=2))
    second = Named("acme/coder", ScriptedReply(text=text))
    elsewhere = Named("acme/other", ScriptedReply(text="something else"))
    async with replica(ledger, {"coder": first}, "coder") as dying:
        chat = ChatClient(dying, conversation, "alice")
        subscription = await dying.subscribe(conversation, chat.recorder)
        turn = await chat.send("/code go")
        await chat.recorder.wait_for(turn, text="one two")
        await stored(dying, turn, "one two")
        await die(dying)
        dying.unsubscribe(subscription)
    async with replica(ledger, {"coder": second, "other": elsewhere}, "other") as heir:
        chat = ChatClient(heir, conversation, "alice")
        subscription = await heir.subscribe(conversation, chat.recorder)
        reply = await chat.reply(turn)
        assert (reply, reply.model) == (text, "coder")
        assert second.requests[-1].partial == "one two"
        assert (await chat.say("/code go on")).model == "other"
        heir.unsubscribe(subscription)


async def test_a_takeover_by_a_server_without_the_model_uses_the_one_of_its_settings() -> None:
    ledger = MemoryLedger()
    conversation = Conversation("default", "test", "main")
    first = Named("acme/coder", ScriptedReply(text="one two three four", pause_after=2))
    other = Named("acme/other", ScriptedReply(text="one two five six"))
    async with replica(ledger, {"coder": first}, "coder") as dying:
        chat = ChatClient(dying, conversation, "alice")
        subscription = await dying.subscribe(conversation, chat.recorder)
        turn = await chat.send("/code go")
        await stored(dying, turn, "one two")
        await die(dying)
        dying.unsubscribe(subscription)
    async with replica(ledger, {"other": other}, "other") as heir:
        chat = ChatClient(heir, conversation, "alice")
        subscription = await heir.subscribe(conversation, chat.recorder)
        reply = await chat.reply(turn)
        assert (reply, reply.model) == ("one two five six", "other")
        heir.unsubscribe(subscription)


def replica(ledger: MemoryLedger, models: dict[str, Named], of_code: str) -> Server:
    return Server(
        settings(skills={"code": {"model": of_code}}, dispatch={"lease": 0.5}),
        ledger=ledger,
        engine=Named("acme/general"),
        models=models,
        knowledge=ListKnowledge(),
        skills={"talk": Talk(), "code": Code()},
    )


# Settings


def load(tmp_path: Path, text: str) -> Settings:
    file = tmp_path / "palaver.toml"
    file.write_text(text)
    return load_settings(file, {})


CODER = """
[engine.models.coder]
use = "openai"
urls = ["http://127.0.0.1:1/v1"]
api_key = "env:NO_SUCH_KEY"
"""


def test_a_model_has_the_settings_of_its_engine(tmp_path: Path) -> None:
    chosen = load(tmp_path, CODER)
    key = next(it for it in find_secrets(chosen, load_plugins()) if it.key.endswith("api_key"))
    assert (key.key, key.is_used) == ("engine.models.coder.api_key", True)
    with pytest.raises(ConfigurationError, match=r"engine.models.coder.api_key: env:NO_SUCH_KEY"):
        check_settings(chosen, load_plugins())
    assert "127.0.0.1" not in repr(chosen.engine)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            CODER.replace("urls", "url"),
            r"unknown key 'engine.models.coder.url' \(.*, line 4\); did you mean",
        ),
        (
            '[engine.models.coder]\nuse = "opnai"',
            r"engine.models.coder.use names 'opnai'; installed are: ",
        ),
        ("[engine.models.coder]\nmodel = 'x'", r"engine.models.coder.use must be set"),
        ("[engine.models.default]\nuse = 'openvino'", r"the model 'default' needs a name"),
        (
            "[engine.models.chat]\nuse = 'openvino'",
            r"engine.models.chat has the name of a skill; give the model another name",
        ),
        (
            "[skills.codegen]\nmodel = 'coder'",
            r"skills.codegen.model names 'coder'; the models of the settings are: default",
        ),
        ("[skills.codegen]\nmodel = 3", r"codegen.model must be the name of a model"),
    ],
)
def test_a_mistake_is_named_at_the_start(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        check_settings(load(tmp_path, text), load_plugins())


def test_every_skill_can_be_bound_to_a_model(tmp_path: Path) -> None:
    text = "[engine.models.small]\nuse = 'openvino'\n[skills.chat]\nmodel = 'small'\n"
    server = build_server(
        load(tmp_path, f"{text}temperature = 0.5\n[server]\ndata = '{tmp_path / 'data'}'")
    )
    assert server.settings.models_of_skills == {"chat": "small"}


def test_a_skill_may_not_have_a_setting_of_this_name() -> None:
    class Own(Code):
        """Write code."""

        class Settings(PluginSettings):
            model: str = ""
            """Which."""

    with pytest.raises(PluginLoadError, match="its Settings have 'model', a key that every skill"):
        check_skill(Own)
