"""A channel that cannot work keeps only itself from running."""

import asyncio
import importlib.metadata
import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from tests.server.config import settings_plugin

from palaver import Backend, PluginSettings, Secret, hookimpl, public
from palaver.app import build_server
from palaver.channels import Channel, ConversationService
from palaver.config.settings import Settings
from palaver.errors import ConfigurationError
from palaver.plugins import load_plugins
from palaver.server import Server
from palaver.web.listener import listening


class LampSettings(PluginSettings):
    token: Secret
    """What opens it."""
    url: str = ""
    """Where it is."""


class Lamp:
    """A channel whose URL says what is wrong with it."""

    def __init__(self, settings: LampSettings) -> None:
        self.url = settings.url
        self.problem = ""
        if self.url == "build":
            raise ConfigurationError("channels.lamp.url: 'build' is no URL")
        if self.url == "no library when it is built":
            raise ModuleNotFoundError("No module named 'lamps'", name="lamps")

    async def start(self, service: ConversationService) -> None:
        if self.url == "start":
            raise ConfigurationError("the lamp refuses the token.\nGet another one.")
        if self.url == "no library":
            raise ModuleNotFoundError("No module named 'lamps'", name="lamps")
        if self.url == "later":
            self.problem = "the bulb is broken"

    async def close(self) -> None: ...

    def routes(self) -> Iterable[web.RouteDef]:
        return (web.get("/lamp", self._switch),)

    @public
    async def _switch(self, request: web.Request) -> web.Response:
        return web.Response()


@hookimpl
def palaver_register_channels() -> Iterable[Backend[Channel]]:
    return [Backend(name="lamp", settings=LampSettings, build=lambda own, _: Lamp(own))]


PLUGINS = load_plugins(
    [
        importlib.metadata.EntryPoint(name, module, "palaver")
        for name, module in (("kit", settings_plugin.__name__), ("lamps", __name__))
    ],
    strict=True,
)


Values = Mapping[str, object]


def build(folder: Path, lamp: Values, enabled: Sequence[str] = ("lamp", "bell")) -> Server:
    tree = {
        "server": {"data": folder, "port": 0},
        "engine": {"use": "echo"},
        "ledger": {"use": "memory"},
        "knowledge": {"use": "list"},
        "channels": {"enabled": enabled, **({"lamp": lamp} if lamp else {})},
    }
    return build_server(Settings.model_validate(tree), PLUGINS)


@asynccontextmanager
async def running(server: Server) -> AsyncIterator[dict[str, int]]:
    """Run a server, and yield the statuses of the channels' routes."""
    async with server, listening(server) as address, ClientSession() as session:
        statuses = {}
        for path in ("lamp", "bell"):
            async with session.get(address + path) as response:
                statuses[path] = response.status
        yield statuses


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMP_TOKEN", "the token of the lamp")


GOOD = {"token": "env:LAMP_TOKEN"}
FAULTS: list[tuple[Values, str]] = [
    ({}, "channels.lamp.token"),
    ({"token": "env:NOT_SET"}, "channels.lamp.token: env:NOT_SET is empty or not set"),
    ({"token": "file:/no/such/file"}, "channels.lamp.token: "),
    ({**GOOD, "url": 5}, "channels.lamp.url"),
    ({**GOOD, "url": "build"}, "channels.lamp.url: 'build' is no URL"),
    ({**GOOD, "url": "start"}, "the lamp refuses the token.; Get another one."),
    (
        {**GOOD, "url": "no library"},
        "a library that the channel needs is not installed: No module named 'lamps'",
    ),
    (
        {**GOOD, "url": "no library when it is built"},
        "a library that the channel needs is not installed: No module named 'lamps'",
    ),
]


@pytest.mark.parametrize(("lamp", "problem"), FAULTS)
async def test_the_rest_of_the_server_runs(
    lamp: Values, problem: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = await asyncio.to_thread(build, tmp_path, lamp)
    async with running(server) as statuses:
        assert statuses == {"lamp": 404, "bell": 200}
        assert server.channel_problem("lamp").startswith(problem)
        assert server.channel_problem("bell") == ""
        metrics = server.metrics.exposition()
        assert b'palaver_channel_up{channel="lamp"} 0.0' in metrics
        assert b'palaver_channel_up{channel="bell"} 1.0' in metrics
        assert not server.readiness()
    lines = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(lines) == 1
    assert lines[0].getMessage().startswith(f"the channel lamp does not run: {problem}")


async def test_a_channel_that_works_runs(tmp_path: Path) -> None:
    server = await asyncio.to_thread(build, tmp_path, GOOD)
    async with running(server) as statuses:
        assert statuses == {"lamp": 200, "bell": 200}
        assert server.channel_problem("lamp") == ""


async def test_what_goes_wrong_later_is_seen(tmp_path: Path) -> None:
    server = await asyncio.to_thread(build, tmp_path, {**GOOD, "url": "later"})
    async with running(server) as statuses:
        assert statuses["lamp"] == 200
        assert server.channel_problem("lamp") == "the bulb is broken"
        assert b'palaver_channel_up{channel="lamp"} 0.0' in server.metrics.exposition()


@pytest.mark.parametrize(
    ("lamp", "enabled", "problem"),
    [
        ({**GOOD, "colour": "red"}, ("lamp",), "unknown key 'channels.lamp.colour'"),
        ({**GOOD, "colour": "red"}, (), "unknown key 'channels.lamp.colour'"),
        (GOOD, ("lamb",), "channels.enabled names 'lamb'; installed are: bell, lamp"),
    ],
)
def test_a_typo_is_refused(
    lamp: Values, enabled: Sequence[str], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        build(tmp_path, lamp, enabled)
    assert str(raised.value).startswith(problem)
