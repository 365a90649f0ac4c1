"""The app in several workspaces: installation, tokens that end, removal."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest
from tests.plugins.channels.slack.slack_server import SlackServer, secret, serving, until
from yarl import URL

from palaver.clock import SteadyClock
from palaver.ledger import Ledger
from palaver.messages import Conversation
from palaver.platforms import Refused, Unreachable
from palaver.testing.fakes.slack import FakeSlack
from palaver.testing.ledger import MemoryLedger
from palaver_plugins.channels.slack.manifest import BOT_SCOPES, INSTALL_PATH, REDIRECT_PATH
from palaver_plugins.channels.slack.stores import (
    STATE_SECONDS,
    RecordInstallationStore,
    RecordStateStore,
    StoredInstallation,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:BasicAuth is deprecated"),  # slack_sdk uses it
]


@contextlib.asynccontextmanager
async def serving_many(
    slack: FakeSlack, *, ledger: Ledger | None = None, **changes: Any
) -> AsyncIterator[SlackServer]:
    """Run a server for several workspaces."""
    changes = {
        "token": None,
        "client_id": slack.app.client_id,
        "client_secret": secret("CLIENT", slack.app.client_secret),
    } | changes
    async with serving(slack, ledger=ledger, **changes) as bot:
        slack.app.redirect_urls = [f"{bot.url}{REDIRECT_PATH}"]
        yield bot


async def get(url: str | URL, cookie: str = "") -> tuple[int, str, str, str]:
    """Return status, Location, cookie and body of a page."""
    headers = {"Cookie": cookie} if cookie else {}
    async with (
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
        session.get(url, headers=headers, allow_redirects=False) as response,
    ):
        sent = response.headers.get("Set-Cookie", "").partition(";")[0]
        return response.status, response.headers.get("Location", ""), sent, await response.text()


async def begin(bot: SlackServer) -> tuple[str, str]:
    """Go to Slack's consent page; return the address to which it sends back, and the cookie."""
    status, consent, cookie, _ = await get(bot.url + INSTALL_PATH)
    assert status == 302
    status, callback, _, body = await get(consent)
    assert status == 302, body
    return callback, cookie


async def install(bot: SlackServer) -> None:
    """Install the app in the workspace of `FakeSlack.consent`."""
    callback, cookie = await begin(bot)
    status, _, _, body = await get(callback, cookie)
    assert status == 200, body
    assert "Thank you" in body


async def test_an_installed_workspace_is_answered_and_is_a_tenant() -> None:
    async with FakeSlack() as slack, serving_many(slack) as bot:
        team = slack.add_workspace("Other")
        eve = slack.add_user("Eve", team=team)
        slack.consent.team, slack.consent.user = team, eve
        await install(bot)
        direct = slack.direct(eve)
        ts = await slack.say(direct, eve, "say it")
        conversation = Conversation(team, "slack", f"{team}.{direct}.{ts}")
        assert await bot.until_answered(conversation)
        [entry] = await bot.said(conversation)
        assert entry.person == f"slack.{team}.{eve}"
        client = await bot.channel.installations.client(team)
        assert client.token == list(slack.world.tokens.values())[-1].value


async def test_workspaces_can_be_given_tenants() -> None:
    async with FakeSlack() as slack, serving_many(slack, tenants={slack.team: "acme"}) as bot:
        await install(bot)
        direct = slack.direct(slack.ada)
        ts = await slack.say(direct, slack.ada, "say it")
        assert await bot.until_answered(bot.conversation(direct, ts, tenant="acme"))


async def test_a_workspace_without_the_app_is_not_answered() -> None:
    async with FakeSlack() as slack, serving_many(slack) as bot:
        direct = slack.direct(slack.ada)
        ts = await slack.say(direct, slack.ada, "say it")
        await slack.wait_until_delivered()
        assert slack.deliveries[0].attempts[0].status == 200
        assert await bot.said(bot.conversation(direct, ts, tenant=slack.team)) == []
        with pytest.raises(Refused, match="is not installed in T0000000001"):
            await bot.channel.installations.client(slack.team)


async def test_the_consent_page_asks_for_the_scopes_of_the_manifest() -> None:
    async with FakeSlack() as slack, serving_many(slack) as bot:
        _, consent, _, _ = await get(bot.url + INSTALL_PATH)
        assert URL(consent).query["scope"].split(",") == list(BOT_SCOPES)
        assert URL(consent).query["user_scope"] == ""


async def test_the_public_address_is_where_slack_sends_back() -> None:
    public = "https://bot.example.org"
    async with FakeSlack() as slack, serving_many(slack, public_url=public) as bot:
        slack.app.redirect_urls = [public + REDIRECT_PATH]
        callback, cookie = await begin(bot)
        assert callback.startswith(public + REDIRECT_PATH)
        status, _, _, _ = await get(callback.replace(public, bot.url), cookie)
        assert status == 200
        assert await bot.channel.installations.bot(slack.team)


