"""The engine crashes in the middle of replies, and every reply is complete all the same."""

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
from tests.chaos.findings import Findings
from tests.chaos.history import HistoryChecker
from tests.plugins.engines.models import SENTENCES, write_model
from tests.plugins.engines.serving import START_TIMEOUT, build_openai, build_vllm, vllm_python
from tests.proof_settings import SEED, short_or_long
from tests.proofs.crashing_engine import CrashingEngine, NonContinuingEngine
from tests.proofs.report import PropertyResult, Report
from tests.proofs.scripted_server import KINDS, chosen_kind, reply_to
from tests.server.skills_under_test import Parrot

from palaver import Skill, Turn
from palaver.config.settings import DispatchSettings, EngineSettings, RoutingSettings, Settings
from palaver.engine import Engine
from palaver.messages import Conversation, Finished, Message, TextReset
from palaver.server import Server
from palaver.testing import ListKnowledge, MemoryLedger, RecordingSubscriber

CONVERSATIONS = 25
ROOT = Path(__file__).parents[2]


class ChoosingSkill(Skill):
    """Choose a kind of text, and stream one."""

    name = "chooser"

    async def answer(self, turn: Turn) -> None:
        kind = await turn.choose(turn.message.text, KINDS)
        await turn.say(f"Here is {kind}: ")
        await turn.stream(turn.message.text)


def expected(message: Message) -> str:
    return f"Here is {chosen_kind(message.text)}: {reply_to(message.text)}"


def settings(skill: Skill, **engine: float) -> Settings:
    """Return settings with quick restarts and practically unlimited attempts and timeouts."""
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
class EngineProof:
    """A server on ``engine``, with a subscriber to every conversation."""

    engine: Engine
    skill: Skill = field(default_factory=ChoosingSkill)
    continues: bool = True
    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    checker: HistoryChecker = field(default_factory=lambda: HistoryChecker(expected))
    subscribers: dict[Conversation, RecordingSubscriber] = field(default_factory=dict)
    server: Server = field(init=False)

    @contextlib.asynccontextmanager
    async def open(self, conversations: int) -> AsyncIterator["EngineProof"]:
        self.server = Server(
            settings(self.skill),
            ledger=self.ledger,
            engine=self.engine,
            knowledge=ListKnowledge(),
            skills={self.skill.name: self.skill},
        )
        if not self.continues:
            self.server.engine._engine = self.server._models.default._supervised
        async with self.server, contextlib.AsyncExitStack() as stack:
            for number in range(conversations):
                await self._subscribe(Conversation("default", "test", f"thread-{number}"), stack)
            yield self

    async def _subscribe(
        self, conversation: Conversation, stack: contextlib.AsyncExitStack
    ) -> None:
        subscriber = self.subscribers[conversation] = RecordingSubscriber()
        subscription = await self.server.subscribe(conversation, subscriber)
        stack.callback(self.server.unsubscribe, subscription)

    @property
    def shown_characters(self) -> int:
        """The number of characters that the subscribers have received."""
        texts = (
            text for subscriber in self.subscribers.values() for text in subscriber.texts.values()
        )
        return sum(map(len, texts))

    async def send(self, conversation: Conversation, text: str) -> str:
        message = Message(conversation=conversation, id=text, person="ada", text=text)
        turn = (await self.server.accept(message)).turn
        self.checker.record_accepted(message, turn)
        return turn

    async def send_messages(self, turns: int) -> None:
        """Send ``turns`` messages, in each conversation one after the other."""

        async def converse(first: int, conversation: Conversation) -> None:
            for number in range(first, turns, len(self.subscribers)):
                turn = await self.send(conversation, f"message {number}")
                await wait_until_finished(self.subscribers[conversation], turn)

        async with asyncio.TaskGroup() as group:
            for first, conversation in enumerate(self.subscribers):
                group.create_task(converse(first, conversation))

    async def findings(self) -> Findings:
        found = await self.checker.check(self.ledger)
        for conversation, subscriber in self.subscribers.items():
            seen = await self.checker.check_recorder(self.ledger, conversation, subscriber)
            for kind in ("lost", "duplicated", "wrong"):
                for _ in range(getattr(seen, kind)):
                    found.record(kind, f"at the subscriber of {conversation}")
            for turn in subscriber.texts:
                if subscriber.events_of(turn, TextReset):
                    found.record("wrong", f"{turn}: delivered text is withdrawn")
        return found


