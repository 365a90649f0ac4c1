"""A chosen model is tried with a real generation; what answers is written down, nothing else is."""

import asyncio
import json
import stat
import tomllib
from pathlib import Path

import pytest
from tests.model_servers import ModelServer, model_server, raw_server
from tests.plugins.engines.gguf_models import write_gguf
from tests.ports import free_port
from tests.server.models.copies import copy_starter

from palaver.cli.connecting import Connector
from palaver.errors import PalaverError
from palaver.models.choices import (
    AddedChoice,
    Launch,
    PathChoice,
    ServerChoice,
    SetupChoice,
    SetupProgress,
)
from palaver.models.registry import ModelRegistry
from palaver.plugins import PluginRegistry, load_plugins

pytestmark = pytest.mark.slow

BEFORE = """\
# my server
[server]
port = 7000  # not the default

[engine.openai]
urls = ["http://old.example/v1"]  # the old one
context_window = 100_000
api_key = "env:OLD_KEY"
read_timeout = 60.0
"""


class Setup:
    """A settings file and a data directory, and what was reported."""

    def __init__(self, folder: Path, plugins: PluginRegistry) -> None:
        self.file = folder / "palaver.toml"
        self.data = folder / "data"
        self.reports: list[SetupProgress] = []
        self._plugins = plugins

    async def connect(self, choice: SetupChoice, *overrides: str) -> str:
        overrides = (f"server.data={json.dumps(str(self.data))}", *overrides)
        launch = Launch(settings_file=str(self.file), overrides=overrides)

        def connect() -> str:
            connector = Connector(launch, self.reports.append, self._plugins)
            name = connector.connect(choice)
            connector.remove_old_key()
            return name

        return await asyncio.to_thread(connect)

    async def refusal(self, choice: SetupChoice, *overrides: str) -> str:
        """Return why a model is not connected; check that nothing is written."""
        before = self.file.read_bytes() if self.file.exists() else None
        with pytest.raises(PalaverError) as caught:
            await self.connect(choice, *overrides)
        assert (self.file.read_bytes() if self.file.exists() else None) == before
        assert self.keys() == []
        assert await self.models() == {"starter"}
        return str(caught.value)

    def keys(self) -> list[Path]:
        return list((self.data / "keys").glob("*"))

    async def models(self) -> set[str]:
        return set(await asyncio.to_thread(lambda: ModelRegistry(self.data).models()))

    async def current(self) -> Path:
        """Return the directory of the current model."""
        return await asyncio.to_thread(lambda: ModelRegistry(self.data).resolve())

    def settings(self) -> dict[str, object]:
        return tomllib.loads(self.file.read_text())


@pytest.fixture(scope="module")
def plugins() -> PluginRegistry:
    return load_plugins()


@pytest.fixture
def setup(tmp_path: Path, plugins: PluginRegistry) -> Setup:
    return Setup(tmp_path, plugins)


def at(server: ModelServer, model: str = "", key: str = "") -> ServerChoice:
    return ServerChoice(url=server.url, model=model, key=key)


# A server


async def test_a_model_of_a_server_is_written_into_a_new_file(setup: Setup) -> None:
    async with model_server("walker") as server:
        assert await setup.connect(at(server)) == "walker"
    openai = {"urls": [server.url], "model": "walker"}
    assert setup.settings() == {"engine": {"use": "openai", "openai": openai}}
    assert stat.S_IMODE(setup.file.stat().st_mode) == 0o600
    assert [report.step for report in setup.reports] == ["checking", "checking"]


async def test_a_persons_file_keeps_what_is_about_something_else(setup: Setup) -> None:
    setup.file.write_text(BEFORE)
    async with model_server("walker", "talker") as server:
        await setup.connect(at(server, "talker"))
    text = setup.file.read_text()
    assert text.startswith("# my server\n[server]\nport = 7000  # not the default\n")
    assert setup.settings()["engine"] == {
        "use": "openai",
        "openai": {"urls": [server.url], "model": "talker", "read_timeout": 60.0},
    }


async def test_a_key_is_a_private_file_and_replaces_the_key_before(setup: Setup) -> None:
    async with model_server("walker", key="first-key") as server:
        await setup.connect(at(server, key="first-key"))
        server.key = "second-key"
        await setup.connect(at(server, key="second-key"))
        assert server.authorizations == {"Bearer first-key", "Bearer second-key"}
    (file,) = setup.keys()
    assert file.read_text() == "second-key\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "-key" not in setup.file.read_text()
    assert f'api_key = "file:{file}"' in setup.file.read_text()
    async with model_server("walker") as open_server:
        await setup.connect(at(open_server))
        assert open_server.authorizations == {None}
    assert setup.keys() == []