async def test_an_installation_on_another_server_counts_here() -> None:
    ledger = MemoryLedger()
    async with (
        FakeSlack() as slack,
        serving_many(slack, ledger=ledger) as here,
        serving_many(slack, ledger=ledger) as there,
    ):
        callback, cookie = await begin(here)
        status, _, _, _ = await get(callback.replace(here.url, there.url), cookie)
        assert status == 200
        assert await here.channel.installations.bot(slack.team)


async def test_a_state_counts_once_and_in_its_browser_only() -> None:
    async with FakeSlack() as slack, serving_many(slack) as bot:
        callback, cookie = await begin(bot)
        assert (await get(callback))[0] == 400
        assert (await get(callback, f"{cookie}x"))[0] == 400
        assert await bot.channel.installations.bot(slack.team) is None
        assert (await get(callback, cookie))[0] == 200
        assert (await get(callback, cookie))[0] == 401


@pytest.mark.parametrize("state", ["", "x", "1-2-3", "1700000000-00-ü"])
async def test_a_state_that_is_none_of_ours_is_refused(state: str) -> None:
    async with FakeSlack() as slack, serving_many(slack) as bot:
        url = URL(bot.url + REDIRECT_PATH).with_query(code="1", state=state)
        status, _, _, _ = await get(url, f"slack-app-oauth-state={state}")
        assert status in (400, 401)


async def test_somebody_who_declines_is_told_so() -> None:
    async with FakeSlack() as slack, serving_many(slack) as bot:
        slack.consent.is_denied = True
        callback, cookie = await begin(bot)
        status, _, _, body = await get(callback, cookie)
        assert status == 200
        assert "access_denied" in body
        assert await bot.channel.installations.bot(slack.team) is None


async def test_a_reason_in_the_address_is_shown_as_text() -> None:
    async with FakeSlack() as slack, serving_many(slack) as bot:
        url = URL(bot.url + REDIRECT_PATH).with_query(error="<script>")
        assert "<script>" not in (await get(url))[3]


async def test_an_installation_while_slack_is_away_can_be_tried_again() -> None:
    async with FakeSlack() as slack, serving_many(slack) as bot:
        callback, cookie = await begin(bot)
        slack.faults.lose_request("oauth.v2.access")
        assert (await get(callback, cookie))[0] == 503
        await install(bot)


# Organizations


async def test_an_organization_is_one_installation_of_all_its_workspaces() -> None:
    async with FakeSlack() as slack, serving_many(slack) as bot:
        first = slack.add_workspace("First", enterprise="E0000000001")
        second = slack.add_workspace("Second", enterprise="E0000000001")
        eve = slack.add_user("Eve", team=first)
        walt = slack.add_user("Walt", team=second)
        slack.consent.team, slack.consent.user, slack.consent.org_wide = first, eve, True
        await install(bot)
        for person in (eve, walt):
            assert person.startswith("W")
            direct = slack.direct(person)
            ts = await slack.say(direct, person, "say it")
            thread = f"E0000000001.{direct}.{ts}"
            conversation = Conversation("E0000000001", "slack", thread)
            assert await bot.until_answered(conversation)
            [entry] = await bot.said(conversation)
            assert entry.person == f"slack.E0000000001.{person}"


async def test_commands_and_buttons_in_an_organization_have_no_workspace() -> None:
    async with FakeSlack() as slack, serving_many(slack) as bot:
        team = slack.add_workspace("First", enterprise="E0000000001")
        eve = slack.add_user("Eve", team=team)
        slack.consent.team, slack.consent.user, slack.consent.org_wide = team, eve, True
        await install(bot)
        direct = slack.direct(eve)
        assert (await slack.command(direct, eve, "/palaver", "say it")).body == b""
        [post] = slack.conversation(direct)
        conversation = Conversation("E0000000001", "slack", f"E0000000001.{direct}.{post.ts}")
        assert await bot.until_answered(conversation)


async def test_the_token_of_an_organization_can_be_in_the_settings() -> None:
    async with FakeSlack() as slack:
        team = slack.add_workspace("First", enterprise="E0000000001")
        eve = slack.add_user("Eve", team=team)
        token = slack.install(team, org_wide=True)
        async with serving(slack, token=secret("ORG", token.value)) as bot:
            direct = slack.direct(eve)
            ts = await slack.say(direct, eve, "say it")
            conversation = Conversation("default", "slack", f"E0000000001.{direct}.{ts}")
            assert await bot.until_answered(conversation)


# Removal


@pytest.mark.parametrize("is_revoked", [False, True])
async def test_replies_wait_for_the_app_to_be_installed_again(is_revoked: bool) -> None:
    async with FakeSlack() as slack, serving_many(slack) as bot:
        await install(bot)
        installations = bot.channel.installations
        direct = slack.direct(slack.ada)
        bot.board.faults["create", 1] = "refused"
        ts = await slack.say(direct, slack.ada, "say it")
        await until(lambda: bot.board.calls.count("create") == 1)
        token = (await installations.client(slack.team)).token
        assert token is not None
        await (slack.revoke(token) if is_revoked else slack.uninstall(slack.team))
        await slack.wait_until_delivered()
        with pytest.raises(Refused):
            await installations.client(slack.team)
        await install(bot)
        assert await bot.until_answered(bot.conversation(direct, ts, tenant=slack.team))


