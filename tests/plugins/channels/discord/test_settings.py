"""What keeps the channel from working is one sentence, and the rest of the server runs."""

import subprocess
import sys
from typing import Any

import pydantic
import pytest
from tests.plugins.channels.discord.support import (
    QuickChannel,
    Replicas,
    fake_discord,
    restored_addresses,
    serving,
    settings_for,
    until,
)

from palaver import Secret
from palaver.testing.fakes.discord import DiscordLimits, FakeDiscord
from palaver_plugins.channels.discord.settings import DiscordSettings
from palaver_plugins.channels.discord.webhook import PATH

pytestmark = pytest.mark.slow


async def check(fake: FakeDiscord, **settings: Any) -> list[str]:
    with restored_addresses():
        return list(await QuickChannel(settings_for(fake, **settings)).check())


async def problem_of(fake: FakeDiscord, **settings: Any) -> str:
    """Start a server and return what is wrong with its channel."""
    replicas = Replicas(fake, None, None)
    with restored_addresses():
        try:
            await replicas.start(QuickChannel(settings_for(fake, **settings)))
            await until(lambda: bool(replicas.server.channel_problem("discord")))
            assert not replicas.server.readiness()
            return replicas.server.channel_problem("discord")
        finally:
            for replica in list(replicas.running):
                await replicas.stop(replica)


def is_sentence(text: str) -> bool:
    return "\n" not in text and 20 < len(text) < 300


async def test_everything_is_well(fake: FakeDiscord) -> None:
    assert await check(fake) == []
    assert fake.gateway.identifies == []


async def test_a_bad_token(fake: FakeDiscord) -> None:
    (problem,) = await check(fake, token="wrong")
    assert "refuses the token in env:DISCORD_TOKEN_" in problem
    assert is_sentence(problem)
    assert await problem_of(fake, token="wrong") == problem


async def test_a_token_that_is_not_set(fake: FakeDiscord) -> None:
    with restored_addresses():
        settings = DiscordSettings(token=Secret("env:NO_SUCH_TOKEN"), api_url=fake.api_url)
        (problem,) = await QuickChannel(settings).check()
    assert problem == "env:NO_SUCH_TOKEN is empty or not set"


async def test_the_intent_is_off() -> None:
    async with fake_discord(message_content=False) as fake:
        (problem,) = await check(fake)
        assert problem.startswith("the Message Content intent is off: switch it on")
        assert is_sentence(problem)
        assert await problem_of(fake) == problem
        assert await check(fake, message_content=False) == []
        assert fake.gateway.identifies == []


async def test_the_intent_is_switched_off_while_the_bot_runs(fake: FakeDiscord) -> None:
    async with serving(fake) as replicas:
        fake.gateway.close(4014)
        await until(lambda: "the Message Content intent is off" in replicas.channel.problem)


@pytest.mark.parametrize(
    ("code", "problem"),
    [(4004, "refuses the bot's token"), (4011, 'set shards = "auto"'), (4013, "newer")],
)
async def test_discord_ends_the_connection_for_good(
    fake: FakeDiscord, code: int, problem: str
) -> None:
    async with serving(fake) as replicas:
        fake.gateway.close(code)
        await until(lambda: problem in replicas.channel.problem)
        assert is_sentence(replicas.channel.problem)


async def test_a_bot_with_too_many_servers_for_one_connection() -> None:
    limits = DiscordLimits(guilds_per_shard=1, identify_seconds=0.0)
    async with fake_discord(limits=limits) as fake:
        assert "too many servers" in await problem_of(fake)


async def test_a_broken_connection_is_a_problem_until_it_is_open_again(fake: FakeDiscord) -> None:
    async with serving(fake) as replicas:
        limits = fake.faults.hang("GET /gateway/bot")
        fake.gateway.invalidate(resumable=False)
        await until(lambda: limits.waiting == 1)
        assert "is broken" in replicas.channel.problem
        limits.release()
        await until(lambda: not replicas.channel.problem)


async def test_discord_cannot_be_reached() -> None:
    async with fake_discord() as fake:
        settings = settings_for(fake)
    with restored_addresses():
        (problem,) = await QuickChannel(settings).check()
    assert problem.startswith("Discord cannot be reached")


async def test_the_public_key_and_the_address_of_the_endpoint(fake: FakeDiscord) -> None:
    key = fake.endpoint.public_key
    (problem,) = await check(fake, interactions="webhook", public_key="0" * 64)
    assert "public_key is not that of the application" in problem
    (problem,) = await check(fake, interactions="webhook", public_key=key)
    assert PATH in problem
    fake.state.application.interactions_url = f"https://palaver.example{PATH}"
    assert await check(fake, interactions="webhook", public_key=key) == []
    (problem,) = await check(fake)
    assert "remove this Interactions Endpoint URL" in problem


@pytest.mark.parametrize(
    "settings",
    [
        {"interactions": "webhook"},
        {"public_key": "not a key"},
        {"shards": 0},
        {"shards": "many"},
        {"threads": "always"},
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        DiscordSettings(token=Secret("env:TOKEN"), **settings)


# The library

WITHOUT_LIBRARY = """
import asyncio, sys
for name in ("discord", "nacl", "nacl.signing"):
    sys.modules[name] = None
from palaver import ConfigurationError
from palaver_plugins.channels import discord
(backend,) = discord.palaver_register_channels()
try:
    backend.build(backend.settings(token="env:TOKEN"), None)
except ConfigurationError as error:
    print(error)
"""
WITH_LIBRARY = """
import sys, warnings
warnings.simplefilter("error")
from palaver_plugins.channels import discord
(backend,) = discord.palaver_register_channels()
assert "discord" not in sys.modules and "aiohttp" not in sys.modules and "nacl" not in sys.modules
backend.build(backend.settings(token="env:TOKEN"), None)
assert "discord" in sys.modules
"""


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


def test_without_the_library_a_sentence_says_how_to_install_it() -> None:
    text = run(WITHOUT_LIBRARY)
    assert text.startswith("channel 'discord': ")
    assert text.endswith("install it with: pip install 'palaver-server[discord]'")
    assert is_sentence(text)


def test_the_library_is_imported_where_the_channel_is_built_and_warns_nobody() -> None:
    assert run(WITH_LIBRARY) == ""
