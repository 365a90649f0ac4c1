"""Who may call the endpoint, from where, and what a stranger finds."""

import json
from typing import Any

import pytest
from tests.plugins.channels.mcp.support import (
    ELICITS,
    LEGACY,
    MODERN,
    PATH,
    TASKS,
    LegacyClient,
    ModernClient,
    RawClient,
    open_mcp_server,
    read_events,
)

from palaver import Document
from palaver.config.settings import AuthKey, Secret
from palaver.testing import ListKnowledge
from palaver_plugins.channels.mcp.settings import Settings

pytestmark = pytest.mark.slow

URL = "https://chat.example.org/mcp"
ISSUER = "https://login.example.org"
OAUTH = Settings(url=URL, authorization_servers=(ISSUER,))
HOST = {"Host": "chat.example.org"}
METADATA = "/.well-known/oauth-protected-resource/mcp"


def key_of(person: str, tenant: str = "acme", *rights: str) -> AuthKey:
    return AuthKey.model_validate(
        {
            "secret": Secret(f"env:KEY_{person.upper()}"),
            "person": person,
            "tenant": tenant,
            "rights": rights or ("talk", "read"),
        }
    )


KEYS = {
    "ada": key_of("ada"),
    "bob": key_of("bob"),
    "eve": key_of("eve", "another"),
    "tim": key_of("tim", "acme", "talk"),
    "max": key_of("max", "acme", "read"),
}


def secret(name: str) -> str:
    return f"the secret key of {name}"


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.setenv(f"KEY_{name.upper()}", secret(name))


# Keys


async def test_without_a_key_a_client_learns_where_to_get_one() -> None:
    async with open_mcp_server(OAUTH, keys=KEYS) as live_server:
        for key in ("", "wrong"):
            answer = await RawClient(live_server, key, **HOST).send({})
            assert (answer.status, answer.error["code"]) == (401, -32600)
            assert answer.headers["WWW-Authenticate"] == (
                f'Bearer resource_metadata="https://chat.example.org{METADATA}"'
            )
        status, metadata = await live_server.get(METADATA)
        assert status == 200
        assert metadata == {
            "resource": URL,
            "authorization_servers": [ISSUER],
            "bearer_methods_supported": ["header"],
            "scopes_supported": ["talk", "read"],
        }


async def test_without_an_authorization_server_there_is_no_metadata() -> None:
    async with open_mcp_server(keys=KEYS) as live_server:
        answer = await RawClient(live_server).send({})
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert (await live_server.get(METADATA))[0] == 404


async def test_a_key_without_the_right_learns_its_scope() -> None:
    async with open_mcp_server(OAUTH, keys=KEYS) as live_server:
        answer = await RawClient(live_server, secret("max"), **HOST).send({})
        assert answer.status == 403
        assert answer.headers["WWW-Authenticate"].startswith(
            'Bearer error="insufficient_scope", scope="talk", resource_metadata="'
        )


@pytest.mark.parametrize("method", ["resources/list", "resources/read"])
async def test_documents_need_the_right_to_read(method: str) -> None:
    knowledge = ListKnowledge(Document(id="x", title="x", text="x"), tenant="acme")
    async with open_mcp_server(keys=KEYS, knowledge=knowledge) as live_server:
        params = {"uri": "palaver://documents/x"} if method.endswith("read") else {}
        answer = await ModernClient(live_server, secret("tim")).ask(method, params)
        assert answer.status == 403
        assert 'scope="read"' in answer.headers["WWW-Authenticate"]
        client = LegacyClient(live_server, secret("tim"))
        await client.initialize()
        assert (await client.ask(method, params)).status == 403


async def test_documents_are_those_of_the_tenant() -> None:
    knowledge = ListKnowledge(Document(id="x", title="Plans", text="x"), tenant="acme")
    async with open_mcp_server(keys=KEYS, knowledge=knowledge) as live_server:
        own = (await ModernClient(live_server, secret("ada")).ask("resources/list")).result
        [resource] = own["resources"]
        stranger = ModernClient(live_server, secret("eve"))
        assert (await stranger.ask("resources/list")).result["resources"] == []
        read = await stranger.ask("resources/read", {"uri": resource["uri"]})
        assert read.error["code"] == -32602


