"""The engine dies in the middle of replies, and every reply is whole all the same."""

import asyncio
import contextlib
import itertools
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.chaos.history import Findings, HistoryChecker
from tests.plugins.engines.models import SENTENCES, write_model
from tests.plugins.engines.serving import START_TIMEOUT, build_openai, build_vllm, vllm_python
from tests.proof import SEED, size
from tests.proofs.frail_engine import ForgetfulEngine, FrailEngine
from tests.proofs.report import Line, Report
from tests.proofs.scripted_server import KINDS, kind_of, reply_to
from tests.server.skills_under_test import Parrot

from palaver import Skill, Turn
from palaver.config.settings import DispatchSettings, EngineSettings, RoutingSettings, Settings
from palaver.engine import Engine
from palaver.messages import Conversation, Finished, Message, TextReset
from palaver.server import Server
from palaver.testing import ListKnowledge, MemoryLedger, RecordingSubscriber

CONVERSATIONS = 25
ROOT = Path(__file__).parents[2]


class Teller(Skill):
    """Choose what to tell, and tell it."""

    name = "teller"

    async def answer(self, turn: Turn) -> None:
        kind = await turn.choose(turn.message.text, KINDS)
        await turn.say(f"Here is {kind}: ")
        await turn.stream(turn.message.text)


def expected(message: Message) -> str:
    return f"Here is {kind_of(message.text)}: {reply_to(message.text)}"


def settings(skill: Skill, **engine: float) -> Settings:
    """Everything is up again soon, and nobody gives up."""
    patient = {
        "restart_backoff": 0.01,
        "max_attempts": 10_000,
        "restart_timeout": 300.0,
        "timeout": 600.0,
    }
    return Settings(
        engine=EngineSettings.model_validate(patient | engine),
        routing=RoutingSettings(default=skill.name, consult_engine=False),
        dispatch=DispatchSettings(turn_timeout=900.0),
    )


@dataclass
class House:
    """A server on ``engine``, and a reader at every conversation."""

    engine: Engine
    skill: Skill = field(default_factory=Teller)
    continues: bool = True
    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    checker: HistoryChecker = field(default_factory=lambda: HistoryChecker(expected))
    screens: dict[Conversation, RecordingSubscriber] = field(default_factory=dict)
    server: Server = field(init=False)

    @contextlib.asynccontextmanager
    async def open(self, conversations: int) -> AsyncIterator["House"]:
        self.server = Server(
            settings(self.skill),
            ledger=self.ledger,
            engine=self.engine,
            knowledge=ListKnowledge(),
            skills={self.skill.name: self.skill},
        )
        if not self.continues:
            self.server.engine._engine = self.server._supervised
        async with self.server, contextlib.AsyncExitStack() as stack:
            for number in range(conversations):
                await self._read(Conversation("default", "test", f"thread-{number}"), stack)
            yield self

    async def _read(self, conversation: Conversation, stack: contextlib.AsyncExitStack) -> None:
        screen = self.screens[conversation] = RecordingSubscriber()
        view = await self.server.subscribe(conversation, screen)
        stack.callback(self.server.unsubscribe, view)

    @property
    def shown(self) -> int:
        """Characters that the readers have seen."""
        texts = (text for screen in self.screens.values() for text in screen.texts.values())
        return sum(map(len, texts))

    async def send(self, conversation: Conversation, text: str) -> str:
        message = Message(conversation=conversation, id=text, person="ada", text=text)
        turn = (await self.server.accept(message)).turn
        self.checker.accepted(message, turn)
        return turn

    async def ask(self, turns: int) -> None:
        """Send so many messages, in each conversation one after the other."""

        async def converse(place: int, conversation: Conversation) -> None:
            for number in range(place, turns, len(self.screens)):
                turn = await self.send(conversation, f"message {number}")
                await shown(self.screens[conversation], turn)

        async with asyncio.TaskGroup() as group:
            for place, conversation in enumerate(self.screens):
                group.create_task(converse(place, conversation))

    async def findings(self) -> Findings:
        found = await self.checker.check(self.ledger)
        for conversation, screen in self.screens.items():
            seen = await self.checker.check_screen(self.ledger, conversation, screen)
            for kind in ("lost", "doubled", "wrong"):
                for _ in range(getattr(seen, kind)):
                    found.note(kind, f"on the screen of {conversation}")
            for turn in screen.texts:
                if screen.of(turn, TextReset):
                    found.note("wrong", f"{turn}: text that was shown is withdrawn")
        return found


async def shown(screen: RecordingSubscriber, turn: str) -> None:
    """Wait until a reader has seen the end of a turn."""
    async with asyncio.timeout(900):
        while not screen.of(turn, Finished):  # noqa: ASYNC110  a screen waits for five seconds only
            await asyncio.sleep(0.002)


Fate = Callable[[House], Coroutine[None, None, None]]


async def peace(house: House) -> None:
    """Nobody kills the engine from outside."""


