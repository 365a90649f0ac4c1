"""Rights: what a key may do, on every surface."""

import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from tests.server.web.live_server import Frame, LiveServer, eventually, open_live_server
from tests.server.web.test_api import MESSAGES

from palaver.authentication import RIGHTS, find_key_problems, public
from palaver.channels import ConversationService
from palaver.cli.healthcheck import find_problem
from palaver.config.loading import load_settings
from palaver.config.settings import AuthKey, AuthSettings, Right, Secret
from palaver.errors import ConfigurationError, LedgerUnavailable
from palaver.ledger import QueueDepth
from palaver.messages import Conversation
from palaver.testing import MemoryLedger
from palaver_plugins.channels.openai_api import OpenAIChannel

pytestmark = pytest.mark.slow

ROUTES: tuple[tuple[str, str, Right], ...] = (
    ("POST", MESSAGES, "talk"),
    ("POST", "/v1/conversations/t/stop", "talk"),
    ("GET", "/v1/skills", "talk"),
    ("GET", "/v1/about", "talk"),
    ("POST", "/v1/chat/completions", "talk"),
    ("GET", "/v1/models", "talk"),
    ("GET", "/v1/models/parrot", "talk"),
    ("GET", "/v1/conversations/t", "read"),
    ("GET", "/v1/conversations/t/events?until=finished", "read"),
    ("GET", "/v1/me", "read"),
    ("GET", "/v1/export", "export"),
    ("GET", "/v1/export/summary", "export"),
    ("POST", "/v1/erase", "erase"),
    ("GET", "/v1/channels", "operate"),
    ("GET", "/v1/channels/channel-0/people", "operate"),
    ("GET", "/v1/channels/channel-0/requests", "operate"),
    ("GET", "/v1/tool-sources", "operate"),
    ("GET", "/metrics", "metrics"),
)
BODY = {"text": "hello", "model": "auto", "messages": [{"role": "user", "content": "hello"}]}


def key(name: str, *rights: Right, person: str = "ada") -> AuthKey:
    return AuthKey(secret=Secret(f"env:KEY_{name.upper()}"), person=person, rights=rights)


SINGLE: dict[str, AuthKey] = {
    right: key(right, right) for right in sorted(RIGHTS - {"impersonate"})
}
KEYS = {
    **SINGLE,
    "impersonate": key("impersonate", "impersonate", person=""),
    "usual": AuthKey(secret=Secret("env:KEY_USUAL"), person="ada"),
    "open": AuthKey(secret=Secret("env:KEY_OPEN")),
    "trusted": key("trusted", "talk", "read", "impersonate", person=""),
}


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.setenv(f"KEY_{name.upper()}", f"the secret key of {name}")


