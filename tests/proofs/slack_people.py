"""People on the fake Slack who write to the bot, and the check of what they see in the end."""

import asyncio
import dataclasses
import math
import random
from collections.abc import Collection, Iterator, Sequence

from tests.chaos.findings import Findings
from tests.proofs.slack_replicas import ProofLedger
from tests.proofs.visible_replies import check_conversation

from palaver.messages import Conversation
from palaver.testing.fakes.slack import FakeSlack, VisibleMessage
from palaver_plugins.channels.slack.addresses import Thread
from palaver_plugins.channels.slack.settings import NAME

PEOPLE = 8
CHANNELS = 4
THREADS = 20
"""Threads at a time."""
THREAD_MESSAGES = 12
"""Messages of a thread, after which another one begins."""
MAX_WAITING = 3
"""Messages of a conversation that wait for their reply."""
DIRECT_SHARE, UNNAMED_SHARE, CHATTER_SHARE = 0.3, 0.4, 0.1
"""Of threads: in direct messages; of messages in a thread: without a mention; for nobody."""
UNLIMITED = 1_000_000_000


@dataclasses.dataclass(slots=True)
class Room:
    """Where people talk to the bot: a thread, or the direct messages of one person outside of
    threads (``is_flat``). ``asked`` are the texts for the bot, by their ts."""

    channel: str
    people: list[str]
    is_flat: bool = False
    root: str = ""
    asked: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def is_direct(self) -> bool:
        return self.channel.startswith("D")

    def waiting(self, answered: Collection[str]) -> int:
        texts = list(self.asked.values())[-2 * MAX_WAITING :]
        return sum(text not in answered for text in texts)


class People:
    """Write messages, each with a mark of its own."""

    def __init__(self, slack: FakeSlack, rng: random.Random, *, is_agent: bool) -> None:
        self._slack = slack
        self._rng = rng
        self._people = users = [slack.add_user(f"Person {number}") for number in range(PEOPLE)]
        self._channels = [
            slack.add_channel(f"room {number}", [*users, slack.bot_user])
            for number in range(CHANNELS)
        ]
        self._is_agent = is_agent  # people write to an agent in threads
        flat = [] if is_agent else users
        self._flat = [Room(slack.direct(user), [user], is_flat=True) for user in flat]
        self._threads: list[Room] = []
        self.rooms: list[Room] = [*self._flat]
        self.message_count = 0

    async def write(self, count: int, answered: Collection[str], pause: float = 0.0) -> None:
        """Write ``count`` messages to the bot, with a ``pause`` after each. ``answered`` has the
        texts of those that a skill has answered: nobody writes on while too many wait."""
        end = self.message_count + count
        while self.message_count < end:
            self._open_threads()
            rooms = [*self._flat, *self._threads]
            ready = [room for room in rooms if room.waiting(answered) < MAX_WAITING]
            if ready:
                await self._write_to(self._rng.choice(ready))
            await asyncio.sleep(pause if ready else 0.01)

    def _open_threads(self) -> None:
        self._threads = [each for each in self._threads if len(each.asked) < THREAD_MESSAGES]
        while len(self._threads) < THREADS:
            room = Room(self._rng.choice(self._channels), self._people)
            if self._is_agent and self._rng.random() < DIRECT_SHARE:
                person = self._rng.choice(self._people)
                room = Room(self._slack.direct(person), [person])
            self.rooms.append(room)
            self._threads.append(room)

    async def _write_to(self, room: Room) -> None:
        slack, person = self._slack, self._rng.choice(room.people)
        if not room.is_direct and self._rng.random() < CHATTER_SHARE:
            await slack.say(room.channel, person, "Nothing for the bot")
        text = f"m{self.message_count} {self._rng.random()}"
        self.message_count += 1
        is_named = not room.root or self._rng.random() >= UNNAMED_SHARE
        mention = "" if room.is_direct or not is_named else f"<@{slack.bot_user}> "
        ts = await slack.say(room.channel, person, f"{mention}{text}", thread=room.root)
        if not room.is_flat:
            room.root = room.root or ts
        room.asked[ts] = text

    async def check(self, ledger: ProofLedger) -> Findings:
        """Compare what people see with what they wrote and with the ledger."""
        findings = Findings()
        for room in self.rooms:
            if room.asked:
                findings.merge(await self._check_room(room, ledger))
        return findings

    async def _check_room(self, room: Room, ledger: ProofLedger) -> Findings:
        thread = Thread(self._slack.team, room.channel, room.root)
        conversation = Conversation("default", NAME, str(thread))
        snapshot = await ledger.snapshot(conversation, UNLIMITED, UNLIMITED)
        shown = self._posted(room)
        order = _possible_order(room, conversation, ledger)
        texts = [message.text for message in shown]
        findings = check_conversation(conversation, order, snapshot.history, texts)
        for problem in self._remains(room, shown):
            findings.record("wrong", f"{conversation}: {problem}")
        return findings

    def _posted(self, room: Room) -> list[VisibleMessage]:
        """Return what the bot has posted in a room."""
        shown = self._slack.conversation(room.channel, room.root or None)
        return [
            message
            for message in shown
            if message.user == self._slack.bot_user and (room.root or not message.thread_ts)
        ]

    def _remains(self, room: Room, shown: Sequence[VisibleMessage]) -> Iterator[str]:
        """Yield what tells people that the bot has not finished, and whom it mentions."""
        if any(message.is_streaming for message in shown):
            yield "a stream goes on"
        if any(button.label == "Stop" for message in shown for button in message.buttons):
            yield "a reply can be stopped still"
        if room.root and self._slack.can_stop(room.channel, room.root):
            yield "Slack shows that the bot works"
        if room.root and self._slack.status(room.channel, room.root):
            yield "there is a status"
        if any(message.mentions for message in shown):
            yield "somebody is mentioned"


def _possible_order(room: Room, conversation: Conversation, ledger: ProofLedger) -> list[str]:
    """Return the messages in the order in which they must be answered: that in which they were
    written, but for those that arrived when later ones were being answered already."""
    name, never = str(conversation), math.inf

    def accepted_at(ts: str) -> float:
        return ledger.accepted_at.get((name, ts), never)

    order: list[str] = []
    for ts in sorted(room.asked, key=lambda ts: (accepted_at(ts), ts)):
        place = len(order)
        while place and ts < (later := order[place - 1]):
            if ledger.begun_at.get((name, later), never) < accepted_at(ts):
                break
            place -= 1
        order.insert(place, ts)
    return [room.asked[ts] for ts in order]
