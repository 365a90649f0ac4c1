"""OAuth of the fake Slack, by the unmodified slack_sdk and slack_bolt."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
from aiohttp import web
from slack_bolt.adapter.aiohttp import to_aiohttp_response, to_bolt_request
from slack_bolt.app.async_app import AsyncApp
from slack_bolt.oauth.async_oauth_settings import AsyncOAuthSettings
from slack_sdk.errors import SlackApiError
from slack_sdk.oauth import AuthorizeUrlGenerator
from slack_sdk.oauth.installation_store import FileInstallationStore
from slack_sdk.oauth.state_store import FileOAuthStateStore
from slack_sdk.web.async_client import AsyncWebClient
from tests.server.testing.fakes.slack_support import error_of, make_client, receive

from palaver.testing.fakes.slack import FakeSlack

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:BasicAuth is deprecated"),  # slack_sdk uses it
]
REDIRECT = "https://app.example.com/slack/oauth_redirect"
SCOPES = ["chat:write", "channels:history"]


async def authorize(slack: FakeSlack, **changes: str) -> tuple[int, dict[str, str]]:
    """Open the consent page; return the status and the query of the redirect."""
    query = {
        "client_id": slack.app.client_id,
        "scope": ",".join(SCOPES),
        "state": "s1",
        "redirect_uri": REDIRECT,
    } | changes
    async with (
        aiohttp.ClientSession() as session,
        session.get(
            f"{slack.url}/oauth/v2/authorize", params=query, allow_redirects=False
        ) as response,
    ):
        location = urlsplit(response.headers.get("Location", ""))
        return response.status, {
            name: values[0] for name, values in parse_qs(location.query).items()
        }


async def exchange(slack: FakeSlack, code: str, **changes: str) -> dict[str, object]:
    arguments = {
        "client_id": slack.app.client_id,
        "client_secret": slack.app.client_secret,
        "code": code,
        "redirect_uri": REDIRECT,
    } | changes
    answer = await AsyncWebClient(base_url=slack.api_url).oauth_v2_access(**arguments)
    assert isinstance(answer.data, dict)
    return answer.data


async def refresh(slack: FakeSlack, token: object) -> dict[str, object]:
    return await exchange(
        slack, "", redirect_uri="", grant_type="refresh_token", refresh_token=str(token)
    )


async def test_a_code_is_exchanged_once_for_a_token(slack: FakeSlack) -> None:
    slack.app.redirect_urls = [REDIRECT]
    team = slack.consent.team = slack.add_workspace("Globex")
    status, query = await authorize(slack)
    assert (status, query["state"]) == (302, "s1")
    answer = await exchange(slack, query["code"])
    assert answer["team"] == {"id": team, "name": "Globex"}
    assert answer["scope"] == "channels:history,chat:write"
    assert "refresh_token" not in answer
    me = await make_client(slack, str(answer["access_token"])).auth_test()
    assert (me["team_id"], me["user_id"]) == (team, answer["bot_user_id"])
    with pytest.raises(SlackApiError) as failure:
        await exchange(slack, query["code"])
    assert error_of(failure) == "code_already_used"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"client_id": "x"}, "invalid_client_id"),
        ({"client_secret": "x"}, "bad_client_secret"),
        ({"code": "x"}, "invalid_code"),
        ({"redirect_uri": "https://other.example.com"}, "bad_redirect_uri"),
        ({"grant_type": "password"}, "invalid_grant_type"),
    ],
)
async def test_exchanges_that_slack_refuses(
    slack: FakeSlack, changes: dict[str, str], error: str
) -> None:
    slack.app.redirect_urls = [REDIRECT]
    code = (await authorize(slack))[1]["code"]
    with pytest.raises(SlackApiError) as failure:
        await exchange(slack, **({"code": code} | changes))
    assert error_of(failure) == error


async def test_a_code_expires(slack: FakeSlack) -> None:
    slack.app.redirect_urls = [REDIRECT]
    code = (await authorize(slack))[1]["code"]
    slack.clock.advance(600)
    with pytest.raises(SlackApiError) as failure:
        await exchange(slack, code)
    assert error_of(failure) == "invalid_code"


async def test_the_consent_page_checks_the_app(slack: FakeSlack) -> None:
    slack.app.redirect_urls = [REDIRECT]
    for change in (
        {"client_id": "x"},
        {"redirect_uri": "https://other.example.com"},
        {"scope": "admin"},
    ):
        assert (await authorize(slack, **change))[0] == 400
    slack.consent.is_denied = True
    assert (await authorize(slack))[1] == {"error": "access_denied", "state": "s1"}


async def test_tokens_rotate(slack: FakeSlack) -> None:
    slack.app.redirect_urls, slack.app.rotates_tokens = [REDIRECT], True
    first = await exchange(slack, (await authorize(slack))[1]["code"])
    assert first["expires_in"] == 12 * 3600
    second = await refresh(slack, first["refresh_token"])
    with pytest.raises(SlackApiError) as failure:
        await refresh(slack, first["refresh_token"])
    assert error_of(failure) == "invalid_refresh_token"
    slack.clock.advance(12 * 3600)
    with pytest.raises(SlackApiError) as failure:
        await make_client(slack, str(second["access_token"])).auth_test()
    assert error_of(failure) == "token_expired"
    third = await refresh(slack, second["refresh_token"])
    await make_client(slack, str(third["access_token"])).auth_test()


async def test_an_app_is_installed_in_an_organization(slack: FakeSlack) -> None:
    slack.app.redirect_urls = [REDIRECT]
    slack.consent.team = slack.add_workspace("Initech", enterprise="E1")
    slack.consent.org_wide = True
    answer = await exchange(slack, (await authorize(slack))[1]["code"])
    assert answer["team"] is None
    assert answer["is_enterprise_install"] is True
    assert answer["enterprise"] == {"id": "E1", "name": "E1"}


async def test_a_second_installation_keeps_the_bot(slack: FakeSlack) -> None:
    slack.app.redirect_urls = [REDIRECT]
    answer = await exchange(slack, (await authorize(slack))[1]["code"])
    assert answer["bot_user_id"] == slack.bot_user


async def test_uninstalling_ends_the_tokens_and_is_told(slack: FakeSlack) -> None:
    async with receive(slack) as app:
        await slack.uninstall(slack.team)
        await slack.wait_until_delivered()
    assert {body["event"]["type"] for body in app.events} == {"tokens_revoked", "app_uninstalled"}
    assert app.of_type("tokens_revoked")[0]["tokens"]["bot"] == [slack.bot_user]
    with pytest.raises(SlackApiError) as failure:
        await make_client(slack).chat_postMessage(channel=slack.general, text="x")
    assert error_of(failure) == "account_inactive"
    await slack.say(slack.general, slack.ada, "nobody hears this")
    assert len(slack.deliveries) == 2


async def test_a_revoked_token_is_told(slack: FakeSlack, client: AsyncWebClient) -> None:
    async with receive(slack) as app:
        await slack.revoke(slack.bot_token)
        await slack.wait_until_delivered()
    assert app.of_type("tokens_revoked")
    with pytest.raises(SlackApiError) as failure:
        await client.auth_test()
    assert error_of(failure) == "token_revoked"


async def test_an_app_uninstalls_itself(slack: FakeSlack, client: AsyncWebClient) -> None:
    await client.apps_uninstall(
        client_id=slack.app.client_id, client_secret=slack.app.client_secret
    )
    assert slack.world.installations == []


@contextlib.asynccontextmanager
async def serve_installer(slack: FakeSlack, folder: Path) -> AsyncIterator[str]:
    """Serve Bolt's pages of OAuth, and yield their address."""
    settings = AsyncOAuthSettings(
        client_id=slack.app.client_id,
        client_secret=slack.app.client_secret,
        scopes=SCOPES,
        installation_store=FileInstallationStore(base_dir=str(folder / "installations")),
        state_store=FileOAuthStateStore(expiration_seconds=600, base_dir=str(folder / "states")),
        install_page_rendering_enabled=False,
    )
    settings.authorize_url_generator = AuthorizeUrlGenerator(
        client_id=slack.app.client_id,
        scopes=SCOPES,
        authorization_url=f"{slack.url}/oauth/v2/authorize",
    )
    app = AsyncApp(
        client=AsyncWebClient(base_url=slack.api_url),
        signing_secret=slack.signing_secret,
        oauth_settings=settings,
    )

    async def handle(request: web.Request) -> web.Response:
        return await to_aiohttp_response(await app.async_dispatch(await to_bolt_request(request)))

    async def install(request: web.Request) -> web.Response:
        flow = app.oauth_flow
        assert flow is not None
        bolt_request = await to_bolt_request(request)
        if request.path == "/slack/install":
            return await to_aiohttp_response(await flow.handle_installation(bolt_request))
        return await to_aiohttp_response(await flow.handle_callback(bolt_request))

    server = web.Application()
    server.router.add_get("/slack/install", install)
    server.router.add_get("/slack/oauth_redirect", install)
    server.router.add_post("/slack/events", handle)
    runner = web.AppRunner(server, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_bolt_installs_itself(slack: FakeSlack, tmp_path: Path) -> None:
    team = slack.consent.team = slack.add_workspace("Globex")
    async with serve_installer(slack, tmp_path) as address, aiohttp.ClientSession() as browser:
        slack.app.redirect_urls = [f"{address}/slack/oauth_redirect"]
        async with browser.get(f"{address}/slack/install", allow_redirects=False) as response:
            consent = response.headers["Location"]
            state = response.cookies["slack-app-oauth-state"].value
        async with browser.get(consent, allow_redirects=False) as response:
            callback = response.headers["Location"]
        cookie = {"Cookie": f"slack-app-oauth-state={state}"}
        async with browser.get(callback, headers=cookie) as response:
            assert response.status == 200
    installed = FileInstallationStore(base_dir=str(tmp_path / "installations")).find_bot(
        enterprise_id=None, team_id=team
    )
    assert installed is not None
    assert installed.bot_token in slack.world.tokens