async def wait_until_finished(subscriber: RecordingSubscriber, turn: str) -> None:
    """Wait until ``subscriber`` has received the end of a turn."""
    async with asyncio.timeout(900):
        while not subscriber.events_of(turn, Finished):  # noqa: ASYNC110  a subscriber's own wait ends after 5 s
            await asyncio.sleep(0.002)


Fault = Callable[[EngineProof], Coroutine[None, None, None]]


async def no_fault(proof: EngineProof) -> None:
    """Leave the engine alone."""


@contextlib.asynccontextmanager
async def running(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def run_proof(
    proof: EngineProof,
    turns: int,
    conversations: int = CONVERSATIONS,
    fault: Fault = no_fault,
) -> Findings:
    """Send messages while ``fault`` runs. Return the findings."""
    async with proof.open(conversations), running(fault(proof)):
        await proof.send_messages(turns)
        return await proof.findings()


def make_crashing_engine(kind: type[CrashingEngine] = CrashingEngine) -> CrashingEngine:
    return kind(random.Random(SEED), characters_per_run=1_500)


async def test_replies_are_complete_when_the_engine_crashes_at_random_characters(
    report: Report,
) -> None:
    turns, engine = short_or_long(500, 10_000), make_crashing_engine()
    async with report.progress(lambda: f"engine-killed: {engine.crashes} crashes"):
        findings = await run_proof(EngineProof(engine), turns)
    report.add(
        PropertyResult(
            property="engine-killed", turns=turns, kills=engine.crashes, findings=findings
        )
    )
    assert findings.is_clean, (SEED, findings)
    assert engine.crashes > turns / 20


@pytest.mark.parametrize(
    ("kind", "continues", "what"),
    [
        (CrashingEngine, False, "continuation off"),
        (NonContinuingEngine, True, "partial reply forgotten"),
    ],
)
async def test_a_reply_that_is_not_continued_is_found(
    report: Report, kind: type[CrashingEngine], continues: bool, what: str
) -> None:
    # With many at once, a reply that starts over each time would never end.
    findings = await run_proof(
        EngineProof(make_crashing_engine(kind), continues=continues), 30, conversations=3
    )
    report.add_mutant("engine-killed", findings.wrong > 0, what)
    assert findings.wrong > 0


# In a process of its own


class EngineProcess:
    """The process of `scripted_server`, which is killed and started again."""

    def __init__(self, socket: Path, chance: random.Random) -> None:
        self.kills = 0
        self.socket = socket
        self._chance = chance
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the process, and wait until it listens."""
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.proofs.scripted_server", str(self.socket)), cwd=ROOT
        )
        async with asyncio.timeout(30):
            while not await self._listens():  # noqa: ASYNC110  it sends no signal
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

    async def kill_repeatedly(self, proof: EngineProof) -> None:
        """Kill the process after a random number of delivered characters, again and again."""
        while True:
            target = proof.shown_characters + self._chance.randint(1, 6_000)
            while proof.shown_characters < target:  # noqa: ASYNC110  subscribers set no event
                await asyncio.sleep(0.005)
            await self.kill()
            self.kills += 1
            await self.start()


async def test_replies_are_complete_when_the_engine_process_is_killed(
    report: Report, tmp_path: Path
) -> None:
    turns = short_or_long(200, 4_000)
    engine_process = EngineProcess(tmp_path / "engine.sock", random.Random(SEED))
    await engine_process.start()
    try:
        async with report.progress(
            lambda: f"engine-process-killed: {engine_process.kills} crashes"
        ):
            proof = EngineProof(build_openai(f"unix://{engine_process.socket}"))
            findings = await run_proof(proof, turns, fault=engine_process.kill_repeatedly)
    finally:
        await engine_process.kill()
    report.add(
        PropertyResult(
            property="engine-process-killed",
            turns=turns,
            kills=engine_process.kills,
            findings=findings,
        )
    )
    assert findings.is_clean, (SEED, findings)
    assert engine_process.kills


# vLLM

CONCURRENT_REPLIES = 4
"""Replies that run when vLLM is killed."""


async def send_prompts(
    proof: EngineProof, conversations: Sequence[Conversation], prompts: Sequence[str]
) -> list[str]:
    """Send each prompt to its conversation. Return the ids of the turns."""
    asked = zip(conversations, prompts, strict=True)
    return [await proof.send(conversation, prompt) for conversation, prompt in asked]


async def wait_for_replies(
    proof: EngineProof, conversations: Sequence[Conversation], turns: list[str]
) -> list[str]:
    """Return the replies when all turns are finished."""
    subscribers = [proof.subscribers[conversation] for conversation in conversations]
    for subscriber, turn in zip(subscribers, turns, strict=True):
        await wait_until_finished(subscriber, turn)
        assert subscriber.events_of(turn, Finished)[-1].outcome == "done"
    return [subscriber.texts[turn] for subscriber, turn in zip(subscribers, turns, strict=True)]


async def wait_for_stored_text(
    proof: EngineProof, conversation: Conversation, turn: str, length: int
) -> str:
    """Return the stored reply of a running turn once it has ``length`` characters."""
    async with asyncio.timeout(60):
        while True:
            for pending in (await proof.ledger.snapshot(conversation, 0)).pending:
                if pending.turn == turn and len(pending.reply) >= length:
                    return pending.reply
            await asyncio.sleep(0.002)


@pytest.mark.live
@pytest.mark.vllm
async def test_replies_are_complete_when_vllm_is_killed(report: Report, tmp_path: Path) -> None:
    """The vLLM process is killed during several replies, each generated before without a crash."""
    kills, chance, equal = short_or_long(5, 20), random.Random(SEED), 0
    vllm_python()
    engine = build_vllm(write_model(tmp_path / "walker"), startup_timeout=START_TIMEOUT)
    proof = EngineProof(engine, skill=Parrot(), checker=HistoryChecker())
    async with (
        proof.open(2 * kills * CONCURRENT_REPLIES),
        report.progress(lambda: f"vllm-killed: {equal} replies equal"),
    ):
        conversations = iter(proof.subscribers)
        for number in range(kills):
            prompts = [
                f"{number}: {SENTENCES[(number + it) % 8]}" for it in range(CONCURRENT_REPLIES)
            ]
            undisturbed = list(itertools.islice(conversations, CONCURRENT_REPLIES))
            whole = await wait_for_replies(
                proof, undisturbed, await send_prompts(proof, undisturbed, prompts)
            )
            interrupted = list(itertools.islice(conversations, CONCURRENT_REPLIES))
            turns = await send_prompts(proof, interrupted, prompts)
            length = chance.randint(1, len(whole[0]) // 2)
            before = await wait_for_stored_text(proof, interrupted[0], turns[0], length)
            assert engine.pid is not None
            os.kill(engine.pid, signal.SIGKILL)
            replies = await wait_for_replies(proof, interrupted, turns)
            assert replies[0].startswith(before), (SEED, before, replies[0])
            equal += sum(one == other for one, other in zip(whole, replies, strict=True))
        findings = await proof.findings()
    figures: dict[str, str | int | float] = {"equal": f"{equal}/{kills * CONCURRENT_REPLIES}"}
    turns_total = 2 * kills * CONCURRENT_REPLIES
    report.add(
        PropertyResult(
            property="vllm-killed",
            turns=turns_total,
            kills=kills,
            findings=findings,
            figures=figures,
        )
    )
    assert findings.is_clean, (SEED, findings)
