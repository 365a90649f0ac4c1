"""A stop from Slack and Discord frees the engine's slot, by vLLM's own count, within a second."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from tests.live.test_stop import CONTEXT_TOKENS, SLOT_FREE_SECONDS, serving_vllm
from tests.plugins.channels.discord.support import fake_discord, restored_addresses
from tests.plugins.channels.discord.test_conformance import DiscordUnderTest
from tests.plugins.channels.slack.test_conformance import SlackUnderTest
from tests.plugins.engines.models import ENDLESS_PROMPT, write_model
from tests.plugins.engines.serving import build_openai
from tests.plugins.engines.support import wait_until

from palaver import Sampling, Turn
from palaver.testing.channels import ChannelUnderTest, Obeys, ServerUnderTest
from palaver.testing.fakes.slack import FakeSlack

pytestmark = [pytest.mark.live, pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

Count = Callable[[], Awaitable[int]]


class WritesForEver(Obeys):
    """Write until somebody stops it."""

    async def answer(self, turn: Turn) -> None:
        sampling = Sampling(max_tokens=CONTEXT_TOKENS // 2, temperature=0)
        await turn.stream(ENDLESS_PROMPT, sampling=sampling)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def vllm(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[str, Count]]:
    model = write_model(Path(tmp_path_factory.mktemp("stop")) / "walker", context=CONTEXT_TOKENS)
    async with serving_vllm(model) as serving:
        yield serving


@asynccontextmanager
async def slack_with_its_own_button() -> AsyncIterator[ChannelUnderTest]:
    async with FakeSlack() as slack:
        slack.rules.rate_limits = False
        yield SlackUnderTest(slack, is_agent=True)


@asynccontextmanager
async def slack_with_our_button() -> AsyncIterator[ChannelUnderTest]:
    async with FakeSlack() as slack:
        slack.rules.rate_limits = False
        slack.app.is_agent = False
        yield SlackUnderTest(slack, is_agent=False)


@asynccontextmanager
async def discord() -> AsyncIterator[ChannelUnderTest]:
    with restored_addresses():
        async with fake_discord() as fake:
            yield DiscordUnderTest(fake)


@pytest.mark.parametrize(
    "platform",
    [slack_with_its_own_button, slack_with_our_button, discord],
    ids=lambda it: it.__name__,
)
async def test_a_stop_frees_the_slot(
    platform: Callable[[], AbstractAsyncContextManager[ChannelUnderTest]], vllm: tuple[str, Count]
) -> None:
    url, running = vllm

    async def runs(count: int) -> bool:
        return await running() == count

    async with platform() as channel:
        servers = ServerUnderTest(channel, build_openai(url))
        servers.skill = WritesForEver()
        await servers.start()
        try:
            await servers.say("write")
            await servers.until(lambda: "Stop" in _buttons(channel))
            await wait_until(lambda: runs(1))
            await channel.press("Stop")
            await wait_until(lambda: runs(0), SLOT_FREE_SECONDS)
            await servers.until_settled()
            assert servers.texts()[-1]
            assert "Stop" not in _buttons(channel)
        finally:
            await servers.stop()


def _buttons(channel: ChannelUnderTest) -> list[str]:
    return [label for message in channel.shown() for label in message.buttons]
