"""Conformance suite for channels: what every channel has to do, with a fake of its platform.

Write a `ChannelUnderTest` for the channel, and a test class that gets its tests from the suite::

    class TestTelegram(ChannelConformance):
        @pytest.fixture
        async def channel(self):
            async with FakeTelegram() as telegram:
                yield TelegramUnderTest(telegram)

Each test runs a real server, with a skill that does what a message says: see `Obeys`.
"""

import asyncio
import contextlib
import dataclasses
import re
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Literal

import pytest

from palaver.channels import Channel, CheckableChannel
from palaver.config.settings import RoutingSettings, ServerSettings, Settings
from palaver.engine import Engine
from palaver.messages import Attachment
from palaver.platforms.pairing import Pairings
from palaver.server import Server
from palaver.skills import Skill
from palaver.testing.engine import ScriptedEngine
from palaver.testing.knowledge import ListKnowledge
from palaver.testing.ledger import MemoryLedger
from palaver.turns.turn import Turn
from palaver.web.listener import listening

TIMEOUT_SECONDS = 10.0
LEASE_SECONDS = 61.0
"""Longer than any lease of a channel."""
LONG_TEXT = "\n\n".join(
    f"Paragraph {number} of a long reply, with words enough." for number in range(400)
)
MENTIONS = "Hi @everyone @here <@U1> <@1> <!channel> <@&1> <#1> <!subteam^S1> @ada!"

Feature = Literal[
    "lookup", "buttons", "files in", "files out", "direct", "bots", "edits", "restarts", "parking"
]
"""``lookup``: the platform tells whether a message was posted, so that a lost answer doubles
nothing. ``edits``: a reply is seen while it is written. ``restarts``: replies are posted although
the server that wrote them is gone. ``parking``: the platform can refuse posts for good."""
Fault = Literal["lost", "down", "limited", "refused"]
"""``lost``: the platform posts a message, but its answer is lost; ``down``: it does nothing and
answers nothing; ``limited``: it wants a short pause; ``refused``: for good."""


class Obeys(Skill):
    """Do what a message says."""

    name = "obeys"

    def __init__(self) -> None:
        super().__init__()
        self.may_continue = asyncio.Event()
        self.files: list[bytes] = []
        self.answered = 0

    async def answer(self, turn: Turn) -> None:
        await self._obey(turn)
        self.answered += 1

    async def _obey(self, turn: Turn) -> None:
        command, _, rest = turn.message.text.partition(" ")
        match command:
            case "hold":
                await turn.say("The first half. ")
                await self.may_continue.wait()
                await turn.say("The second half.")
            case "ask":
                drink = await turn.ask("Tea or coffee?", ["tea", "coffee"])
                await turn.say(f"One {drink}, please.")
            case "generate":
                await turn.stream("Write for ever.")
            case "attach":
                url = "data:text/plain;base64,MzAgZGF5cw=="
                turn.attach(Attachment(name="leave.txt", media_type="text/plain", url=url))
                await turn.say("Here is the file.")
            case "read":
                for attachment in turn.message.attachments:
                    self.files.append(await turn.read_attachment(attachment))
                await turn.say(f"It has {len(self.files)} files.")
            case "fail":
                raise ValueError("broken")
            case "long":
                await turn.say(LONG_TEXT)
            case "mention":
                await turn.say(MENTIONS)
            case _:
                await turn.say(f"You said {rest or command}.")


@dataclasses.dataclass(frozen=True, slots=True)
class ShownMessage:
    """A message of the bot as people see it: its text without markup, the labels of its buttons,
    the names of its files."""

    text: str
    buttons: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


class ChannelUnderTest(ABC):
    """A channel and the fake of its platform. ``lacks``: what the platform cannot do."""

    name: str
    lacks: frozenset[Feature] = frozenset()

    @abstractmethod
    def build(self) -> Channel:
        """Return a new instance of the channel, as another server has it, with short intervals. It
        answers in groups, and direct messages of people who are paired."""

    async def connect(self, address: str) -> None:  # noqa: B027  not all platforms call the server
        """Make the platform deliver to the server that listens at ``address`` from now on."""

    async def disconnect(self) -> None:  # noqa: B027
        """Make the platform deliver to nobody: the server is gone."""

    @abstractmethod
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
        """Let a person write to the bot in a conversation of the platform, which may deliver it
        later than this returns. ``file`` is a name and a content."""

    @abstractmethod
    async def redeliver(self) -> None:
        """Deliver the last message once more."""

    @abstractmethod
    def shown(self, thread: str = "t1", *, is_direct: bool = False) -> list[ShownMessage]:
        """Return the bot's messages that people see, in their order; notices included."""

    async def press(self, label: str, *, person: str = "ada", thread: str = "t1") -> None:
        """Press the newest button with a label."""
        raise NotImplementedError

    def fail(self, fault: Fault, calls: int = 1) -> None:
        """Let the next calls with which the bot posts a message fail."""
        raise NotImplementedError

    def mentions(self) -> int:
        """Return how many people and groups the bot's messages have notified."""
        return 0

    def build_broken(self) -> Channel | None:
        """Return the channel with a secret that the platform refuses; None: there is none."""
        return None


