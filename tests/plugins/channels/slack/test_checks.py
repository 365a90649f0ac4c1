"""Wrong settings: one sentence each, from the check and at the start; the server runs."""

from typing import Any

import pytest
from tests.plugins.channels.slack.slack_server import secret, serving, slack_settings
from tests.server.platforms.board import Board

from palaver.config.settings import Secret
from palaver.testing.fakes.slack import FakeSlack
from palaver_plugins.channels.slack.channel import SlackChannel
from palaver_plugins.channels.slack.http_route import WRONG_SIGNATURE
from palaver_plugins.channels.slack.manifest import BOT_SCOPES
from palaver_plugins.channels.slack.settings import SlackSettings

pytestmark = pytest.mark.filterwarnings("ignore:BasicAuth is deprecated")  # slack_sdk uses it


async def check(slack: FakeSlack, **changes: Any) -> list[str]:
    channel = SlackChannel(slack_settings(slack, **changes), lambda installations: Board())
    return list(await channel.check())


async def test_a_channel_that_works_has_no_problems() -> None:
    async with FakeSlack() as slack:
        assert await check(slack) == []
        slack.app.uses_socket_mode = True
        assert await check(slack, mode="socket") == []
        client = secret("CLIENT", slack.app.client_secret)
        assert (
            await check(slack, token=None, client_id=slack.app.client_id, client_secret=client)
            == []
        )
        assert slack.sockets == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"token": None}, "channels.slack.token is missing: refer to the token of the bot"),
        (
            {"token": Secret("env:TEST_OF_SLACK_NONE")},
            "channels.slack.token: env:TEST_OF_SLACK_NONE is empty",
        ),
        ({"token": Secret("file:/no/such/file")}, "channels.slack.token: "),
        ({"token": secret("PERSON", "xoxp-1")}, "channels.slack.token is not the token of a bot"),
        (
            {"client_id": "1.2", "client_secret": secret("ANY", "x")},
            "channels.slack has a token and a client_id",
        ),
        ({"token": None, "client_id": "1.2"}, "channels.slack.client_secret is missing"),
        ({"signing_secret": None}, "channels.slack.signing_secret is missing"),
        ({"mode": "socket", "app_token": None}, "channels.slack.app_token is missing"),
        (
            {"mode": "socket", "app_token": secret("BOT", "xoxb-1")},
            "channels.slack.app_token is not an app-level token",
        ),
    ],
)
async def test_a_missing_or_wrong_secret_is_one_sentence(
    changes: dict[str, Any], problem: str
) -> None:
    async with FakeSlack() as slack:
        [found] = await check(slack, **changes)
        assert found.startswith(problem)
        async with serving(slack, **changes) as bot:
            assert bot.server.closed_channels["slack"].startswith(problem)
        assert slack.requests == []


async def test_several_problems_are_several_sentences() -> None:
    async with FakeSlack() as slack:
        assert len(await check(slack, token=None, signing_secret=None)) == 2


async def test_a_token_that_slack_refuses_is_one_sentence() -> None:
    async with FakeSlack() as slack:
        wrong = secret("WRONG", "xoxb-wrong")
        sentence = "Slack refuses channels.slack.token: invalid_auth; install the app in the"
        [problem] = await check(slack, token=wrong)
        assert problem.startswith(sentence)
        async with serving(slack, token=wrong) as bot:
            assert bot.server.closed_channels["slack"].startswith(sentence)
            assert await slack.send_forged(bot.events_url, {"type": "any"}) == 404


async def test_scopes_that_the_token_lacks_are_named() -> None:
    async with FakeSlack() as slack:
        scopes = [scope for scope in BOT_SCOPES if scope not in ("files:read", "commands")]
        token = secret("FEW", slack.install(slack.team, scopes=scopes).value)
        [problem] = await check(slack, token=token)
        assert problem.startswith(
            "the token of channels.slack lacks the scopes commands, files:read;"
        )
        async with serving(slack, token=token) as bot:  # it works as far as it can
            assert bot.channel.problem == problem
            ts = await slack.mention(slack.general, slack.ada, "say it")
            await bot.until_answered(bot.conversation(slack.general, ts))


async def test_a_wrong_signing_secret_is_one_sentence_after_the_first_request() -> None:
    """Slack cannot be asked whether it is right."""
    async with FakeSlack() as slack, serving(slack, signing_secret=secret("OTHER", "x")) as bot:
        await bot.slack.verify_url(bot.url)  # nothing is there, and no signature is looked at
        assert bot.channel.problem == ""
        assert not await slack.verify_url(bot.events_url)
        assert bot.channel.problem == WRONG_SIGNATURE


async def test_a_wrong_signature_after_a_right_one_is_no_problem_of_the_settings() -> None:
    async with FakeSlack() as slack, serving(slack) as bot:
        await slack.send_forged(bot.events_url, {"type": "x"}, secret="another")
        assert bot.channel.problem == WRONG_SIGNATURE
        assert await slack.verify_url(bot.events_url)
        await slack.send_forged(bot.events_url, {"type": "x"}, secret="another")
        assert bot.channel.problem == ""


async def test_an_app_token_that_slack_refuses_is_one_sentence() -> None:
    async with FakeSlack() as slack:
        [problem] = await check(slack, mode="socket", app_token=secret("WRONG", "xapp-wrong"))
        assert problem.startswith("Slack refuses channels.slack.app_token: invalid_auth; it needs")


@pytest.mark.parametrize("field", ["client_id", "client_secret"])
async def test_a_client_that_slack_does_not_know_is_one_sentence(field: str) -> None:
    async with FakeSlack() as slack:
        changes: dict[str, Any] = {
            "token": None,
            "client_id": slack.app.client_id,
            "client_secret": secret("CLIENT", slack.app.client_secret),
        }
        wrong = {"client_id": "1.2", "client_secret": secret("CLIENT_WRONG", "wrong")}
        [problem] = await check(slack, **changes | {field: wrong[field]})
        assert problem.startswith("Slack refuses channels.slack.client_id or client_secret: ")


async def test_an_address_without_encryption_is_one_sentence() -> None:
    async with FakeSlack() as slack:
        [problem] = await check(slack, public_url="http://bot.example.org")
        assert problem.startswith("channels.slack.public_url does not begin with https://")


async def test_slack_may_not_answer() -> None:
    async with FakeSlack() as slack:
        slack.faults.lose_request("auth.test")
        [problem] = await check(slack)
        assert problem.startswith(f"Slack cannot be asked at {slack.api_url}: ")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("command", "palaver"),
        ("command", "/Palaver"),
        ("tenant", "a/b"),
        ("tenants", {"acme": "acme"}),
        ("tenants", {"T1234": "a:b"}),
        ("api_url", "slack.com"),
        ("public_url", "bot.example.org"),
    ],
)
def test_a_wrong_value_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        SlackSettings.model_validate({field: value})


def test_addresses_may_end_in_a_slash_or_not() -> None:
    settings = SlackSettings(api_url="https://slack.com/api", public_url="https://b.example/")
    assert settings.api_url == "https://slack.com/api/"
    assert settings.public_url == "https://b.example"
