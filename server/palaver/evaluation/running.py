"""Running: sends the examples of a suite through a server of this process."""

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import get_args

import msgspec

from palaver.app import BackendBuilder
from palaver.config.settings import LedgerSettings, Settings
from palaver.engine import (
    ChatMessage,
    Engine,
    EngineInfo,
    EngineStats,
    Generation,
    GenerationRequest,
    OnText,
    ToolDefinition,
)
from palaver.errors import CallerError, Overloaded, TooMany, Unsupported
from palaver.evaluation.cases import Case, Example, Output
from palaver.evaluation.data import SuiteData
from palaver.evaluation.probes import probe_labels, probe_retriever, probe_skills
from palaver.evaluation.sandbox import run_program
from palaver.evaluation.suites import Suite
from palaver.knowledge import SearchByMeaning, SearchWay
from palaver.ledger import Snapshot
from palaver.messages import (
    Asked,
    Cited,
    Conversation,
    Cursor,
    Event,
    Finished,
    Message,
    Outcome,
    ProgramRequest,
    Routed,
    SentMessage,
    Text,
    TextReset,
    Usage,
    new_id,
)
from palaver.plugins import PluginRegistry
from palaver.server import Server
from palaver.skills import Skill

TENANT = "palaver-evaluation"
CHANNEL = "evaluation"
TURN_SECONDS = 600.0
"""Seconds after which a turn counts as failed."""

OnCase = Callable[[Case], Awaitable[None]]


class NoEngine:
    """Engine without a capability, for what is measured without a model. It writes nothing."""

    async def start(self) -> EngineInfo:
        return EngineInfo(model="", context_window=0, capabilities=frozenset())

    async def close(self) -> None:
        pass

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        return Generation(text="", finish_reason="stop", usage=Usage())

    async def count_tokens(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition] = ()
    ) -> int:
        return 0

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        raise Unsupported("the suite runs without an engine")

    async def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        raise Unsupported("the suite runs without an engine")

    async def stats(self) -> EngineStats:
        return EngineStats(running=0, waiting=0)


