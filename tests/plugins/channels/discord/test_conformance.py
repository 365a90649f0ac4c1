"""The Discord channel does what every channel has to do."""

from collections.abc import AsyncIterator

import pytest
from tests.plugins.channels.discord.support import (
    QuickChannel,
    fake_discord,
    labels,
    posted,
    restored_addresses,
    settings_for,
    until,
)

from palaver.channels import Channel
from palaver.testing.channels import ChannelConformance, ChannelUnderTest, Fault, ShownMessage
from palaver.testing.fakes.discord import DiscordChannel as Room
from palaver.testing.fakes.discord import DiscordFile, DiscordMessage, DiscordUser, FakeDiscord

pytestmark = pytest.mark.slow
POSTS = "POST */messages"


class DiscordUnderTest(ChannelUnderTest):
    name = "discord"

    def __init__(self, fake: FakeDiscord) -> None:
        self.fake = fake
        self.people = {"ada": fake.add_user("Ada")}
        self.rooms = {name: fake.add_channel(name) for name in ("t1", "t2")}
        self.last: DiscordMessage | None = None

    def build(self) -> Channel:
        return QuickChannel(settings_for(self.fake))

    def build_broken(self) -> Channel | None:
        return QuickChannel(settings_for(self.fake, token="wrong"))

    async def connect(self, address: str) -> None:
        await until(lambda: bool(self.fake.gateway.connected))

    def _room(self, thread: str, is_direct: bool) -> Room:
        return self.fake.open_direct(self.people["ada"]) if is_direct else self.rooms[thread]

    def _person(self, name: str, *, is_bot: bool = False) -> DiscordUser:
        if name not in self.people:
            self.people[name] = self.fake.add_user(name, is_bot=is_bot)
        return self.people[name]

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
        self.last = await self.fake.say(
            self._room(thread, is_direct),
            self._person(person, is_bot=is_bot),
            text,
            mentions_bot=not is_direct,
            attachments=[DiscordFile(*file)] if file else [],
        )

    async def redeliver(self) -> None:
        assert self.last is not None
        self.fake.state.publish_message("MESSAGE_CREATE", self.last)

    def shown(self, thread: str = "t1", *, is_direct: bool = False) -> list[ShownMessage]:
        return [
            ShownMessage(
                message.content.replace("\\", ""),
                tuple(labels(message)),
                tuple(each.file.name for each in message.attachments),
            )
            for message in posted(self.fake, self._room(thread, is_direct))
        ]

    async def press(self, label: str, *, person: str = "ada", thread: str = "t1") -> None:
        messages = posted(self.fake, self.rooms[thread])
        message = next(each for each in reversed(messages) if label in labels(each))
        await self.fake.press(message, self._person(person), label)

    def fail(self, fault: Fault, calls: int = 1) -> None:
        self.fake.faults.clear()
        if fault == "lost":
            self.fake.faults.lose(POSTS, times=calls)
        elif fault == "down":
            self.fake.faults.drop(POSTS, times=calls)
        elif fault == "limited":
            self.fake.faults.limit(0.01, POSTS, times=calls)
        for room in self.rooms.values():
            room.bot_may_post = fault != "refused" or not calls

    def mentions(self) -> int:
        messages = [each for room in self.rooms.values() for each in posted(self.fake, room)]
        return sum(bool(message.mentions) for message in messages)


class TestDiscord(ChannelConformance):
    @pytest.fixture
    async def channel(self) -> AsyncIterator[ChannelUnderTest]:
        with restored_addresses():
            async with fake_discord() as fake:
                yield DiscordUnderTest(fake)