async def test_why_a_server_does_not_answer_is_one_sentence(setup: Setup) -> None:
    closed = f"http://127.0.0.1:{free_port()}/v1"
    sentence = await setup.refusal(ServerChoice(url=closed, model="m"))
    assert sentence.startswith(f"no model server can be reached at {closed}")
    async with model_server("walker", "talker", key="right") as server:
        assert "asks for a key" in await setup.refusal(at(server, "walker"))
        assert "refuses the key" in await setup.refusal(at(server, "walker", "wrong"))
        sentence = await setup.refusal(at(server, key="right"))
        assert sentence == f"{server.url} needs the name of a model; it has: walker, talker"
        sentence = await setup.refusal(at(server, "nobody", "right"))
        assert sentence == f"{server.url} has no model 'nobody'; it has: talker, walker"
    async with model_server("walker", reply="") as server:
        assert "'walker' answers with an empty reply" in await setup.refusal(at(server))
    async with raw_server(b"not found", 404) as port:
        url = f"http://127.0.0.1:{port}"
        assert "has no list of models" in await setup.refusal(ServerChoice(url=url, model="m"))


@pytest.mark.parametrize(
    "override", ["engine.use=openvino", "engine.openai.model=other", "engine.openai.api_key=env:K"]
)
async def test_a_flag_that_would_override_the_file_is_named(setup: Setup, override: str) -> None:
    async with model_server("walker") as server:
        sentence = await setup.refusal(at(server), override)
    assert f"is fixed by --set {override.partition('=')[0]}" in sentence
    assert "overrides the settings file" in sentence


async def test_a_variable_that_would_override_the_file_is_named(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PALAVER__ENGINE__OPENAI__URLS", "http://other.example/v1")
    async with model_server("walker") as server:
        assert "environment PALAVER__ENGINE__OPENAI__URLS" in await setup.refusal(at(server))
        monkeypatch.setenv("PALAVER__ENGINE__OPENAI__URLS", server.url)
        assert await setup.connect(at(server), "engine.use=openai") == "walker"


async def test_a_file_that_cannot_be_written_is_told_before_the_trial(setup: Setup) -> None:
    setup.file = setup.file.parent / "missing" / "palaver.toml"
    async with model_server("walker") as server:
        assert "may not write into" in await setup.refusal(at(server))
        assert server.requests == []


# Models of this machine


@pytest.fixture
def starter(tmp_path: Path) -> Path:
    return copy_starter(tmp_path / "My model")


async def test_a_directory_becomes_the_current_model(setup: Setup, starter: Path) -> None:
    setup.file.write_text('[engine]\nuse = "openai" # elsewhere\n')
    assert await setup.connect(PathChoice(path=str(starter))) == "My-model"
    assert await setup.current() == starter
    assert setup.file.read_text() == '[engine]\nuse = "openvino" # elsewhere\n'
    assert await setup.connect(AddedChoice(name="starter")) == "starter"
    assert await setup.connect(PathChoice(path=str(starter))) == "My-model"
    assert await setup.current() == starter
    assert await setup.models() == {"starter", "My-model"}


@pytest.mark.llamacpp
async def test_a_gguf_file_is_run_by_llamacpp(setup: Setup, starter: Path) -> None:
    pytest.importorskip("xllamacpp")
    file = await asyncio.to_thread(write_gguf, starter.parent / "small-f32.gguf", starter)
    assert await setup.connect(PathChoice(path=str(file))) == "small-f32"
    assert await setup.current() == file
    assert setup.settings() == {"engine": {"use": "llamacpp"}}
    assert await setup.connect(AddedChoice(name="starter")) == "starter"
    assert setup.settings() == {"engine": {"use": "openvino"}}


async def test_a_directory_that_no_engine_runs_is_not_added(setup: Setup, starter: Path) -> None:
    config = starter / "config.json"
    unknown = {"architectures": ["UnheardOfForCausalLM"], "model_type": "unheard_of"}
    config.write_text(json.dumps(json.loads(config.read_text()) | unknown))
    sentence = await setup.refusal(PathChoice(path=str(starter)))
    assert sentence.startswith("no engine here runs 'My-model': openvino: ")
    assert "nothing at '/no/such'" in await setup.refusal(PathChoice(path="/no/such"))
    assert "not an absolute path" in await setup.refusal(PathChoice(path="model"))
    assert "there is no model 'x'" in await setup.refusal(AddedChoice(name="x"))
