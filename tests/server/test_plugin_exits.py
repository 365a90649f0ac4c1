"""A plugin that tries to end the process: it is named, and nothing else ends."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pydantic
import pytest
from tests.server.web.live_server import Parrot, open_live_server

from palaver import Skill, Turn, requires, tool
from palaver.app import BackendBuilder
from palaver.config.settings import RoutingSettings, Settings
from palaver.engine import Generation, GenerationRequest, OnText
from palaver.engines.boundary import EngineBoundary
from palaver.engines.supervised import SupervisedEngine
from palaver.errors import PluginError
from palaver.hooks import Backend
from palaver.metrics import Metrics
from palaver.plugins import PluginInfo, PluginRegistry, load_plugins
from palaver.testing import MemoryLedger, ScriptedEngine, converse


class Impatient(KeyboardInterrupt):
    """A KeyboardInterrupt that nobody has typed."""


class Odd(BaseException):
    """An error of nobody's kind."""


ENDINGS: list[Callable[[], BaseException]] = [
    lambda: SystemExit(3),
    lambda: Impatient("too slow"),
    lambda: Odd("odd"),
    lambda: GeneratorExit(),
    lambda: asyncio.CancelledError("of another task"),
]
each_ending = pytest.mark.parametrize(
    "make_error", ENDINGS, ids=["exit", "interrupt", "odd", "generator", "cancelled"]
)


class Quitting:
    """A channel, ledger or engine whose start raises an error."""

    def __init__(self, make_error: Callable[[], BaseException]) -> None:
        self.make_error = make_error
        self.closed = False

    async def start(self, service: object = None) -> Any:
        raise self.make_error()

    async def close(self) -> None:
        self.closed = True

    def routes(self) -> Any:
        return ()


@each_ending
async def test_a_channel_that_ends_the_process_at_its_start_is_named(
    make_error: Callable[[], BaseException],
) -> None:
    channel, ledger = Quitting(make_error), MemoryLedger()
    with pytest.raises(PluginError, match=r"channel .*test_plugin_exits\.Quitting tried to end"):
        async with open_live_server(channels=(channel,), ledger=ledger):
            pass
    assert channel.closed


@each_ending
@pytest.mark.parametrize("part", ["ledger", "engine"])
async def test_a_part_that_ends_the_process_at_its_start_is_named(
    make_error: Callable[[], BaseException], part: str
) -> None:
    quitting: Any = Quitting(make_error)
    with pytest.raises(PluginError, match=rf"{part} .*test_plugin_exits\.Quitting tried to end"):
        async with open_live_server(**{part: quitting}):
            pass
    assert quitting.closed


@each_ending
async def test_an_engine_that_ends_the_process_at_a_restart_is_restarted(
    make_error: Callable[[], BaseException],
) -> None:
    quitting: Any = Quitting(make_error)
    supervised = SupervisedEngine(EngineBoundary(quitting), Settings().engine, Metrics().of_model())
    assert await supervised._restart(0) is False
    assert "tried to end the process" in supervised.problem


class Routeless(Quitting):
    """A channel that raises an error instead of its routes."""

    async def start(self, service: object = None) -> None: ...

    def routes(self) -> Any:
        raise self.make_error()


@each_ending
async def test_a_channel_that_ends_the_process_instead_of_its_routes_is_named(
    make_error: Callable[[], BaseException],
) -> None:
    with pytest.raises(PluginError, match=r"channel .*test_plugin_exits\.Routeless tried to end"):
        async with open_live_server(channels=(Routeless(make_error),)):
            pass


class Lingering(Quitting):
    """A channel or ledger that raises an error when it is closed."""

    async def start(self, service: object = None) -> None: ...

    async def close(self) -> None:
        await super().close()
        raise self.make_error()