def header(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer the secret key of {name}"}


@pytest_asyncio.fixture
async def opened() -> AsyncIterator[LiveServer]:
    async with open_live_server(keys=KEYS, channels=(OpenAIChannel(),)) as live_server:
        yield live_server


async def call(live_server: LiveServer, method: str, path: str, name: str) -> tuple[int, Any]:
    if method == "GET":
        return await live_server.get(path, headers=header(name))
    return await live_server.post(path, BODY, headers=header(name))


@pytest.mark.parametrize(("method", "path", "right"), ROUTES)
async def test_a_route_requires_its_right(
    opened: LiveServer, method: str, path: str, right: Right
) -> None:
    for name in RIGHTS - {right}:
        status, answer = await call(opened, method, path, name)
        assert (status, answer["error"]["code"]) == (403, "forbidden"), name
        assert repr(right) in answer["error"]["message"]
    status, answer = await call(opened, method, path, right)
    assert status in (200, 202), answer


async def test_a_key_talks_and_reads_by_default(opened: LiveServer) -> None:
    for method, path, right in ROUTES:
        status, answer = await call(opened, method, path, "usual")
        assert (status == 403) is (right not in ("talk", "read")), (path, answer)


async def test_a_key_that_reads_only_cannot_send_or_stop(opened: LiveServer) -> None:
    async with opened.open_websocket(headers=header("read")) as client:
        await client.hello("t")
        frames: tuple[Frame, ...] = ({"type": "send", "id": "m", "text": "x"}, {"type": "stop"})
        for frame in frames:
            await client.send(frame)
            error = await client.wait_for("error")
            assert (error["code"], error.get("id")) == ("forbidden", frame.get("id"))
            assert "'talk'" in error["message"]
        await client.send({"type": "ping"})
        await client.wait_for("pong")
    _, answer = await opened.get("/v1/conversations/t", headers=header("read"))
    assert answer["snapshot"] == {"history": [], "pending": []}


@pytest.mark.parametrize("name", sorted(RIGHTS - {"read"}))
async def test_a_key_that_does_not_read_opens_no_websocket(opened: LiveServer, name: str) -> None:
    async with opened.open_websocket(headers=header(name)) as client:
        await client.send({"type": "hello", "thread": "t"})
        error = await client.wait_for("error")
        assert (error["code"], "'read'" in error["message"]) == ("forbidden", True)
        assert await client.close_code() == 4403


async def test_only_a_trusted_key_names_persons(opened: LiveServer) -> None:
    conversation = "/v1/conversations/t"
    for name in ("open", "usual"):
        for path in (f"{conversation}?person=zoe", f"{conversation}/events?person=zoe"):
            assert (await opened.get(path, headers=header(name)))[0] == 403
        body = {"text": "x", "person": "zoe"}
        assert (await opened.post(MESSAGES, body, headers=header(name)))[0] == 403
        async with opened.open_websocket(headers=header(name)) as client:
            await client.send({"type": "hello", "thread": "t", "person": "zoe"})
            assert await client.close_code() == 4403
    async with opened.open_websocket(headers=header("trusted")) as client:
        assert (await client.hello("t", person="zoe"))["person"] == "zoe"


async def test_openai_users_are_persons_for_a_trusted_key_only(opened: LiveServer) -> None:
    body = {**BODY, "user": "zoe"}
    path = "/v1/chat/completions"
    status, answer = await opened.post(path, body, headers=header("open"))
    assert (status, answer["error"]["type"]) == (403, "invalid_request_error")
    assert "'impersonate'" in answer["error"]["message"]
    for name, person in (("trusted", "zoe"), ("usual", "ada")):
        headers = {**header(name), "X-Palaver-Thread": name}
        assert (await opened.post(path, body, headers=headers))[0] == 200
        assert await members(opened, name) == {person}


async def members(live_server: LiveServer, thread: str) -> set[str]:
    return set(await live_server.server.members(Conversation("default", "openai_api", thread)))


class UnavailableLedger(MemoryLedger):
    """A ledger that cannot be reached, with a reason for operators."""

    async def queue_depth(self) -> QueueDepth:
        raise LedgerUnavailable("redis at 10.0.0.7 refuses connections")


@contextlib.asynccontextmanager
async def open_unready_server(keys: Mapping[str, AuthKey]) -> AsyncIterator[LiveServer]:
    async with open_live_server(keys=keys, ledger=UnavailableLedger()) as live_server:
        await eventually(lambda: "ledger" in live_server.server.readiness())
        yield live_server


CODES_ONLY = {"status": "not ready", "problems": {"ledger": "ledger_unavailable"}}


async def test_readiness_has_details_for_operators_only() -> None:
    async with open_unready_server(KEYS) as unready:
        for headers in ({}, header("usual"), header("metrics")):
            assert await unready.get("/readyz", headers=headers) == (503, CODES_ONLY)
        _, answer = await unready.get("/readyz", headers=header("operate"))
        assert "10.0.0.7" in answer["problems"]["ledger"]
        status, answer = await unready.get("/readyz", headers={"Authorization": "Bearer wrong"})
        assert (status, answer["error"]["code"]) == (401, "unauthenticated")
        problem = await find_problem(unready.address, header("operate")["Authorization"][7:])
        assert "10.0.0.7" in problem
        assert await find_problem(unready.address, None) == "ledger: ledger_unavailable"


async def test_without_keys_readiness_has_details_for_this_machine_only() -> None:
    async with open_unready_server({}) as unready:
        assert "10.0.0.7" in str(await unready.get("/readyz"))
        for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
            assert await unready.get("/readyz", headers=headers) == (503, CODES_ONLY)


class Bell:
    """A channel whose route does not say who may call it."""

    async def start(self, service: ConversationService) -> None: ...

    async def close(self) -> None: ...

    def routes(self) -> Iterable[web.RouteDef]:
        return [web.get("/bell/{name}", self._ring)]

    async def _ring(self, request: web.Request) -> web.Response:
        return web.Response(text="ding")


async def test_a_route_that_declares_nothing_prevents_the_start() -> None:
    with pytest.raises(ConfigurationError, match=r"/bell/\{name\}.*'Bell\._ring'.*requires"):
        async with open_live_server(channels=(Bell(),)):
            pass


class Usurper(Bell):
    """A channel that answers what the server itself answers."""

    def routes(self) -> Iterable[web.RouteDef]:
        return [web.get("/v1/conversations/{id}", self._ring)]

    @public
    async def _ring(self, request: web.Request) -> web.Response:
        return web.Response(text="mine")


async def test_a_route_of_the_server_cannot_be_taken_over() -> None:
    with pytest.raises(ConfigurationError, match=r"GET /v1/conversations/.*'Usurper\._ring'"):
        async with open_live_server(channels=(Usurper(),)):
            pass


class Forgetful(Bell):
    """A channel that asks who calls a route that it has declared public."""

    async def start(self, service: ConversationService) -> None:
        self._service = service

    @public
    async def _ring(self, request: web.Request) -> web.Response:
        return web.Response(text=self._service.authenticate(request).name)


async def test_a_public_route_has_no_caller(caplog: pytest.LogCaptureFixture) -> None:
    async with open_live_server(keys=KEYS, channels=(Forgetful(),)) as live_server:
        status, answer = await live_server.get("/bell/x", headers=header("usual"))
    assert (status, answer["error"]["code"]) == (500, "internal")
    assert "LookupError" in caplog.text


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"a": key("usual", "talk", "impersonate")}, "auth.keys.a: a key is for one person, or"),
        (
            {"a": key("open", "talk", person=""), "b": key("usual", "talk", person="a")},
            "auth.keys.b.person 'a' is the shared identity of the key 'a'",
        ),
    ],
)
async def test_keys_that_contradict_themselves_are_refused(
    keys: dict[str, AuthKey], problem: str
) -> None:
    (found,) = find_key_problems(AuthSettings(keys=keys))
    assert problem in found
    with pytest.raises(ConfigurationError, match=problem[:20]):
        async with open_live_server(keys=keys):
            pass


def test_an_unknown_right_is_one_sentence() -> None:
    with pytest.raises(ConfigurationError, match=r"auth\.keys\.a\.rights.*'talk'.*'everything'"):
        load_settings(
            None, {}, ["auth.keys.a.secret=env:A", "auth.keys.a.rights=['talk', 'everything']"]
        )