@contextlib.asynccontextmanager
async def meanwhile(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def run(
    house: House,
    turns: int,
    conversations: int = CONVERSATIONS,
    fate: Fate = peace,
) -> Findings:
    """Ask, while ``fate`` does its work."""
    async with house.open(conversations), meanwhile(fate(house)):
        await house.ask(turns)
        return await house.findings()


def frail(kind: type[FrailEngine] = FrailEngine) -> FrailEngine:
    return kind(random.Random(SEED), lifetime=1_500)


async def test_replies_are_whole_when_the_engine_dies_at_random_characters(report: Report) -> None:
    turns, engine = size(500, 10_000), frail()
    async with report.progress(lambda: f"engine-killed: {engine.deaths} deaths"):
        findings = await run(House(engine), turns)
    report(Line(property="engine-killed", turns=turns, kills=engine.deaths, findings=findings))
    assert findings.clean, (SEED, findings)
    assert engine.deaths > turns / 20


@pytest.mark.parametrize(
    ("kind", "continues", "what"),
    [(FrailEngine, False, "continuation off"), (ForgetfulEngine, True, "partial reply forgotten")],
)
async def test_a_reply_that_is_not_continued_is_found(
    report: Report, kind: type[FrailEngine], continues: bool, what: str
) -> None:
    # Few at once, or one that begins anew each time would never end.
    findings = await run(House(frail(kind), continues=continues), 30, conversations=3)
    report.twin("engine-killed", findings.wrong > 0, what)
    assert findings.wrong > 0


# In a process of its own


class Mayfly:
    """The process of `scripted_server`: it is killed after a random time, and started again."""

    def __init__(self, socket: Path, chance: random.Random) -> None:
        self.deaths = 0
        self.socket = socket
        self._chance = chance
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it, and wait until it listens."""
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.proofs.scripted_server", str(self.socket)), cwd=ROOT
        )
        async with asyncio.timeout(30):
            while not await self._listens():  # noqa: ASYNC110  it tells nobody
                await asyncio.sleep(0.02)

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_unix_connection(str(self.socket))
        except OSError:
            return False
        writer.close()
        return True

    async def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    async def strike(self, house: House) -> None:
        """Die after a random number of characters, again and again."""
        while True:
            enough = house.shown + self._chance.randint(1, 6_000)
            while house.shown < enough:  # noqa: ASYNC110  screens tell one listener only
                await asyncio.sleep(0.005)
            await self.kill()
            self.deaths += 1
            await self.start()


async def test_replies_are_whole_when_the_engines_process_is_killed(
    report: Report, tmp_path: Path
) -> None:
    turns = size(200, 4_000)
    mayfly = Mayfly(tmp_path / "engine.sock", random.Random(SEED))
    await mayfly.start()
    try:
        async with report.progress(lambda: f"engine-process-killed: {mayfly.deaths} deaths"):
            house = House(build_openai(f"unix://{mayfly.socket}"))
            findings = await run(house, turns, fate=mayfly.strike)
    finally:
        await mayfly.kill()
    report(
        Line(property="engine-process-killed", turns=turns, kills=mayfly.deaths, findings=findings)
    )
    assert findings.clean, (SEED, findings)
    assert mayfly.deaths


# The real thing

TOGETHER = 4
"""Replies that are written when vLLM is killed."""


async def told(
    house: House, conversations: Sequence[Conversation], prompts: Sequence[str]
) -> list[str]:
    """Let the engine answer all prompts at once; the ids of their turns."""
    asked = zip(conversations, prompts, strict=True)
    return [await house.send(conversation, prompt) for conversation, prompt in asked]


async def ends(house: House, conversations: Sequence[Conversation], turns: list[str]) -> list[str]:
    """The replies, when they have been shown to their ends."""
    screens = [house.screens[conversation] for conversation in conversations]
    for screen, turn in zip(screens, turns, strict=True):
        await shown(screen, turn)
        assert screen.of(turn, Finished)[-1].outcome == "done"
    return [screen.texts[turn] for screen, turn in zip(screens, turns, strict=True)]


async def stored(house: House, conversation: Conversation, turn: str, length: int) -> str:
    """What the ledger holds of a running turn's reply, once that is ``length`` long."""
    async with asyncio.timeout(60):
        while True:
            for pending in (await house.ledger.snapshot(conversation, 0)).pending:
                if pending.turn == turn and len(pending.reply) >= length:
                    return pending.reply
            await asyncio.sleep(0.002)


@pytest.mark.live
@pytest.mark.vllm
async def test_replies_are_whole_when_vllm_is_killed(report: Report, tmp_path: Path) -> None:
    """Its process is killed while it writes several replies, each of which was written before."""
    kills, chance, equal = size(5, 20), random.Random(SEED), 0
    vllm_python()
    engine = build_vllm(write_model(tmp_path / "walker"), startup_timeout=START_TIMEOUT)
    house = House(engine, skill=Parrot(), checker=HistoryChecker())
    async with (
        house.open(2 * kills * TOGETHER),
        report.progress(lambda: f"vllm-killed: {equal} replies as without"),
    ):
        rooms = iter(house.screens)
        for number in range(kills):
            prompts = [f"{number}: {SENTENCES[(number + it) % 8]}" for it in range(TOGETHER)]
            calm = list(itertools.islice(rooms, TOGETHER))
            whole = await ends(house, calm, await told(house, calm, prompts))
            struck = list(itertools.islice(rooms, TOGETHER))
            turns = await told(house, struck, prompts)
            length = chance.randint(1, len(whole[0]) // 2)
            before = await stored(house, struck[0], turns[0], length)
            assert engine.pid is not None
            os.kill(engine.pid, signal.SIGKILL)
            replies = await ends(house, struck, turns)
            assert replies[0].startswith(before), (SEED, before, replies[0])
            equal += sum(one == other for one, other in zip(whole, replies, strict=True))
        findings = await house.findings()
    figures: dict[str, str | int | float] = {"equal": f"{equal}/{kills * TOGETHER}"}
    turned = 2 * kills * TOGETHER
    report(
        Line(property="vllm-killed", turns=turned, kills=kills, findings=findings, figures=figures)
    )
    assert findings.clean, (SEED, findings)
