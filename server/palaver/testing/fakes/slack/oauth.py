"""OAuth: the consent page, ``oauth.v2.access``, token rotation, and the end of an installation."""

import dataclasses
from collections.abc import Mapping
from urllib.parse import urlencode

from aiohttp import web

from palaver.testing.fakes.slack.directory import Directory
from palaver.testing.fakes.slack.errors import SlackError
from palaver.testing.fakes.slack.limits import TIER_3, TIER_4
from palaver.testing.fakes.slack.methods import Arguments, Call, Method
from palaver.testing.fakes.slack.objects import App, Grant, Json, Token
from palaver.testing.fakes.slack.world import World

CODE_SECONDS = 600.0
TOKEN_SECONDS = 12 * 3600.0
"""Seconds for which a rotated token is valid."""


class OAuthAccess(Arguments, kw_only=True):
    client_id: str = ""
    client_secret: str = ""
    code: str = ""
    redirect_uri: str = ""
    grant_type: str = "authorization_code"
    refresh_token: str = ""


class Uninstall(Arguments, kw_only=True):
    client_id: str
    client_secret: str


class Revoke(Arguments, kw_only=True):
    test: bool = False


@dataclasses.dataclass(slots=True, kw_only=True)
class Consent:
    """Who answers the consent page, and how: a test sets it."""

    team: str
    user: str
    org_wide: bool = False
    is_denied: bool = False


class ConsentPage:
    """``/oauth/v2/authorize``: it answers at once for the person of `Consent`."""

    def __init__(self, world: World, consent: Consent) -> None:
        self._world = world
        self._consent = consent

    async def authorize(self, request: web.Request) -> web.Response:
        query = request.query
        app = find_app(self._world, query.get("client_id", ""))
        if app is None:
            return web.Response(status=400, text="invalid client_id")
        redirect = query.get("redirect_uri") or next(iter(app.redirect_urls), "")
        if not any(redirect.startswith(allowed) for allowed in app.redirect_urls):
            return web.Response(status=400, text="redirect_uri did not match any configured URIs")
        unknown = set(query.get("scope", "").split(",")) - set(app.scopes)
        if unknown:
            return web.Response(status=400, text=f"invalid_scope: {sorted(unknown)}")
        answer = self._answer(app, query, redirect)
        separator = "&" if "?" in redirect else "?"
        target = f"{redirect}{separator}{urlencode(answer)}"
        return web.Response(status=302, headers={"Location": target})

    def _answer(self, app: App, query: Mapping[str, str], redirect: str) -> dict[str, str]:
        state = {"state": query["state"]} if "state" in query else {}
        if self._consent.is_denied:
            return {"error": "access_denied"} | state
        code = self._world.new_id("code")
        self._world.grants[code] = Grant(
            app=app.id,
            team=query.get("team") or self._consent.team,
            user=self._consent.user,
            org_wide=self._consent.org_wide,
            scopes=tuple(query.get("scope", "").split(",")),
            redirect_uri=query.get("redirect_uri", ""),
            expires_at=self._world.clock.now() + CODE_SECONDS,
        )
        return {"code": code} | state


def find_app(world: World, client_id: str) -> App | None:
    return next((app for app in world.apps.values() if app.client_id == client_id), None)


def check_client(call: Call, client_id: str, client_secret: str) -> App:
    app = find_app(call.world, client_id)
    if app is None:
        raise SlackError("invalid_client_id")
    if app.client_secret != client_secret:
        raise SlackError("bad_client_secret")
    return app


def access(call: Call, arguments: OAuthAccess) -> Json:
    """Exchange a code or a refresh token, each of which is used once, for a token."""
    app = check_client(call, arguments.client_id, arguments.client_secret)
    if arguments.grant_type == "refresh_token":
        return refresh(call, app, arguments.refresh_token)
    if arguments.grant_type != "authorization_code":
        raise SlackError("invalid_grant_type")
    grant = call.world.grants.get(arguments.code)
    if grant is None or grant.app != app.id or grant.expires_at <= call.world.clock.now():
        raise SlackError("invalid_code")
    if grant.redirect_uri and grant.redirect_uri != arguments.redirect_uri:
        raise SlackError("bad_redirect_uri")
    if grant.is_used:
        raise SlackError("code_already_used")
    grant.is_used = True
    token = Directory(call.world).install(
        app, grant.team, org_wide=grant.org_wide, scopes=grant.scopes
    )
    return describe(call, app, token) | {"authed_user": {"id": grant.user}}


def refresh(call: Call, app: App, value: str) -> Json:
    old = call.world.refresh_tokens.pop(value, None)
    if old is None or old.app != app.id or old.error:
        raise SlackError("invalid_refresh_token")
    token = dataclasses.replace(old, value=f"xoxe.xoxb-{call.world.new_id('token')}")
    call.world.tokens[token.value] = token
    return describe(call, app, token)


def describe(call: Call, app: App, token: Token) -> Json:
    """Return a token in the answer's form, with a refresh token when the app rotates them."""
    workspace = call.world.workspaces.get(token.team)
    enterprise = {"id": token.enterprise, "name": token.enterprise}
    answer: Json = {
        "app_id": app.id,
        "access_token": token.value,
        "token_type": "bot",
        "scope": ",".join(sorted(token.scopes)),
        "bot_user_id": token.user,
        "team": {"id": workspace.id, "name": workspace.name} if workspace else None,
        "enterprise": enterprise if token.enterprise else None,
        "is_enterprise_install": not token.team,
    }
    if app.rotates_tokens:
        token.expires_at = call.world.clock.now() + TOKEN_SECONDS
        refresh_token = f"xoxe-1-{call.world.new_id('refresh')}"
        call.world.refresh_tokens[refresh_token] = token
        answer |= {"refresh_token": refresh_token, "expires_in": int(TOKEN_SECONDS)}
    return answer


def uninstall(call: Call, arguments: Uninstall) -> Json:
    check_client(call, arguments.client_id, arguments.client_secret)
    call.services.events.uninstall(call.installation)
    return {}


def revoke(call: Call, arguments: Revoke) -> Json:
    if not arguments.test:
        call.services.events.revoke(call.token)
    return {"revoked": not arguments.test}


METHODS = (
    Method(
        name="oauth.v2.access",
        arguments=OAuthAccess,
        handler=access,
        per_minute=TIER_4,
        token="none",
    ),
    Method(name="apps.uninstall", arguments=Uninstall, handler=uninstall, per_minute=1),
    Method(name="auth.revoke", arguments=Revoke, handler=revoke, per_minute=TIER_3),
)