@each_ending
async def test_a_channel_that_ends_the_process_when_it_is_closed_is_named(
    make_error: Callable[[], BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = Lingering(make_error), Lingering(make_error)
    async with open_live_server(channels=(first, second)) as live_server:
        assert (await live_server.get("/v1/skills"))[0] == 200
    assert first.closed
    assert second.closed
    assert caplog.text.count("Lingering tried to end the process") == 2


class FalteringEngine(ScriptedEngine):
    """An engine that tries to end the process when it generates."""

    def __init__(self, make_error: Callable[[], BaseException]) -> None:
        super().__init__("fine")
        self._make_error: Callable[[], BaseException] | None = make_error

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        if self._make_error is not None:
            raise self._make_error()
        return await super().generate(request, on_text)

    def recover(self) -> None:
        self._make_error = None


@each_ending
async def test_an_engine_that_ends_the_process_while_it_generates_fails_alone(
    make_error: Callable[[], BaseException],
) -> None:
    engine = FalteringEngine(make_error)
    supervised = SupervisedEngine(EngineBoundary(engine), Settings().engine, Metrics().of_model())
    await supervised.start()
    assert "PluginError" in await supervised._probe()
    engine.recover()
    assert await supervised._probe() == ""
    await supervised.close()


async def test_an_ordinary_error_at_a_start_keeps_its_kind_and_names_the_part() -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        async with open_live_server(channels=(Quitting(lambda: ZeroDivisionError("no")),)):
            pass
    (note,) = raised.value.__notes__
    assert note.endswith("test_plugin_exits.Quitting")


class Settingless(Skill):
    """Never begin."""

    name = "settingless"

    def __init__(self, settings: Any = None) -> None:
        sys.exit(4)


def registry_with(**changes: Any) -> PluginRegistry:
    registry = load_plugins([])
    fields = {name: getattr(registry, name) for name in registry.__dataclass_fields__}
    return PluginRegistry(**{**fields, **changes})


def exit_at_once(*_: object) -> Any:
    sys.exit("no licence")


def test_a_plugin_that_ends_the_process_when_a_part_is_built_is_named() -> None:
    plugin = PluginInfo("odd_one", "odd-package", "1.0")
    backend = Backend(name="odd", settings=Settingless.Settings, build=exit_at_once)
    registry = registry_with(
        channels={"odd": backend},
        ledgers={"odd": backend},
        skills={"settingless": Settingless},
        owners={("channels", "odd"): plugin, ("ledgers", "odd"): plugin,
                ("skills", "settingless"): plugin},
    )  # fmt: skip
    settings = Settings.model_validate({"ledger": {"use": "odd"}, "channels": {"enabled": ["odd"]}})
    builder = BackendBuilder(settings, registry)
    for build, part in (
        (builder.channels, "channel 'odd'"),
        (builder.ledger, "ledger 'odd'"),
        (builder.skills, "skill 'settingless'"),
    ):
        with pytest.raises(
            PluginError, match=rf"{part} of the plugin odd_one \(odd-package 1\.0\)"
        ):
            build()


# While the server runs


class Quitter(Skill):
    """End the process."""

    name = "quitter"
    make_error: Callable[[], BaseException]

    async def answer(self, turn: Turn) -> None:
        raise type(self).make_error()


class Operator(Skill):
    """Call a tool that ends the process."""

    name = "operator"

    async def answer(self, turn: Turn) -> None:
        try:
            await turn.call_tool("quit")
        except PluginError as error:
            await turn.say(str(error))


@tool
async def quit() -> str:
    """End the process."""
    sys.exit(5)


class Guard:
    """An interceptor that ends the process."""

    async def intercept(
        self, turn: Turn[pydantic.BaseModel], call_next: Callable[[], Awaitable[None]]
    ) -> None:
        if "guard" in turn.message.text:
            raise Odd("secret words")
        await call_next()


ROUTING = Settings(routing=RoutingSettings(default="parrot", threshold=1, consult_engine=False))


@each_ending
async def test_a_skill_that_ends_the_process_fails_its_turn_alone(
    make_error: Callable[[], BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    Quitter.make_error = staticmethod(make_error)
    async with converse(
        Parrot, Quitter, Operator, tools=[quit], interceptors=[Guard()], settings=ROUTING
    ) as chat:
        assert (await chat.say("/quitter go")).outcome == "failed"
        assert (await chat.say("guard")).outcome == "failed"
        assert "tool 'quit' tried to end the process" in await chat.say("/operator go")
        assert (await chat.say("still here")).strip() == "still here"
    assert "secret words" not in caplog.text


class Gateway(Quitting):
    """A channel whose handler ends the process."""

    async def start(self, service: object = None) -> None: ...

    def routes(self) -> Any:
        from aiohttp import web

        return (web.get("/gateway", self._handle),)

    @requires("talk")
    async def _handle(self, request: object) -> Any:
        raise self.make_error()


@each_ending
async def test_a_handler_that_ends_the_process_fails_its_request_alone(
    make_error: Callable[[], BaseException],
) -> None:
    async with open_live_server(channels=(Gateway(make_error),)) as live_server:
        status, answer = await live_server.get("/gateway")
        assert (status, answer["error"]["code"]) == (500, "internal")
        assert (await live_server.get("/v1/skills"))[0] == 200
