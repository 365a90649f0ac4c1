"""The API of the model's setup: who may use it, what it finds, and one setup at a time."""

import contextlib
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.model_servers import model_server
from tests.server.web.live_server import LiveServer, eventually, open_live_server

from palaver.config.settings import AuthKey, ModelsSettings, Right, Secret
from palaver.models.choices import Launch
from palaver.models.setup_job import ModelSetup

pytestmark = pytest.mark.slow

KEY = "sk-a-key-that-nobody-may-see"
ROUTES = (
    ("GET", "/v1/setup"),
    ("POST", "/v1/setup"),
    ("DELETE", "/v1/setup"),
    ("GET", "/v1/setup/servers"),
    ("POST", "/v1/setup/models"),
)


class Opened:
    """A server that can be set up, with its settings file; ``restarts`` counts its restarts."""

    def __init__(self, live_server: LiveServer, folder: Path) -> None:
        self.http = live_server
        self.file = folder / "palaver.toml"
        self.restarts = 0
        data = f"server.data={json.dumps(str(folder / 'data'))}"
        launch = Launch(settings_file=str(self.file), overrides=(data,))
        self.setup = ModelSetup(launch, self._restart)
        live_server.server.model_setup = self.setup

    def _restart(self) -> None:
        self.restarts += 1

    async def choose(self, **choice: Any) -> tuple[int, Any]:
        return await self.http.post("/v1/setup", choice)

    async def progress(self) -> Any:  # a JSON value
        status, state = await self.http.get("/v1/setup")
        assert status == 200, state
        return state["progress"]

    async def wait_for(self, *steps: str) -> Any:  # a JSON value
        """Wait until the setup is at one of the steps; return its progress."""

        async def is_there() -> bool:
            return (await self.progress())["step"] in steps

        await eventually(is_there)
        return await self.progress()


@contextlib.asynccontextmanager
async def open_setup(folder: Path, **settings: Any) -> AsyncIterator[Opened]:
    async with open_live_server(data=folder / "data", **settings) as live_server:
        opened = Opened(live_server, folder)
        yield opened
        await opened.setup.close()


@pytest_asyncio.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Opened]:
    async with open_setup(tmp_path) as opened:
        yield opened


async def test_the_state_names_the_model_and_the_file(opened: Opened) -> None:
    status, state = await opened.http.get("/v1/setup")
    assert status == 200
    assert state == {
        "instance": opened.setup.instance,
        "model": "scripted",
        "demonstration": False,
        "settings_file": str(opened.file),
        "added": ["starter"],
        "progress": None,
    }
    _, about = await opened.http.get("/v1/about")
    assert about["setup"] is True


async def test_a_model_of_a_server_is_tried_and_the_server_restarts(
    opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with model_server("walker", key=KEY) as server:
        server.answers.clear()
        status, state = await opened.choose(kind="server", url=server.url, key=KEY)
        assert (status, state["progress"]["step"]) == (202, "looking")
        assert (await opened.wait_for("checking"))["model"] in ("", "walker")
        status, problem = await opened.choose(kind="added", name="starter")
        assert (status, problem["error"]["code"]) == (409, "conflict")
        assert opened.restarts == 0
        server.answers.set()
        assert (await opened.wait_for("restarting"))["model"] == "walker"
    assert opened.restarts == 1
    text = opened.file.read_text()
    assert f'urls = ["{server.url}"]' in text
    assert KEY not in text + caplog.text
    status, _ = await opened.choose(kind="added", name="starter")
    assert status == 409


async def test_a_failed_setup_tells_why_and_another_one_may_follow(opened: Opened) -> None:
    async with model_server("walker", key="right") as server:
        await opened.choose(kind="server", url=server.url, model="walker", key=KEY)
        failed = await opened.wait_for("failed")
        assert failed["problem"] == f"{server.url} refuses the key (HTTP 401)"
        await opened.choose(kind="path", path="/no/such/model")
        failed = await opened.wait_for("failed")
        assert failed["problem"].startswith("there is nothing at '/no/such/model'")
    assert not opened.file.exists()
    assert opened.restarts == 0


async def test_a_key_that_a_server_repeats_is_not_passed_on(opened: Opened) -> None:
    async with model_server("walker", reply="") as server:
        server.listed["data"][0]["id"] = f"walker-{KEY}"
        await opened.choose(kind="server", url=server.url, key=KEY)
        failed = await opened.wait_for("failed")
    assert failed["problem"] == "'walker-[key]' answers with an empty reply"


async def test_a_setup_that_is_cancelled_leaves_nothing_behind(opened: Opened) -> None:
    async with model_server("walker", key=KEY) as server:
        server.answers.clear()
        await opened.choose(kind="server", url=server.url, key=KEY)
        await eventually(lambda: "/v1/chat/completions" in server.requests)
        async with opened.http.session.delete(opened.http.url("/v1/setup")) as response:
            assert (await response.json())["progress"] is None
        assert not opened.setup.is_running
    assert not opened.file.exists()
    assert not (opened.file.parent / "data" / "keys").exists()


async def test_servers_of_this_machine_are_listed(tmp_path: Path) -> None:
    async with model_server("walker") as server:
        models = ModelsSettings(server_ports=(server.port,))
        async with open_setup(tmp_path, models=models) as opened:
            status, found = await opened.http.get("/v1/setup/servers")
    assert status == 200
    assert [(it["url"], it["models"]) for it in found["servers"]] == [
        (server.url, [{"id": "walker", "size": None}])
    ]


async def test_the_server_does_not_find_itself(tmp_path: Path) -> None:
    async with open_setup(tmp_path) as opened:
        port = int(opened.http.address.rpartition(":")[2])
        models = ModelsSettings(server_ports=(port,))
        opened.http.server.settings = opened.http.server.settings.model_copy(
            update={"models": models}
        )
        assert await opened.http.get("/v1/setup/servers") == (200, {"servers": []})


async def test_the_models_of_an_address_are_listed(opened: Opened) -> None:
    async with model_server("a", "b", key=KEY) as server:
        body = {"url": f"127.0.0.1:{server.port}", "key": KEY}
        status, listed = await opened.http.post("/v1/setup/models", body)
        assert (status, listed["url"]) == (200, server.url)
        assert [model["id"] for model in listed["models"]] == ["a", "b"]
        status, refused = await opened.http.post("/v1/setup/models", {"url": server.url})
        assert (status, refused["error"]["message"]) == (
            400, f"{server.url} asks for a key (HTTP 401)",
        )  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"kind": "shell", "command": "x"},
        {"kind": "server"},
        {"kind": "server", "url": 7},
        {"kind": "server", "url": "http://a", "key": "k" * 5_000},
        {"kind": "path", "path": "x" * 3_000},
        {"kind": "hub", "repository": ["a"]},
    ],
)
async def test_a_malformed_choice_starts_nothing(opened: Opened, body: Any) -> None:
    status, problem = await opened.http.post("/v1/setup", body)
    assert (status, problem["error"]["code"]) == (400, "invalid_input")
    assert await opened.progress() is None


