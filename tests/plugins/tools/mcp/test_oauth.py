"""OAuth without a person: by client credentials, and by a refresh token that changes."""

from typing import Any
from urllib.parse import unquote

import aiohttp
import pytest
from aiohttp import web
from tests.plugins.tools.mcp.support import call, running_source
from tests.plugins.tools.mcp.test_http import LOOPBACK, LegacyServer, serving

from palaver.testing import MemoryLedger

pytestmark = pytest.mark.slow


class Protected(LegacyServer):
    """A server that takes the tokens of its own authorization server."""

    def __init__(self) -> None:
        super().__init__("a")
        self.tokens: set[str] = set()
        self.refresh_token = "first"
        self.grants: list[dict[str, str]] = []
        self.clients: list[str] = []
        self.issuer = ""

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/mcp", self.protect),
            web.get("/.well-known/oauth-protected-resource/mcp", self.describe_resource),
            web.get("/.well-known/oauth-authorization-server", self.describe_issuer),
            web.post("/token", self.give_token),
        ]

    async def protect(self, request: web.Request) -> web.StreamResponse:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in self.tokens:
            where = f"{origin(request)}/.well-known/oauth-protected-resource/mcp"
            challenge = f'Bearer resource_metadata="{where}"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        return await self.handle(request)

    async def describe_resource(self, request: web.Request) -> web.Response:
        own = origin(request)
        return web.json_response(
            {"resource": f"{own}/mcp", "authorization_servers": [self.issuer or own]}
        )

    async def describe_issuer(self, request: web.Request) -> web.Response:
        own = origin(request)
        return web.json_response(
            {
                "issuer": own,
                "authorization_endpoint": f"{own}/authorize",
                "token_endpoint": f"{own}/token",
                "response_types_supported": ["code"],
            }
        )

    async def give_token(self, request: web.Request) -> web.Response:
        form = {key: str(value) for key, value in (await request.post()).items()}
        self.grants.append(form)
        if "Authorization" in request.headers:
            sent = aiohttp.BasicAuth.decode(request.headers["Authorization"])
            self.clients.append(unquote(sent.password))
        if form["grant_type"] == "refresh_token" and form["refresh_token"] != self.refresh_token:
            return web.json_response({"error": "invalid_grant"}, status=400)
        token = f"token-{len(self.grants)}"
        self.tokens = {token}
        answer: dict[str, Any] = {"access_token": token, "token_type": "Bearer", "expires_in": 3600}
        if form["grant_type"] == "refresh_token":
            self.refresh_token = f"refresh-{len(self.grants)}"
            answer["refresh_token"] = self.refresh_token
        return web.json_response(answer)


def origin(request: web.Request) -> str:
    return str(request.url.origin())


def oauth(port: int, **settings: str) -> dict[str, Any]:
    own = f"http://127.0.0.1:{port}"
    about = {"client_id": "palaver", "issuer": own, **settings}
    return {"w": {"url": f"{own}/mcp", "allowed_networks": LOOPBACK, "oauth": about}}


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIENT_SECRET", "s e c r e t")
    monkeypatch.setenv("REFRESH_TOKEN", "first")


async def test_client_credentials_give_tokens_that_are_renewed() -> None:
    server = Protected()
    async with serving(*server.routes()) as port:
        settings = oauth(port, client_secret="env:CLIENT_SECRET", scope="tools")
        async with running_source(settings) as source:
            assert await call(source, "w__a") == "called a"
            assert server.clients == ["s e c r e t"]
            server.tokens.clear()  # it has expired
            assert await call(source, "w__a") == "called a"
    assert [(grant["grant_type"], grant["scope"]) for grant in server.grants] == [
        ("client_credentials", "tools"),
        ("client_credentials", "tools"),
    ]


async def test_the_newest_refresh_token_is_kept_for_the_next_process() -> None:
    server, ledger = Protected(), MemoryLedger()
    async with serving(*server.routes()) as port:
        settings = oauth(port, refresh_token="env:REFRESH_TOKEN")
        for _ in range(2):
            server.tokens.clear()
            async with running_source(settings, ledger=ledger) as source:
                assert await call(source, "w__a") == "called a"
    assert [grant["refresh_token"] for grant in server.grants] == ["first", "refresh-1"]
    assert {grant["client_id"] for grant in server.grants} == {"palaver"}


async def test_another_refresh_token_in_the_settings_replaces_the_kept_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server, ledger = Protected(), MemoryLedger()
    async with serving(*server.routes()) as port:
        settings = oauth(port, refresh_token="env:REFRESH_TOKEN")
        async with running_source(settings, ledger=ledger):
            pass
        server.tokens.clear()
        server.refresh_token = "second"
        monkeypatch.setenv("REFRESH_TOKEN", "second")
        async with running_source(settings, ledger=ledger) as source:
            assert await call(source, "w__a") == "called a"


async def test_credentials_go_to_their_issuer_alone() -> None:
    server, evil = Protected(), Protected()
    async with serving(*server.routes()) as port, serving(*evil.routes()) as other:
        evil.issuer = f"http://127.0.0.1:{other}"
        server.issuer = evil.issuer  # the server leads to another authorization server
        settings = oauth(port, client_secret="env:CLIENT_SECRET")
        async with running_source(settings) as source:
            assert "issuer" in source.problems[0].lower()
    assert not evil.grants
    assert not server.grants