async def test_a_token_of_a_person_that_ends_is_no_removal() -> None:
    async with FakeSlack() as slack, serving_many(slack) as bot:
        await install(bot)
        event = {"type": "tokens_revoked", "tokens": {"oauth": [slack.ada], "bot": []}}
        assert await bot.send_event(event) == 200
        assert await bot.channel.installations.bot(slack.team)


# Tokens that end


async def expire(bot: SlackServer, ledger: Ledger, seconds: int) -> StoredInstallation:
    """Let the token of the bot end in that many seconds; return the installation as it was."""
    store = RecordInstallationStore(ledger, "slack", _ignore)
    stored = await store.read(bot.slack.team)
    assert stored is not None
    end = int(SteadyClock()()) + seconds
    await store.write(msgspec.structs.replace(stored, bot_token_expires_at=end))
    return stored


async def _ignore(id: str) -> None: ...


async def test_a_token_is_renewed_once_by_all_servers() -> None:
    ledger = MemoryLedger()
    async with FakeSlack() as slack:
        slack.app.rotates_tokens = True
        async with (
            serving_many(slack, ledger=ledger) as here,
            serving_many(slack, ledger=ledger) as there,
        ):
            await install(there)
            fresh = await here.channel.installations.client(slack.team)
            old = await expire(here, ledger, 3600)
            assert fresh.token == old.bot_token
            asked = [bot.channel.installations.client(slack.team) for bot in (here, there) * 5]
            tokens = {client.token for client in await asyncio.gather(*asked)}
            assert len(slack.calls("oauth.v2.access")) == 2
            new = (await there.channel.installations.client(slack.team)).token
            assert new != old.bot_token
            assert tokens <= {new, old.bot_token}


async def test_an_ended_token_is_used_by_no_server() -> None:
    ledger = MemoryLedger()
    async with FakeSlack() as slack:
        slack.app.rotates_tokens = True
        async with (
            serving_many(slack, ledger=ledger) as here,
            serving_many(slack, ledger=ledger) as there,
        ):
            await install(there)
            old = await expire(here, ledger, -1)
            asked = [bot.channel.installations.client(slack.team) for bot in (here, there) * 2]
            [token] = {client.token for client in await asyncio.gather(*asked)}
            assert token != old.bot_token
            assert len(slack.calls("oauth.v2.access")) == 2


async def test_a_token_that_cannot_be_renewed_is_used_to_its_end() -> None:
    ledger = MemoryLedger()
    async with FakeSlack() as slack:
        slack.app.rotates_tokens = True
        async with serving_many(slack, ledger=ledger) as bot:
            await install(bot)
            old = await expire(bot, ledger, 3600)
            slack.faults.refuse("oauth.v2.access", "invalid_refresh_token")
            client = await bot.channel.installations.client(slack.team)
            assert client.token == old.bot_token
            await expire(bot, ledger, -1)
            slack.faults.lose_request("oauth.v2.access")
            with pytest.raises(Unreachable):
                await bot.channel.installations.client(slack.team)
            slack.faults.refuse("oauth.v2.access", "invalid_refresh_token")
            with pytest.raises(Refused):
                await bot.channel.installations.client(slack.team)
            client = await bot.channel.installations.client(slack.team)
            assert client.token != old.bot_token


# Stores


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


async def test_a_state_lives_for_ten_minutes_and_leaves_nothing() -> None:
    ledger, clock = MemoryLedger(), Clock()
    store = RecordStateStore(ledger, "slack", "secret", clock)
    other = RecordStateStore(ledger, "slack", "another secret", clock)
    first, late = await store.async_issue(), await store.async_issue()
    assert await ledger.list_records("slack") == ()
    assert not await other.async_consume(first)
    assert await store.async_consume(first)
    assert not await store.async_consume(first)
    clock.now += STATE_SECONDS + 1
    assert not await store.async_consume(late)
    assert await store.async_consume(await store.async_issue())
    assert len(await ledger.list_records("slack")) == 1


async def test_installations_are_found_and_deleted_as_slack_bolt_asks() -> None:
    store = RecordInstallationStore(MemoryLedger(), "slack", _ignore)
    stored = StoredInstallation(team_id="T1", bot_token="xoxb-1", bot_user_id="U1", user_id="U2")
    await store.async_save(stored.to_installation())
    found = await store.async_find_installation(enterprise_id=None, team_id="T1")
    assert found is not None
    assert (found.bot_token, found.user_id) == ("xoxb-1", "U2")
    assert not await store.async_find_installation(enterprise_id=None, team_id="T1", user_id="U3")
    bot = await store.async_find_bot(enterprise_id=None, team_id="T1")
    assert bot is not None
    assert bot.bot_token == "xoxb-1"
    assert await store.async_find_bot(enterprise_id="E1", team_id="T2") is None
    await store.async_delete_all(enterprise_id=None, team_id="T1")
    assert await store.async_find_bot(enterprise_id=None, team_id="T1") is None
