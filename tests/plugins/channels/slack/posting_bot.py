"""A server that posts replies in the fake Slack; a test says what the skill does, step by step."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from slack_sdk.web.async_client import AsyncWebClient

from palaver import Engine, Skill, Turn
from palaver.config.settings import DispatchSettings, RoutingSettings, Settings
from palaver.messages import Conversation, HistoryEntry, Message
from palaver.platforms import OutgoingPost, Poster, RateLimits, Refused, Times, TurnReply, render
from palaver.records import Record, outbox_key
from palaver.server import Server
from palaver.testing import ScriptedEngine, converse
from palaver.testing.fakes.clock import FakeClock
from palaver.testing.fakes.slack import FakeSlack
from palaver.testing.fakes.slack.api import ApiRequest
from palaver.testing.fakes.slack.view import VisibleMessage
from palaver.testing.ledger import MemoryLedger
from palaver_plugins.channels.slack.addresses import Thread, person_of
from palaver_plugins.channels.slack.blocks import PlainDialect
from palaver_plugins.channels.slack.pace import Pace
from palaver_plugins.channels.slack.platform import SlackPlatform
from palaver_plugins.channels.slack.slack_markdown import SlackDialect

CHANNEL = "slack"
TIMES = Times(poll=0.02, progress=0.05, retries=(0.01, 0.02, 0.05, 0.05))
LEASE_SECONDS = TIMES.lease + 1
SHOWS = ("chat.startStream", "chat.appendStream", "chat.postMessage", "chat.update")
Step = Callable[[Turn], Awaitable[None]]


def fast() -> Pace:
    """Return a pace that slows no test down."""
    return Pace(*[RateLimits(10_000.0, burst=1_000) for _ in range(4)])


class TestInstallations:
    """The workspaces of a fake Slack."""

    __test__ = False

    def __init__(self, slack: FakeSlack, token: str = "") -> None:
        self._slack = slack
        self._token = token
        self.is_installed = True

    async def client(self, team: str) -> AsyncWebClient:
        if not self.is_installed:
            raise Refused(f"the app is not installed in {team}")
        return AsyncWebClient(
            token=self._token or self._slack.bot_token,
            base_url=self._slack.api_url,
            timeout=5,
            retry_handlers=[],
        )


def platform_of(
    slack: FakeSlack, installations: TestInstallations | None = None, **options: Any
) -> SlackPlatform:
    """Return a platform whose clock is the fake's, and which waits for nothing. Any: its
    options."""
    installations = installations or TestInstallations(slack)
    given: dict[str, Any] = {"is_agent": True, "pace": fast(), "edit_interval": 0.0}
    given["clock"] = slack.clock.now
    return SlackPlatform(installations, **(given | options))


def plain(text: str) -> str:
    """Return a text of Slack's Markdown as people read it."""
    return render(text, PlainDialect())


def post(slack: FakeSlack, text: str, **changes: Any) -> OutgoingPost:  # Any: of the fields
    """Return a post of Ada's thread as the poster makes it, with a text that goes on."""
    thread = Thread(
        slack.team, slack.general, next(iter(slack.world.channels[slack.general].messages))
    )

    async def save_notes() -> None:
        pass

    reply = TurnReply("turn", person_of(slack.team, slack.ada), text=text)
    fields: dict[str, Any] = {
        "id": "post",
        "conversation": conversation_of(thread),
        "text": render(text, SlackDialect()),
        "number": 0,
        "is_last": True,
        "reply": reply,
        "message": "",
        "notes": {},
        "save_notes": save_notes,
    }
    return OutgoingPost(**(fields | changes))


class Scripted(Skill):
    """Do the steps of a test."""

    name = "scripted"

    def __init__(self) -> None:
        super().__init__()
        self.steps: asyncio.Queue[Step | str | None] = asyncio.Queue()

    async def answer(self, turn: Turn) -> None:
        while (step := await self.steps.get()) is not None:
            if isinstance(step, str):
                await turn.say(step)
            else:
                await step(turn)


class Writes(Skill):
    """Write what the model says."""

    name = "writes"

    async def answer(self, turn: Turn) -> None:
        await turn.stream(turn.message.text)


