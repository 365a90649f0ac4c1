"""People on the fake Discord who write to the bot, and the check of what they see in the end."""

import asyncio
import dataclasses
import random

from tests.chaos.findings import Findings
from tests.plugins.channels.discord.support import guild_of_shard, labels, posted
from tests.proofs.visible_replies import check_conversation

from palaver.ledger import Ledger
from palaver.messages import Conversation
from palaver.testing.fakes.discord import DiscordChannel, DiscordMessage, DiscordUser, FakeDiscord
from palaver_plugins.channels.discord.places import NAME, Place

CHANNELS, THREADS, DIRECTS = 6, 2, 4
"""Rooms of each kind; there are channels in two of Discord's servers, of different shards."""
MAX_WAITING = 3
"""Messages of a room that wait for their reply."""
CHATTER = 0.1
"""Share of messages that are not for the bot."""
UNLIMITED = 1_000_000_000


@dataclasses.dataclass
class Room:
    """A place where people write. ``asked`` are the messages for the bot."""

    channel: DiscordChannel
    people: list[DiscordUser]
    asked: list[DiscordMessage] = dataclasses.field(default_factory=list)
    texts: list[str] = dataclasses.field(default_factory=list)

    @property
    def conversation(self) -> Conversation:
        guild = self.channel.guild
        place = Place(guild.id if guild else None, self.channel.id)
        return Conversation("default", NAME, str(place))


class People:
    """Write messages, each with a mark of its own."""

    def __init__(self, fake: FakeDiscord, rng: random.Random) -> None:
        self._fake = fake
        self._rng = rng
        self.rooms: list[Room] = []
        self.message_count = 0

    async def come(self) -> None:
        """Open the rooms."""
        fake = self._fake
        users = [fake.add_user(f"Person {number}") for number in range(CHANNELS)]
        guilds = [fake.guild, guild_of_shard(fake, 1, of=2)]
        for number in range(CHANNELS):
            channel = fake.add_channel(f"room {number}", guild=guilds[number % 2])
            self.rooms.append(Room(channel, users))
        for number in range(THREADS):
            thread = await fake.start_thread(self.rooms[number].channel, users[0], f"t{number}")
            self.rooms.append(Room(thread, users))
        self.rooms += [Room(fake.open_direct(user), [user]) for user in users[:DIRECTS]]

    async def greet(self, ledger: Ledger) -> None:
        """Write to each room once, as soon as the bot is connected and its servers remember it.
        Discord tells no bot about a direct conversation whose first message it has missed."""
        while not all([await self._is_heard(room, ledger) for room in self.rooms]):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        for room in self.rooms:
            await self._write_to(room)

    async def _is_heard(self, room: Room, ledger: Ledger) -> bool:
        """Return whether the bot's servers hear what is said in a room, and have noted where they
        began to listen."""
        marks = {record.key for record in await ledger.list_records(NAME, "seen:")}
        return any(
            session.covers(room.channel.guild) and "seen:{}.{}".format(*session.shard) in marks
            for session in self._fake.gateway.connected
        )

    async def write(self, count: int, answered: set[str]) -> None:
        """Write until there are ``count`` messages to the bot. ``answered`` has the texts of those
        that a skill has answered: nobody writes on while too many wait."""
        while self.message_count < count:
            ready = [room for room in self.rooms if _waiting(room, answered) < MAX_WAITING]
            if ready:
                await self._write_to(self._rng.choice(ready))
            await asyncio.sleep(0.0 if ready else 0.01)

    async def _write_to(self, room: Room) -> None:
        person = self._rng.choice(room.people)
        if not room.channel.is_direct and self._rng.random() < CHATTER:
            await self._fake.say(room.channel, person, "Nothing for the bot")
        text = f"m{self.message_count} {self._rng.random()}"
        self.message_count += 1
        is_direct = room.channel.is_direct
        message = await self._fake.say(room.channel, person, text, mentions_bot=not is_direct)
        room.texts.append(text)
        room.asked.append(message)

    async def repeat_a_message(self) -> None:
        """Let Discord deliver a message once more."""
        room = self._rng.choice([room for room in self.rooms if room.asked])
        await self._fake.deliver_again(self._rng.choice(room.asked[-5:]))

    async def check(self, ledger: Ledger, *, is_over: bool = True) -> Findings:
        """Compare what people see with what they wrote and with the ledger. Unless it ``is_over``,
        the ends may be missing."""
        findings = Findings()
        for room in self.rooms:
            snapshot = await ledger.snapshot(room.conversation, UNLIMITED, UNLIMITED)
            shown = posted(self._fake, room.channel)
            texts = [message.content for message in shown]
            findings.merge(
                check_conversation(
                    room.conversation, room.texts, snapshot.history, texts, is_over=is_over
                )
            )
            if is_over and any("Stop" in labels(message) for message in shown):
                findings.record("wrong", f"{room.conversation}: a reply can still be stopped")
        return findings


def _waiting(room: Room, answered: set[str]) -> int:
    return sum(text not in answered for text in room.texts[-2 * MAX_WAITING :])