# Strangers


@pytest.mark.parametrize("stranger", ["bob", "eve"])
async def test_what_a_client_brings_back_is_of_no_use_to_a_stranger(stranger: str) -> None:
    async with open_mcp_server(keys=KEYS) as live_server:
        client = LegacyClient(live_server, secret("ada"))
        await client.initialize(**ELICITS)
        thief = LegacyClient(live_server, secret(stranger))
        thief.headers["Mcp-Session-Id"] = client.headers["Mcp-Session-Id"]
        assert (await thief.ask("tools/list")).status == 404
        body = client.call_body("waiter", text="a drink")
        async with client.open(body) as response:
            events = read_events(response)
            first, second = await anext(events), await anext(events)
        own = LegacyClient(live_server, secret(stranger))
        await own.initialize(**ELICITS)
        for event in (first, second):
            answer = await own.send(
                {"method": "tools/call"}, {"Last-Event-ID": event["id"]}, method="GET"
            )
            assert (answer.status, answer.error["code"]) == (404, -32600)
        question = read_id(second)
        forged = {
            "jsonrpc": "2.0",
            "id": question,
            "result": {"action": "accept", "content": {"answer": "tea"}},
        }
        assert (await own.send(forged)).status == 400
        cancelled = {
            "jsonrpc": "2.0",
            "method": "notifications/cancelled",
            "params": {"requestId": body["id"]},
        }
        assert (await own.send(cancelled)).status == 202  # of its own session: nothing
        modern = ModernClient(live_server, secret("ada"), ELICITS | TASKS)
        task = (await modern.call("waiter", text="a drink")).result
        asked = (
            await ModernClient(live_server, secret("ada"), ELICITS).call("waiter", text="x")
        ).result
        strange = ModernClient(live_server, secret(stranger), ELICITS | TASKS)
        for method in ("tasks/get", "tasks/cancel"):
            answer = await strange.ask(method, {"taskId": task["taskId"]})
            assert answer.error["code"] == -32602
        more = {"requestState": asked["requestState"], "inputResponses": {}}
        assert (await strange.call("waiter", more=more)).status == 400


def read_id(event: dict[str, str]) -> str:
    id: str = json.loads(event["data"])["id"]
    return id


async def test_names_of_conversations_and_keys_are_ones_own() -> None:
    async with open_mcp_server(keys=KEYS) as live_server:
        about: Any = {"text": "x", "conversation": "c", "idempotency_key": "k"}
        seen = set()
        for name in ("ada", "bob", "eve"):
            answer = await ModernClient(live_server, secret(name)).call("parrot", **about)
            assert answer.text == "x "
            seen.add(answer.result["_meta"]["palaver/turn"])
        assert len(seen) == 3


# Where from


async def test_a_foreign_page_and_a_foreign_host_are_refused() -> None:
    async with open_mcp_server() as live_server:
        answer = await RawClient(live_server, Origin="https://evil.example").send({})
        assert (answer.status, answer.error["code"]) == (403, -32600)
        answer = await RawClient(live_server, Host="evil.example").send({})
        assert (answer.status, answer.error["code"]) == (421, -32600)


async def test_the_public_address_is_the_only_host() -> None:
    async with open_mcp_server(Settings(url=URL), keys=KEYS) as live_server:
        key = secret("ada")
        assert (await RawClient(live_server, key).send({})).status == 421
        assert (await RawClient(live_server, key, **HOST).send({})).status == 400
        answer = await RawClient(live_server, key, Host="chat.example.org:8443").send({})
        assert answer.status == 421


async def test_a_body_has_a_limit() -> None:
    async with open_mcp_server(max_message_bytes=2_000) as live_server:
        client = LegacyClient(live_server)
        await client.initialize()
        answer = await client.call("parrot", text="x" * 3_000)
        assert (answer.status, answer.error["code"]) == (413, -32602)


# Methods and media types