class LogprobEngine:
    """An `Engine` around another one that adds up the log-probabilities of what that writes.

    ``sums`` has, by person, the sum and the number of tokens: each output has a person of its own.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._is_able = False
        self.sums: dict[str, tuple[float, int]] = {}
        self.close, self.count_tokens = engine.close, engine.count_tokens
        self.embed, self.classify, self.stats = engine.embed, engine.classify, engine.stats

    async def start(self) -> EngineInfo:
        info = await self._engine.start()
        self._is_able = "logprobs" in info.capabilities
        return info

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        if not self._is_able or request.sampling.structure is not None:
            return await self._engine.generate(request, on_text)
        sampling = dataclasses.replace(request.sampling, logprobs=0)
        generation = await self._engine.generate(
            dataclasses.replace(request, sampling=sampling), on_text
        )
        total, count = self.sums.get(request.person, (0.0, 0))
        values = [token.logprob for token in generation.logprobs]
        self.sums[request.person] = (total + sum(values), count + len(values))
        return generation


def build_server(
    suite: Suite,
    data: SuiteData,
    settings: Settings,
    registry: PluginRegistry,
    *,
    engine: Engine,
    models: Mapping[str, Engine],
    stores: Path,
) -> Server:
    """Build a server for a suite. Ledger (SQLite), files and an embedded knowledge base are in
    ``stores``. ``models`` are the engines of ``engine.models``."""
    own = settings.model_copy(
        update={
            "server": settings.server.model_copy(update={"data": stores}),
            "ledger": LedgerSettings(),
        }
    )
    builder = BackendBuilder(own, registry)
    is_probe = suite.target in ("router", "retriever")
    return Server(
        own,
        ledger=builder.ledger(),
        engine=engine,
        models=models,
        embedder=builder.embedder(),
        knowledge=builder.knowledge(),
        skills=_choose_skills(suite, data, own, builder, registry),
        tools={} if is_probe else registry.tools,
        tool_sources={} if is_probe else builder.tool_sources(),
        interceptors=builder.interceptors(),
        files=builder.files(),
    )


def _choose_skills(
    suite: Suite,
    data: SuiteData,
    settings: Settings,
    builder: BackendBuilder,
    registry: PluginRegistry,
) -> dict[str, Skill]:
    if suite.target == "retriever":
        return probe_retriever(suite.passages)
    if suite.target != "router":
        return builder.skills()
    if data.labels is None:
        return probe_skills(registry.skills)
    return probe_labels({settings.routing.default: (), **data.labels})


async def run_examples(
    suite: Suite,
    server: Server,
    examples: Iterable[Example],
    on_case: OnCase,
    *,
    parallel: int,
    seed: int,
    logprobs: LogprobEngine | None = None,
) -> None:
    """Send the examples through the server, ``parallel`` at once; call ``on_case`` with each case
    as soon as it is complete. Raises the first error that is not of one message."""
    waiting = iter(examples)
    speaker = Speaker(suite, server, seed, logprobs)

    async def work() -> None:
        for example in waiting:  # shared by all workers
            outputs = [await speaker.ask(example, n) for n in range(suite.sampling.samples)]
            await on_case(Case(example, tuple(outputs)))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(parallel):
                group.create_task(work())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors


class Speaker:
    """Sends examples to a server, each as a person of its own in a new conversation."""

    def __init__(
        self, suite: Suite, server: Server, seed: int, logprobs: LogprobEngine | None
    ) -> None:
        self._suite = suite
        self._server = server
        self._seed = seed
        self._logprobs = logprobs
        self._ways = self._find_ways()

    async def ask(self, example: Example, sample: int) -> Output:
        """Return what the server makes of an example, and run the code in its reply."""
        message = self._make_message(example, sample)
        reply = ReplyReader()
        subscription = await self._server.subscribe(message.conversation, reply)
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await self._send(message, reply)
                await reply.finished.wait()
        except TimeoutError:
            reply.error = f"no reply within {TURN_SECONDS:g} seconds"
        except CallerError as error:
            reply.error = f"the message was refused: {error}"
        finally:
            self._server.unsubscribe(subscription)
        output = self._read(reply, message.person)
        if self._ways:
            baselines = {way: await self._search_by(way, example.text) for way in self._ways}
            return msgspec.structs.replace(output, baselines=baselines)
        if example.program is None or reply.outcome != "done":
            return output
        code = output.reply or output.text  # the white space at its beginning counts
        problem = await asyncio.to_thread(run_program, example.program, code)
        return msgspec.structs.replace(output, passed=not problem, error=problem)

    async def _send(self, message: Message, reply: "ReplyReader") -> None:
        """Send the message as soon as the server has room."""
        while True:
            reply.began = time.perf_counter()
            try:
                await self._server.accept(message)
                return
            except (TooMany, Overloaded) as error:
                await asyncio.sleep(error.retry_after or 1.0)

    def _find_ways(self) -> list[SearchWay]:
        """Return the ways of searching that metrics compare with and the server has."""
        if not isinstance(self._server.knowledge, SearchByMeaning):
            return []
        wanted = {metric.partition(":")[2] for metric in self._suite.metrics if "@" in metric}
        has = {"words": True, "vectors": self._server.embeddings is not None}
        return [way for way in get_args(SearchWay) if way in wanted and has[way]]

    async def _search_by(self, way: SearchWay, text: str) -> tuple[str, ...]:
        knowledge = self._server.knowledge
        assert isinstance(knowledge, SearchByMeaning)
        found = await knowledge.search_by(way, TENANT, text, self._suite.passages)
        return tuple(passage.document for passage in found)

    def _make_message(self, example: Example, sample: int) -> Message:
        sampling = self._suite.sampling
        request = ProgramRequest(
            history=tuple(SentMessage(turn.role, turn.text) for turn in example.history) or None,
            temperature=sampling.temperature,
            max_tokens=sampling.max_tokens,
            seed=None if sampling.temperature is None else self._seed + sample,
        )
        identity = new_id()
        return Message(
            conversation=Conversation(TENANT, CHANNEL, identity),
            id=identity,
            person=identity,
            text=example.text,
            skill=example.skill,
            arguments=example.arguments,
            program=msgspec.UNSET if request == ProgramRequest() else request,
        )

    def _read(self, reply: "ReplyReader", person: str) -> Output:
        table = self._suite.reply
        text = table.remove.sub("", reply.text) if table.remove else reply.text
        if any(sentence in text for sentence in table.no_answer):
            text = ""
        sums = self._logprobs.sums.pop(person, None) if self._logprobs else None
        logprob, tokens = sums or (0.0, 0)
        return Output(
            text=text.strip(),
            reply=reply.text if text.strip() != reply.text else "",
            skill=reply.skill,
            reason=reply.reason,
            score=reply.score,
            outcome=reply.outcome,
            documents=tuple(reply.documents),
            usage=reply.usage,
            first_token_seconds=reply.first_token_seconds,
            seconds=time.perf_counter() - reply.began,
            logprob=logprob,
            logprob_tokens=tokens,
            error=reply.error,
        )


class ReplyReader:
    """Subscriber that reads one reply. ``began`` is when its message was sent."""

    def __init__(self) -> None:
        self.began = 0.0
        self.first_token_seconds: float | None = None
        self.text = ""
        self.skill = ""
        self.reason = ""
        self.score: float | None = None
        self.documents: list[str] = []
        self.outcome: Outcome = "failed"
        self.usage = Usage()
        self.error = ""
        self.finished = asyncio.Event()

    def on_event(self, event: Event, cursor: Cursor | None) -> None:
        match event:
            case Text(position=position, text=text):
                if self.first_token_seconds is None:
                    self.first_token_seconds = time.perf_counter() - self.began
                self.text = self.text[:position] + text
            case TextReset(position=position):
                self.text = self.text[:position]
            case Routed():
                self.skill, self.reason, self.score = event.skill, event.reason, event.score
            case Cited(citation=citation):
                self.documents.append(citation.document)
            case Asked(question=question):
                self.error = f"it asked: {question}"
            case Finished():
                self.outcome, self.usage = event.outcome, event.usage
                self.error = event.problem.message if event.problem else self.error
                self.finished.set()

    def on_snapshot(self, snapshot: Snapshot) -> None:
        """Ignore it: a subscription to a new conversation misses nothing."""

    def on_shutdown(self) -> None:
        self.error = "the server has shut down"
        self.finished.set()