class _Clock:
    """Real time, and what a test has skipped."""

    def __init__(self) -> None:
        self.skipped = 1_000_000.0

    def __call__(self) -> float:
        return self.skipped + time.monotonic()


class ServerUnderTest:
    """Servers on one ledger, one after the other, and what people do and see."""

    def __init__(self, channel: ChannelUnderTest, engine: Engine | None = None) -> None:
        self.channel = channel
        self.skill = Obeys()
        self.engine = engine or ScriptedEngine()
        self.server: Server
        self._clock = _Clock()
        self._ledger = MemoryLedger(clock=self._clock, monotonic=self._clock)
        self._stack = contextlib.AsyncExitStack()

    async def start(self) -> None:
        """Start a server."""
        self.server = Server(
            Settings(
                server=ServerSettings(port=0, drain=0.0, grace=3.0),
                routing=RoutingSettings(default="obeys", threshold=1.0, consult_engine=False),
            ),
            ledger=self._ledger,
            engine=self.engine,
            knowledge=ListKnowledge(),
            skills={"obeys": self.skill},
            channels={self.channel.name: self.channel.build()},
        )
        await self._stack.enter_async_context(self.server)
        address = await self._stack.enter_async_context(listening(self.server))
        await self.channel.connect(address)

    async def stop(self) -> None:
        """Stop the server; every lease of it has ended."""
        await self.channel.disconnect()
        stack, self._stack = self._stack, contextlib.AsyncExitStack()
        await stack.aclose()
        self._clock.skipped += LEASE_SECONDS

    async def say(self, text: str, **about: Any) -> None:  # Any: as `ChannelUnderTest.say`
        await self.channel.say(text, **about)

    def texts(self, thread: str = "t1", *, is_direct: bool = False) -> list[str]:
        shown = self.channel.shown(thread, is_direct=is_direct)
        return [message.text.strip() for message in shown]

    async def until(self, condition: Callable[[], bool | Awaitable[bool]]) -> None:
        """Wait until a condition holds."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while True:
                holds = condition()
                if holds if isinstance(holds, bool) else await holds:
                    return
                await asyncio.sleep(0.005)

    async def until_shown(self, *texts: str, thread: str = "t1", is_direct: bool = False) -> None:
        """Wait until people see exactly these messages of the bot."""
        wanted = list(texts)
        try:
            await self.until(lambda: self.texts(thread, is_direct=is_direct) == wanted)
        except TimeoutError:
            assert self.texts(thread, is_direct=is_direct) == wanted

    async def until_settled(self) -> None:
        """Wait until no turn runs and nothing is left to post."""
        await self.until(self._is_settled)

    async def _is_settled(self) -> bool:
        depth = await self._ledger.queue_depth()
        if depth.queued or depth.running:
            return False
        records = await self._ledger.list_records(self.channel.name, "outbox:")
        return all(record.due_at is None for record in records)


@contextlib.asynccontextmanager
async def _serving(
    channel: ChannelUnderTest, engine: Engine | None = None
) -> AsyncIterator[ServerUnderTest]:
    servers = ServerUnderTest(channel, engine)
    await servers.start()
    try:
        yield servers
    finally:
        await servers.stop()


class ChannelConformance:
    """The tests. A derived class has the fixture ``channel``."""

    @pytest.fixture
    async def channel(self) -> AsyncIterator[ChannelUnderTest]:
        raise NotImplementedError
        yield  # noqa: PT022  what a derived class does

    def _need(self, channel: ChannelUnderTest, feature: Feature) -> None:
        if feature in channel.lacks:
            pytest.skip(f"{channel.name} has no {feature}")

    # Messages

    async def test_a_message_is_answered(self, channel: ChannelUnderTest) -> None:
        async with _serving(channel) as servers:
            await servers.say("hello there")
            await servers.until_shown("You said there.")

    async def test_messages_are_answered_in_order(self, channel: ChannelUnderTest) -> None:
        async with _serving(channel) as servers:
            for number in range(4):
                await servers.say(f"say {number}")
                replies = [f"You said {each}." for each in range(number + 1)]
                await servers.until_shown(*replies)

    async def test_conversations_do_not_mix(self, channel: ChannelUnderTest) -> None:
        async with _serving(channel) as servers:
            await servers.say("say one", thread="t1")
            await servers.say("say two", thread="t2")
            await servers.until_shown("You said one.", thread="t1")
            await servers.until_shown("You said two.", thread="t2")

    async def test_a_message_that_is_delivered_again_is_answered_once(
        self, channel: ChannelUnderTest
    ) -> None:
        async with _serving(channel) as servers:
            await servers.say("say once")
            await asyncio.gather(*[channel.redeliver() for _ in range(3)])
            await servers.until_shown("You said once.")
            await channel.redeliver()
            await servers.say("say twice")
            await servers.until_shown("You said once.", "You said twice.")
            await servers.until_settled()
            assert servers.texts() == ["You said once.", "You said twice."]
            assert servers.skill.answered == 2

    async def test_a_failure_is_told(self, channel: ChannelUnderTest) -> None:
        async with _serving(channel) as servers:
            await servers.say("fail")
            await servers.until(lambda: len(servers.texts()) == 1)
            assert "broken" not in servers.texts()[0]
            await servers.say("say more")
            await servers.until(lambda: servers.texts()[1:] == ["You said more."])

    async def test_text_of_the_model_mentions_nobody(self, channel: ChannelUnderTest) -> None:
        async with _serving(channel) as servers:
            await servers.say("mention")
            await servers.until(lambda: "everyone" in "".join(servers.texts()))
            await servers.until_settled()
            assert channel.mentions() == 0

    async def test_a_long_reply_is_whole(self, channel: ChannelUnderTest) -> None:
        async with _serving(channel) as servers:
            await servers.say("long")
            wanted = re.findall(r"\w+", LONG_TEXT)
            await servers.until(lambda: _words(servers) == wanted)

    async def test_a_reply_is_seen_while_it_is_written(self, channel: ChannelUnderTest) -> None:
        self._need(channel, "edits")
        async with _serving(channel) as servers:
            await servers.say("hold")
            await servers.until_shown("The first half.")
            servers.skill.may_continue.set()
            await servers.until_shown("The first half. The second half.")

    # Faults of the platform

    async def test_a_lost_answer_doubles_nothing(self, channel: ChannelUnderTest) -> None:
        self._need(channel, "lookup")
        async with _serving(channel) as servers:
            channel.fail("lost")
            await servers.say("say once")
            await servers.until_shown("You said once.")
            await servers.until_settled()
            assert servers.texts() == ["You said once."]

    @pytest.mark.parametrize("fault", ["down", "limited"])
    async def test_a_fault_that_passes_loses_nothing(
        self, channel: ChannelUnderTest, fault: Fault
    ) -> None:
        self._need(channel, "restarts")
        async with _serving(channel) as servers:
            channel.fail(fault, 2)
            await servers.say("say it")
            await servers.until_shown("You said it.")

    async def test_a_refused_reply_is_parked(self, channel: ChannelUnderTest) -> None:
        self._need(channel, "parking")
        async with _serving(channel) as servers:
            channel.fail("refused", 1_000)
            await servers.say("say nothing", thread="t1")
            await servers.until(lambda: servers.skill.answered > 0)
            await servers.until_settled()
            channel.fail("refused", 0)
            await servers.say("say something", thread="t2")
            await servers.until_shown("You said something.", thread="t2")
            assert servers.texts("t1") == []

    # Restarts

    async def test_a_reply_goes_on_in_the_next_server(self, channel: ChannelUnderTest) -> None:
        self._need(channel, "restarts")
        async with _serving(channel) as servers:
            await servers.say("hold")
            if "edits" in channel.lacks:
                await servers.until(lambda: _is_running(servers))
            else:
                await servers.until_shown("The first half.")
            await servers.stop()
            servers.skill.may_continue.set()
            await servers.start()
            await servers.until_shown("The first half. The second half.")

    async def test_a_reply_that_could_not_be_posted_is_posted_by_the_next_server(
        self, channel: ChannelUnderTest
    ) -> None:
        self._need(channel, "restarts")
        async with _serving(channel) as servers:
            channel.fail("down", 1_000)
            await servers.say("say it")
            await servers.until(lambda: _is_answered(servers))
            await servers.stop()
            channel.fail("down", 0)
            await servers.start()
            await servers.until_shown("You said it.")

    # Buttons

    async def test_a_button_answers_a_question_once(self, channel: ChannelUnderTest) -> None:
        self._need(channel, "buttons")
        async with _serving(channel) as servers:
            await servers.say("ask")
            await servers.until(lambda: "coffee" in _buttons(servers))
            await asyncio.gather(*[channel.press("coffee") for _ in range(2)])
            await servers.until(lambda: servers.texts()[-1] == "One coffee, please.")
            await servers.until_settled()
            assert servers.texts().count("One coffee, please.") == 1

    async def test_stop_frees_the_engine(self, channel: ChannelUnderTest) -> None:
        self._need(channel, "buttons")
        async with _serving(channel, ScriptedEngine(seconds_per_token=0.01)) as servers:
            await servers.say("generate")
            await servers.until(lambda: "Stop" in _buttons(servers))
            assert (await servers.engine.stats()).running == 1
            await channel.press("Stop")
            await servers.until(lambda: _is_idle(servers.engine))
            await servers.until_settled()
            assert "Stop" not in _buttons(servers)

    async def test_a_reply_is_rated(self, channel: ChannelUnderTest) -> None:
        self._need(channel, "buttons")
        async with _serving(channel) as servers:
            await servers.say("say it")
            await servers.until(lambda: "👎" in _buttons(servers))
            await channel.press("👎")
            rated = b'palaver_feedback_total{rating="down",skill="obeys"} 1.0'
            await servers.until(lambda: rated in servers.server.metrics.exposition())

    # Files

    async def test_a_file_reaches_the_skill(self, channel: ChannelUnderTest) -> None:
        self._need(channel, "files in")
        async with _serving(channel) as servers:
            await servers.say("read it", file=("notes.txt", b"thirty days"))
            await channel.redeliver()
            await servers.until_shown("It has 1 files.")
            assert servers.skill.files == [b"thirty days"]

    async def test_a_file_of_a_reply_is_posted_once(self, channel: ChannelUnderTest) -> None:
        self._need(channel, "files out")
        async with _serving(channel) as servers:
            await servers.say("attach")
            await servers.until(lambda: "leave.txt" in _files(servers))
            await servers.until_settled()
            assert _files(servers) == ["leave.txt"]
            assert "Here is the file." in servers.texts()

    # Who may write

    async def test_a_stranger_needs_approval(self, channel: ChannelUnderTest) -> None:
        self._need(channel, "direct")
        async with _serving(channel) as servers:
            await servers.say("say hello", is_direct=True)
            await servers.until(lambda: len(servers.texts(is_direct=True)) == 1)
            (notice,) = servers.texts(is_direct=True)
            pairings = Pairings(servers.server.records, channel.name)
            (request,) = await pairings.requests()
            assert request.code in notice
            await pairings.approve(request.code)
            await servers.say("say friend", is_direct=True)
            await servers.until_shown(notice, "You said friend.", is_direct=True)

    async def test_bots_are_ignored(self, channel: ChannelUnderTest) -> None:
        self._need(channel, "bots")
        async with _serving(channel) as servers:
            await servers.say("say loop", person="robot", is_bot=True)
            await servers.say("say hello")
            await servers.until_shown("You said hello.")

    # Operation

    async def test_a_channel_that_works_has_no_problem(self, channel: ChannelUnderTest) -> None:
        built = channel.build()
        if isinstance(built, CheckableChannel):
            assert list(await built.check()) == []

    async def test_a_secret_that_is_refused_is_told_in_a_sentence(
        self, channel: ChannelUnderTest
    ) -> None:
        broken = channel.build_broken()
        if broken is None:
            pytest.skip(f"{channel.name} has no secret")
        assert isinstance(broken, CheckableChannel)
        problems = list(await broken.check())
        assert problems
        assert all("\n" not in problem and len(problem) < 400 for problem in problems)


def _words(servers: ServerUnderTest) -> list[str]:
    return re.findall(r"\w+", " ".join(servers.texts()))


def _buttons(servers: ServerUnderTest) -> list[str]:
    return [label for message in servers.channel.shown() for label in message.buttons]


def _files(servers: ServerUnderTest) -> list[str]:
    return [name for message in servers.channel.shown() for name in message.files]


async def _is_running(servers: ServerUnderTest) -> bool:
    return bool((await servers.server.ledger.queue_depth()).running)


async def _is_answered(servers: ServerUnderTest) -> bool:
    depth = await servers.server.ledger.queue_depth()
    return servers.skill.answered > 0 and not depth.running and not depth.queued


async def _is_idle(engine: Engine) -> bool:
    return (await engine.stats()).running == 0