async def test_only_post_sends_messages() -> None:
    async with open_mcp_server() as live_server:
        client = RawClient(live_server)
        for version in (LEGACY, MODERN):
            answer = await client.send(None, {"MCP-Protocol-Version": version}, "GET")
            assert (answer.status, answer.headers["Allow"]) == (405, "POST")
        async with live_server.session.delete(live_server.url(PATH)) as response:
            assert response.status == 405


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("application/json", 406),
        ("text/event-stream", 406),
        ("text/html", 406),
        ("application/json, text/event-stream", 404),
        ("application/json;q=0.9, text/*", 404),
        ("*/*", 404),
    ],
)
async def test_a_client_takes_both_media_types(accept: str, status: int) -> None:
    async with open_mcp_server() as live_server:
        client = RawClient(live_server)
        body = client.request("tools/list")
        headers = {"Accept": accept, "Mcp-Session-Id": "x"}
        assert (await client.send(body, headers)).status == status


async def test_the_body_is_json() -> None:
    async with open_mcp_server() as live_server:
        client = RawClient(live_server)
        answer = await client.send(b"{}", {"Content-Type": "text/plain"})
        assert answer.status == 415


MALFORMED: list[tuple[Any, int]] = [
    (b"{", -32700),
    (b"\xff", -32700),
    (b'{"jsonrpc":"2.0","id":1,"method":"\\ud800"}', -32700),
    ([], -32600),
    ([{"jsonrpc": "2.0", "id": 1, "method": "ping"}], -32600),
    ("ping", -32600),
    ({}, -32600),
    ({"jsonrpc": "1.0", "id": 1, "method": "ping"}, -32600),
    ({"jsonrpc": "2.0", "id": None, "method": "ping"}, -32600),
    ({"jsonrpc": "2.0", "id": True, "method": "ping"}, -32600),
    ({"jsonrpc": "2.0", "id": 1, "method": 5}, -32600),
    ({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": []}, -32600),
    ({"jsonrpc": "2.0", "id": 1, "result": []}, -32600),
]


@pytest.mark.parametrize(("body", "code"), MALFORMED)
async def test_a_malformed_message_is_named(body: Any, code: int) -> None:
    async with open_mcp_server() as live_server:
        answer = await RawClient(live_server).send(body)
        assert (answer.status, answer.error["code"], answer.last["id"]) == (400, code, None)


async def test_the_rules_of_sessions() -> None:
    async with open_mcp_server() as live_server:
        client = LegacyClient(live_server)
        assert (await client.ask("tools/list")).status == 400  # no session
        client.headers["Mcp-Session-Id"] = "unknown"
        assert (await client.ask("tools/list")).status == 404
        bad = await client.ask("initialize", {"protocolVersion": LEGACY})
        assert (bad.status, bad.error["code"]) == (200, -32602)
        await client.initialize()
        assert (await client.ask("ping")).result == {}
        unknown = await client.ask("tools/destroy")
        assert (unknown.status, unknown.error["code"]) == (200, -32601)
        wrong = await client.ask("tools/list", headers={"MCP-Protocol-Version": "2025-06-18"})
        assert wrong.status == 400
        note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        assert (await client.send(note)).status == 202
        without = LegacyClient(live_server)
        without.headers["Mcp-Session-Id"] = client.headers["Mcp-Session-Id"]
        assert (await without.ask("ping")).result == {}  # the header of the version may lack


async def test_a_session_is_valid_at_every_replica_with_the_same_secret() -> None:
    async with (
        open_mcp_server() as first,
        open_mcp_server() as second,
        open_mcp_server(cookie_secrets=[b"another"]) as foreign,
    ):
        client = LegacyClient(first)
        await client.initialize()
        for server, status in ((second, 200), (foreign, 404)):
            other = LegacyClient(server)
            other.headers = client.headers
            assert (await other.ask("ping")).status == status


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"url": "chat.example.org"}, "https://HOST/mcp"),
        ({"url": "https://chat.example.org/"}, "the path of the endpoint is /mcp"),
        ({"authorization_servers": [ISSUER]}, "needs 'url'"),
        ({"url": URL, "authorization_servers": ["login"]}, "https://HOST"),
    ],
)
def test_settings_that_cannot_work(settings: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Settings.model_validate(settings)
