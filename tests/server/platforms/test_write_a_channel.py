"""The channel of docs/write-a-channel.md is complete: it passes the conformance suite."""

import contextlib
import importlib.util
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.server.platforms.fake_telegram import TOKEN, FakeTelegram, Json

from palaver.channels import Channel
from palaver.config.settings import AdmissionSettings, Secret
from palaver.errors import TooMany
from palaver.platforms import PlatformChannel, Times
from palaver.testing.channels import (
    ChannelConformance,
    ChannelUnderTest,
    Fault,
    ServerUnderTest,
    ShownMessage,
)

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[3] / "docs" / "write-a-channel.md"
MAX_LINES = 150


@pytest.fixture(scope="session")
def telegram_code() -> str:
    match = re.search(r"^## The channel$.*?^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    assert match is not None
    return match[1]


@pytest.fixture
def telegram_module(telegram_code: str, tmp_path: Path) -> Any:
    path = tmp_path / "palaver_telegram.py"
    path.write_text(telegram_code)
    spec = importlib.util.spec_from_file_location("palaver_telegram", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["palaver_telegram"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["palaver_telegram"]


@pytest.fixture
def tokens(tmp_path: Path) -> tuple[Path, Path]:
    """The files of the bot's token and of one that Telegram does not know."""
    paths = tmp_path / "token", tmp_path / "unknown"
    paths[0].write_text(TOKEN)
    paths[1].write_text("456:unknown")
    return paths


def test_the_channel_is_short(telegram_code: str) -> None:
    lines = telegram_code.count("\n")
    assert lines <= MAX_LINES
    assert f"Telegram, {lines} lines" in " ".join(PAGE.read_text().split())


class TelegramUnderTest(ChannelUnderTest):
    name = "telegram"
    lacks = frozenset({"lookup"})

    def __init__(self, module: Any, telegram: FakeTelegram, tokens: tuple[Path, Path]) -> None:
        self._module = module
        self.telegram = telegram
        self._token, self._unknown_token = tokens
        self._last: Json = {}

    def build(self) -> Channel:
        return self._build(self._token)

    def build_broken(self) -> Channel:
        return self._build(self._unknown_token)

    def _build(self, token: Path) -> Channel:
        settings = self._module.Settings(token=Secret(f"file:{token}"), api=self.telegram.url)
        channel: Channel = self._module.TelegramChannel(settings)
        assert isinstance(channel, PlatformChannel)
        channel.times = Times(poll=0.02, retries=(0.005,) * 3, retry_later=0.02)
        channel.platform.edit_interval = 0.01
        return channel

    async def say(
        self,
        text: str,
        *,
        person: str = "ada",
        thread: str = "t1",
        is_direct: bool = False,
        is_bot: bool = False,
        file: tuple[str, bytes] | None = None,
    ) -> None:
        chat = {"id": _chat_id(thread, is_direct), "type": "private" if is_direct else "group"}
        self._last = self.telegram.write(chat, _person(person, is_bot), text, file)

    async def redeliver(self) -> None:
        self.telegram.deliver({"message": self._last})

    def shown(self, thread: str = "t1", *, is_direct: bool = False) -> list[ShownMessage]:
        return self.telegram.shown(str(_chat_id(thread, is_direct)))

    async def press(self, label: str, *, person: str = "ada", thread: str = "t1") -> None:
        self.telegram.press(str(_chat_id(thread, False)), _person(person, False), label)

    def fail(self, fault: Fault, calls: int = 1) -> None:
        self.telegram.fault, self.telegram.failing_calls = fault, calls

    def mentions(self) -> int:
        texts = [
            message.text for chat in self.telegram.chats for message in self.telegram.shown(chat)
        ]
        return sum(len(re.findall(r"@\w", text)) for text in texts)


def _chat_id(thread: str, is_direct: bool) -> int:
    number = int(thread.removeprefix("t"))
    return number if is_direct else -number


def _person(name: str, is_bot: bool) -> Json:
    return {"id": sum(name.encode()), "is_bot": is_bot, "first_name": name}


class TestTelegram(ChannelConformance):
    @pytest.fixture
    async def channel(
        self, telegram_module: Any, tokens: tuple[Path, Path]
    ) -> AsyncIterator[ChannelUnderTest]:
        async with FakeTelegram() as telegram:
            yield TelegramUnderTest(telegram_module, telegram, tokens)

    async def test_who_writes_too_much_delays_nobody(self, channel: TelegramUnderTest) -> None:
        async with serving(channel) as servers:
            await servers.say("hold")
            await servers.until(lambda: servers.texts() != [])
            for number in range(AdmissionSettings().inbox_limit + 1):
                await servers.say(f"say {number}")
            await servers.say("say hello", person="bob", thread="t2")
            await servers.until_shown("You said hello.", thread="t2")
            assert servers.texts()[-1] == TooMany.public_message
            servers.skill.may_continue.set()

    async def test_a_button_that_was_pressed_long_ago_delays_nobody(
        self, channel: TelegramUnderTest
    ) -> None:
        channel.telegram.queries_are_old = True
        async with serving(channel) as servers:
            await servers.say("ask")
            await servers.until(lambda: any("coffee" in each.buttons for each in channel.shown()))
            await channel.press("coffee")
            await servers.say("say hello", thread="t2")
            await servers.until_shown("You said hello.", thread="t2")
            assert servers.texts()[-1] == "One coffee, please."


@contextlib.asynccontextmanager
async def serving(channel: TelegramUnderTest) -> AsyncIterator[ServerUnderTest]:
    servers = ServerUnderTest(channel)
    await servers.start()
    try:
        yield servers
    finally:
        await servers.stop()