# Who may


async def refusals(opened: Opened, **headers: str) -> set[tuple[int, str]]:
    """Return how the routes answer requests with these headers."""
    found = set()
    for method, path in ROUTES:
        body = {"kind": "added", "name": "starter", "url": "http://127.0.0.1:1"}
        async with opened.http.session.request(
            method, opened.http.url(path), json=body, headers=headers
        ) as response:
            found.add((response.status, (await response.json())["error"]["message"][:24]))
    return found


@pytest.mark.parametrize(
    "header",
    ["Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP"],
)
async def test_without_keys_nobody_comes_through_a_proxy(opened: Opened, header: str) -> None:
    assert await refusals(opened, **{header: "x"}) == {(403, "without auth.keys, only ")}
    _, about = await opened.http.get("/v1/about", headers={header: "x"})
    assert about["setup"] is False


async def test_without_keys_other_pages_are_refused(tmp_path: Path) -> None:
    async with open_setup(tmp_path, origins=("https://www.example.org",)) as opened:
        trusted = {"Origin": "https://www.example.org"}
        assert await refusals(opened, **trusted) == {(403, "without auth.keys, only ")}
        for headers in ({"Origin": "https://evil.example"}, {"Host": "rebound.example"}):
            assert {status for status, _ in await refusals(opened, **headers)} == {403}
        own = {"Origin": opened.http.address, "Sec-Fetch-Site": "same-origin"}
        status, _ = await opened.http.get("/v1/setup", headers=own)
        assert status == 200


async def test_a_key_needs_the_right_to_operate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY_ADA", "the secret key of ada")
    monkeypatch.setenv("KEY_OPS", "the secret key of ops")
    rights: tuple[Right, ...] = ("talk", "read")
    keys = {
        "ada": AuthKey(secret=Secret("env:KEY_ADA"), rights=rights),
        "ops": AuthKey(secret=Secret("env:KEY_OPS"), rights=(*rights, "operate")),
    }
    async with open_setup(tmp_path, keys=keys) as opened:
        ada = {"Authorization": "Bearer the secret key of ada"}
        ops = {"Authorization": "Bearer the secret key of ops", "X-Forwarded-For": "10.0.0.7"}
        assert {status for status, _ in await refusals(opened, **ada)} == {403}
        assert {status for status, _ in await refusals(opened)} == {401}
        for headers, may in ((ada, False), (ops, True)):
            _, about = await opened.http.get("/v1/about", headers=headers)
            assert about["setup"] is may
        status, _ = await opened.http.get("/v1/setup", headers=ops)
        assert status == 200


async def test_a_server_that_cannot_restart_says_so(live_server: LiveServer) -> None:
    status, answer = await live_server.get("/v1/setup")
    assert status == 404
    assert "not started by palaver serve" in answer["error"]["message"]
    _, about = await live_server.get("/v1/about")
    assert about["setup"] is False