class SlackBot:
    """The bot, and Ada who writes to it."""

    def __init__(self, slack: FakeSlack, server: Server, skill: Scripted, ledger: "Ledger") -> None:
        self.slack = slack
        self.server = server
        self.ledger = ledger
        self.team = slack.team
        """The installation."""
        self.options: dict[str, Any] = {}  # Any: of SlackPlatform
        self._skill = skill
        self.installations = TestInstallations(slack)
        self.platform = platform_of(slack)
        self.poster = Poster(server, CHANNEL, self.platform, times=TIMES)

    async def restart(self, **options: Any) -> None:
        """Replace the poster, as when its server dies and its lease ends."""
        await self.poster.close()
        self.ledger.now += LEASE_SECONDS
        self.options = self.options | options
        self.platform = platform_of(self.slack, self.installations, **self.options)
        self.poster = Poster(self.server, CHANNEL, self.platform, times=TIMES)
        self.poster.start()

    async def ask(self, text: str = "How long?", *, thread: Thread | None = None) -> Thread:
        """Let Ada write to the bot, in a thread or else in the channel, and return where."""
        channel = thread.channel if thread else self.slack.general
        root = thread.root if thread else ""
        ts = await self.slack.say(channel, self.slack.ada, text, thread=root)
        thread = thread or Thread(self.team, channel, ts)
        await self.accept(thread, ts, text)
        return thread

    async def ask_in(self, channel: str, text: str = "How long?") -> Thread:
        """Let Ada write to the bot in another channel."""
        ts = await self.slack.say(channel, self.slack.ada, text)
        thread = Thread(self.team, channel, ts)
        await self.accept(thread, ts, text)
        return thread

    async def answer(self, *steps: Step | str, thread: Thread | None = None) -> Thread:
        """Let the bot answer before it posts anything, so that nothing is streamed."""
        await self.poster.close()
        self.finish(*steps)
        thread = await self.ask(thread=thread)
        async with asyncio.timeout(5):
            while (await self.server.snapshot(conversation_of(thread))).pending:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        await self.restart()
        return thread

    async def ask_directly(self, text: str = "How long?", *, agent: bool) -> Thread:
        """Let Ada write to the bot alone. For an agent each message begins a thread."""
        channel = self.slack.direct(self.slack.ada)
        ts = await self.slack.say(channel, self.slack.ada, text)
        thread = Thread(self.team, channel, ts if agent else "")
        await self.accept(thread, ts, text)
        return thread

    async def accept(self, thread: Thread, ts: str, text: str) -> None:
        message = Message(
            conversation=conversation_of(thread),
            id=ts,
            person=person_of(thread.team, self.slack.ada),
            text=text,
        )
        await self.server.accept(message, members_only=False, outbox=True)
        self.poster.wake()

    def do(self, *steps: Step | str) -> None:
        for step in steps:
            self._skill.steps.put_nowait(step)

    @contextlib.asynccontextmanager
    async def next_call(self) -> AsyncIterator[None]:
        """After the block, wait until a call that shows text has been done."""
        seen = len(self._shows())
        yield
        await self.slack.wait_until(lambda: len(self._shows()) > seen)

    def _shows(self) -> list[ApiRequest]:
        return [
            call
            for call in self.slack.requests
            if call.method in SHOWS and (call.status or call.is_lost)
        ]

    def finish(self, *steps: Step | str) -> None:
        """Do the last steps of the turn."""
        self.do(*steps)
        self._skill.steps.put_nowait(None)

    def messages(self, thread: Thread) -> list[VisibleMessage]:
        """Return what people see of the bot."""
        shown = self.slack.conversation(thread.channel, thread.root or None)
        return [each for each in shown if each.user == self.slack.bot_user]

    def texts(self, thread: Thread) -> list[str]:
        return [plain(each.text) for each in self.messages(thread)]

    async def until_shown(self, thread: Thread, *texts: str) -> None:
        try:
            await self.slack.wait_until(lambda: self.texts(thread) == list(texts))
        except TimeoutError:
            assert self.texts(thread) == list(texts)

    async def until_posted(self, thread: Thread, count: int = 1) -> list[VisibleMessage]:
        """Wait until the replies to ``count`` messages are posted; return what people see."""

        def is_posted(record: Record) -> bool:
            content = json.loads(record.value or b"{}")
            return record.due_at is None and len(content.get("posted", [])) >= count

        await self.until(thread, is_posted)
        return self.messages(thread)

    async def until(self, thread: Thread, condition: Callable[[Record], bool]) -> None:
        """Wait until the outbox of a conversation is so."""
        async with asyncio.timeout(20):
            while not condition(await self.outbox(thread)):  # noqa: ASYNC110  it sets no event
                await asyncio.sleep(0.005)

    async def outbox(self, thread: Thread) -> Record:
        key = outbox_key(conversation_of(thread))
        record = await self.server.records.read_record(CHANNEL, key)
        assert record is not None
        return record

    async def turn(self, thread: Thread) -> str:
        """Return the id of the running turn."""
        snapshot = await self.server.snapshot(conversation_of(thread))
        return snapshot.pending[0].turn

    async def reply(self, thread: Thread) -> HistoryEntry:
        """Return the last reply as the ledger has it."""
        snapshot = await self.server.snapshot(conversation_of(thread))
        return snapshot.history[-1]


class Ledger(MemoryLedger):
    """A ledger whose clock a test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        super().__init__(clock=lambda: self.now, monotonic=lambda: self.now)


def conversation_of(thread: Thread) -> Conversation:
    return Conversation("default", CHANNEL, str(thread))


@contextlib.asynccontextmanager
async def posting(
    writer: Skill | None = None,
    *,
    engine: Engine | None = None,
    clock: FakeClock | None = None,
    **options: Any,
) -> AsyncIterator[SlackBot]:
    """Run a bot that does the steps of the test, unless another skill answers; ``options`` are
    those of its `SlackPlatform` (Any)."""
    skill, ledger = Scripted(), Ledger()
    settings = Settings(
        routing=RoutingSettings(default=(writer or skill).name, consult_engine=False),
        dispatch=DispatchSettings(max_attempts=1_000),  # leases of turns end with each restart
    )
    async with (
        FakeSlack(clock=clock) as slack,
        converse(
            writer or skill, engine=engine or ScriptedEngine(), ledger=ledger, settings=settings
        ) as chat,
    ):
        slack.rules.rate_limits = False
        slack.rules.file_seconds = 0.0
        bot = SlackBot(slack, chat.server, skill, ledger)
        await bot.restart(**options)
        try:
            yield bot
        finally:
            await bot.poster.close()
