"""Authentication and access: keys, tenants, persons, hosts and origins."""

import aiohttp
import pytest
from tests.server.web.live_server import LiveServer, open_live_server

from palaver.authentication import check_bind
from palaver.config.settings import AuthKey, AuthSettings, Secret, ServerSettings, Settings
from palaver.errors import ConfigurationError

pytestmark = pytest.mark.slow

KEYS = {
    "ada": AuthKey(secret=Secret("env:KEY_ADA"), tenant="acme", person="ada"),
    "bob": AuthKey(secret=Secret("env:KEY_BOB"), tenant="acme", person="bob"),
    "app": AuthKey(
        secret=Secret("env:KEY_APP"), tenant="acme", rights=("talk", "read", "impersonate")
    ),
    "other": AuthKey(secret=Secret("env:KEY_OTHER"), tenant="other", person="ada"),
}


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.setenv(f"KEY_{name.upper()}", f"the secret key of {name}")


def header(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer the secret key of {name}"}


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_loopback_is_served_without_keys(host: str) -> None:
    check_bind(Settings(server=ServerSettings(host=host)))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.1", "example.org"])
def test_other_addresses_are_served_only_with_keys(host: str) -> None:
    server = ServerSettings(host=host)
    with pytest.raises(ConfigurationError, match=r"auth\.keys"):
        check_bind(Settings(server=server))
    check_bind(Settings(server=server, auth=AuthSettings(keys=KEYS)))


@pytest.mark.parametrize(
    "path", ["/", "/v1/skills", "/v1/conversations/t", "/v1/shares/s", "/metrics", "/ws"]
)
async def test_a_foreign_host_name_is_refused_without_keys(
    live_server: LiveServer, path: str
) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example:7252", ""):
        status, _ = await live_server.get(path, headers={"Host": host})
        assert status in (400, 403), host
    assert (await live_server.get("/v1/skills", headers={"Host": "localhost:1"}))[0] == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
async def test_a_foreign_page_is_refused(live_server: LiveServer, origin: str) -> None:
    headers = {"Origin": origin}
    body = b'{"text": "hello"}'
    status, answer = await live_server.post(
        "/v1/conversations/t/messages", data=body, headers=headers
    )
    assert (status, answer["error"]["code"]) == (403, "forbidden")
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with live_server.open_websocket(headers=headers):
            pass
    assert refused.value.status == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site", "Cross-Site", "rubbish"])
@pytest.mark.parametrize("origin", [None, "null"])
async def test_a_request_that_changes_something_from_a_foreign_site_is_refused(
    live_server: LiveServer, site: str, origin: str | None
) -> None:
    headers = {"Sec-Fetch-Site": site} | ({"Origin": origin} if origin else {})
    for path in ("/v1/conversations/t/messages", "/v1/conversations/t/stop", "/v1/erase"):
        status, answer = await live_server.post(path, {"text": "hello"}, headers=headers)
        assert (status, answer["error"]["code"]) == (403, "forbidden")
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with live_server.open_websocket(headers=headers):
            pass
    assert refused.value.status == 403


@pytest.mark.parametrize("site", ["same-origin", "none", None])
async def test_programs_and_the_servers_own_pages_need_no_origin(
    live_server: LiveServer, site: str | None
) -> None:
    headers = {"Sec-Fetch-Site": site} if site else {}
    status, _ = await live_server.post(
        "/v1/conversations/t/messages", {"text": "hello"}, headers=headers
    )
    assert status == 202


@pytest.mark.parametrize(
    "origin", ["http://[", "http://[::1", "//", "http://", "http://a@127.0.0.1", "é"]
)
async def test_an_origin_that_is_no_url_is_refused(live_server: LiveServer, origin: str) -> None:
    status, answer = await live_server.get("/v1/skills", headers={"Origin": origin})
    assert status in (400, 403)
    assert answer["error"]["code"] in ("invalid_input", "forbidden")


@pytest.mark.parametrize("host", ["[x]", "[", "[::1", "::1", "localhost:", "a b", "@localhost"])
async def test_a_host_that_is_no_address_is_no_server_error(
    live_server: LiveServer, host: str
) -> None:
    status, answer = await live_server.get("/v1/skills", headers={"Host": host})
    assert status in (200, 400, 403)
    assert "skills" in answer or answer["error"]["code"] in ("invalid_input", "forbidden")


async def test_the_servers_own_pages_and_the_configured_origins_are_allowed() -> None:
    async with open_live_server(origins=("https://shop.example",)) as live_server:
        for origin in (live_server.address, "https://shop.example"):
            async with live_server.open_websocket(headers={"Origin": origin}) as client:
                await client.hello("t", person=None)


async def test_without_keys_the_client_names_the_person(live_server: LiveServer) -> None:
    async with live_server.connect("t", person="eve") as client:
        assert client.frames[0]["person"] == "eve"
    async with live_server.connect("t", person=None) as client:
        assert client.frames[0]["person"] == "local"


async def test_a_key_is_needed_when_there_are_keys() -> None:
    async with open_live_server(keys=KEYS) as live_server:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic x"}):
            status, answer = await live_server.get("/v1/skills", headers=headers)
            assert (status, answer["error"]["code"]) == (401, "unauthenticated")
            assert (await live_server.get("/metrics", headers=headers))[0] == 401
        assert (await live_server.get("/v1/skills", headers=header("ada")))[0] == 200
        for path in ("/", "/healthz", "/readyz", "/openapi.json"):
            assert (await live_server.get(path))[0] == 200


async def test_a_browser_sends_its_key_in_the_hello() -> None:
    async with open_live_server(keys=KEYS) as live_server:
        async with live_server.open_websocket() as client:
            welcome = await client.hello("t", person=None, token="the secret key of bob")
            assert welcome["person"] == "bob"
        for token in (None, "", "wrong", "the secret key of bo"):
            async with live_server.open_websocket() as client:
                await client.send({"type": "hello", "thread": "t", "token": token})
                assert await client.close_code() == 4401
        with pytest.raises(aiohttp.WSServerHandshakeError):
            async with live_server.open_websocket(headers={"Authorization": "Bearer wrong"}):
                pass


async def test_a_key_with_a_person_is_valid_for_that_person_only() -> None:
    async with open_live_server(keys=KEYS) as live_server:
        async with live_server.open_websocket() as client:
            await client.send(
                {"type": "hello", "thread": "t", "token": "the secret key of bob", "person": "ada"}
            )
            assert await client.close_code() == 4403
        status, _ = await live_server.get("/v1/conversations/t?person=ada", headers=header("bob"))
        assert status == 403


async def test_a_key_with_the_right_lets_the_client_name_a_person() -> None:
    async with open_live_server(keys=KEYS) as live_server:
        for person, expected in (("zoe", "zoe"), (None, "app")):
            async with live_server.open_websocket(headers=header("app")) as client:
                assert (await client.hello("t", person=person))["person"] == expected


async def test_a_conversation_belongs_to_its_members_in_every_way() -> None:
    async with open_live_server(keys=KEYS) as live_server:
        await live_server.post(
            "/v1/conversations/t/messages?wait=true", {"text": "mine"}, headers=header("ada")
        )
        for path in ("", "/events"):
            status, _ = await live_server.get(f"/v1/conversations/t{path}", headers=header("bob"))
            assert status == 403
        for path in ("/messages", "/stop"):
            status, _ = await live_server.post(
                f"/v1/conversations/t{path}", {"text": "x"}, headers=header("bob")
            )
            assert status == 403
        async with live_server.open_websocket(headers=header("bob")) as client:
            await client.send({"type": "hello", "thread": "t"})
            assert await client.close_code() == 4403
        status, mine = await live_server.get("/v1/conversations/t", headers=header("ada"))
        assert (status, len(mine["snapshot"]["history"])) == (200, 2)


async def test_conversations_of_two_tenants_with_one_name_are_separate() -> None:
    async with open_live_server(keys=KEYS) as live_server:
        await live_server.post(
            "/v1/conversations/t/messages?wait=true", {"text": "ours"}, headers=header("ada")
        )
        _, theirs = await live_server.get("/v1/conversations/t", headers=header("other"))
        assert theirs["snapshot"] == {"history": [], "pending": []}


async def test_another_persons_first_message_disconnects_the_subscriber() -> None:
    async with open_live_server(keys=KEYS) as live_server:
        async with (
            live_server.open_websocket(headers=header("bob")) as watching,
            live_server.open_websocket(headers=header("ada")) as writing,
        ):
            await watching.hello("t", person=None)
            await writing.hello("t", person=None)
            turn = await writing.send_message("a secret")
            assert await watching.close_code() == 4403
            assert "secret" not in str(watching.frames)
            assert await writing.wait_for_reply(turn) == "a secret "
        headers = header("bob")
        url = live_server.url("/v1/conversations/new/events")
        async with live_server.session.get(url, headers=headers) as feed:
            await feed.content.readuntil(b"\n\n")
            await live_server.post(
                "/v1/conversations/new/messages", {"text": "a secret"}, headers=header("ada")
            )
            rest = await feed.content.read()
        assert b"forbidden" in rest
        assert b"a secret" not in rest


async def test_a_missing_secret_prevents_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEY_BOB")
    with pytest.raises(ConfigurationError, match="KEY_BOB"):
        async with open_live_server(keys=KEYS):
            pass
