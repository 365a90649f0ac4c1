"""A crash or a hang of the engine is detected and reported, and the engine is restarted."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Sequence

import pytest
from tests.server.skills_under_test import Parrot

from palaver.config.settings import EmbeddingSettings, EngineSettings, Settings
from palaver.embedding import EngineEmbedder
from palaver.engine import ChatMessage, EngineInfo, Generation, GenerationRequest, OnText
from palaver.engines.supervised import SupervisedEngine
from palaver.errors import EngineTimeout, EngineUnavailable, Overloaded, PalaverError
from palaver.evaluation.running import NoEngine
from palaver.metrics import Metrics
from palaver.server import Server
from palaver.testing import ListKnowledge, MemoryLedger, ScriptedEngine, ScriptedReply, converse
from palaver.testing.engine import Script

pytestmark = pytest.mark.slow

QUICK = EngineSettings(
    use="scripted", health_probe_interval=0.05, health_probe_timeout=0.1, restart_backoff=0.01
)


def request(text: str = "hi", timeout: float = 5.0) -> GenerationRequest:
    return GenerationRequest(
        id="x", messages=(ChatMessage("user", text),), tenant="t", timeout=timeout
    )


def ignore(text: str) -> None: ...


async def wait_until_healthy(engine: SupervisedEngine, *, healthy: bool = True) -> None:
    async with asyncio.timeout(5):
        while bool(engine.problem) is healthy:  # noqa: ASYNC110  supervision sets no event
            await asyncio.sleep(0.005)


async def test_calls_to_a_crashed_engine_fail_at_once_until_it_is_up_again() -> None:
    inner = ScriptedEngine(lambda r: "alive" if "Hi" not in r.messages[0].content else "x")
    engine = SupervisedEngine(inner, QUICK, Metrics().of_model())
    await engine.start()
    inner.crash()
    with pytest.raises(EngineUnavailable):
        await engine.generate(request(), ignore)
    assert engine.problem
    with pytest.raises(EngineUnavailable) as refused:
        await engine.generate(request(), ignore)
    assert refused.value.retry_after
    await wait_until_healthy(engine)
    assert (await engine.generate(request(), ignore)).text == "alive"
    await engine.close()


async def test_a_silent_crash_is_found_by_the_health_probe() -> None:
    inner = ScriptedEngine()
    engine = SupervisedEngine(inner, QUICK, Metrics().of_model())
    await engine.start()
    inner.crash()
    await wait_until_healthy(engine, healthy=False)
    await wait_until_healthy(engine)
    await engine.close()


async def test_a_hang_is_found_by_the_health_probe() -> None:
    hangs = [True]
    inner = ScriptedEngine(lambda _: ScriptedReply(text="x", pause_after=0 if hangs[0] else None))
    engine = SupervisedEngine(inner, QUICK, Metrics().of_model())
    await engine.start()
    await wait_until_healthy(engine, healthy=False)
    assert "hangs" in engine.problem
    hangs[0] = False
    await wait_until_healthy(engine)
    await engine.close()


async def test_readiness_reports_a_crashed_engine() -> None:
    inner = ScriptedEngine(ScriptedReply(text="", crash_after=0))
    down = QUICK.model_copy(update={"restart_backoff": 60.0, "restart_timeout": 0.0})
    async with converse(Parrot, engine=inner, settings=Settings(engine=down)) as chat:
        reply = await chat.say("hello")
        assert reply.problem is not None
        assert reply.problem.code == "engine_unavailable"
        assert "engine" in chat.server.readiness()


class FalseAlarmEngine(ScriptedEngine):
    """Reports a crash to the tenant "late" when ``report_crash`` is set, true or not by then."""

    def __init__(self, *lines: str | ScriptedReply | Script) -> None:
        super().__init__(*lines)
        self.report_crash = asyncio.Event()

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        if request.tenant == "late":
            await self.report_crash.wait()
            raise EngineUnavailable("crashed long ago")
        return await super().generate(request, on_text)


async def test_a_late_report_of_a_crash_does_not_affect_the_restarted_engine() -> None:
    inner = FalseAlarmEngine(lambda _: "alive")
    engine = SupervisedEngine(inner, QUICK, Metrics().of_model())
    await engine.start()
    late = dataclasses.replace(request(), tenant="late")
    late_call = asyncio.create_task(engine.generate(late, ignore))
    await asyncio.sleep(0)
    inner.crash()
    with pytest.raises(EngineUnavailable):
        await engine.generate(request(), ignore)
    await wait_until_healthy(engine)
    inner.report_crash.set()
    with pytest.raises(EngineUnavailable, match="long ago"):
        await late_call
    assert not engine.problem
    await engine.close()


async def test_a_request_that_fails_alone_does_not_interrupt_the_others() -> None:
    inner = FalseAlarmEngine(ScriptedReply(text="one two three", pause_after=1), "probe")
    inner.report_crash.set()
    engine = SupervisedEngine(inner, QUICK, Metrics().of_model())
    await engine.start()
    other = asyncio.create_task(engine.generate(request(), ignore))
    await asyncio.sleep(0)
    with pytest.raises(EngineUnavailable):
        await engine.generate(dataclasses.replace(request(), tenant="late"), ignore)
    assert engine.problem
    await wait_until_healthy(engine)
    inner.resume()
    assert (await other).text == "one two three"
    await engine.close()


class StartCountingEngine(ScriptedEngine):
    """Counts its starts, and fails the second one with an unexpected error."""

    starts = 0

    async def start(self) -> EngineInfo:
        self.starts += 1
        if self.starts == 2:
            raise RuntimeError("no memory left")
        return await super().start()


async def test_a_restart_that_fails_for_any_reason_is_tried_again() -> None:
    inner = StartCountingEngine(lambda _: "alive")
    engine = SupervisedEngine(inner, QUICK, Metrics().of_model())
    await engine.start()
    inner.crash()
    await wait_until_healthy(engine, healthy=False)
    await wait_until_healthy(engine)
    assert inner.starts == 3
    await engine.close()


class ProbeRecordingEngine(StartCountingEngine):
    """Raises ``probe_error()`` for each health probe, and sets ``probed_thrice`` after three."""

    def __init__(self, probe_error: Callable[[], PalaverError]) -> None:
        super().__init__()
        self.probed_thrice = asyncio.Event()
        self.on_text: OnText = ignore
        self._probe_error = probe_error
        self._probes = 0

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        if not request.tenant.endswith("probe"):
            self.on_text = on_text
            await self.probed_thrice.wait()
        self._probes += 1
        if self._probes == 3:
            self.probed_thrice.set()
        raise self._probe_error()


async def test_a_busy_engine_does_not_count_as_hung() -> None:
    def busy() -> PalaverError:
        inner.on_text("text of another request")
        return EngineTimeout("the health probe got no slot")

    inner = ProbeRecordingEngine(busy)
    engine = SupervisedEngine(inner, QUICK, Metrics().of_model())
    await engine.start()
    with pytest.raises(EngineTimeout):
        await asyncio.wait_for(engine.generate(request(), ignore), 5)
    assert inner.starts == 1
    await engine.close()


async def test_an_engine_that_refuses_the_health_probe_as_overloaded_is_healthy() -> None:
    inner = ProbeRecordingEngine(lambda: Overloaded("full"))
    engine = SupervisedEngine(inner, QUICK, Metrics().of_model())
    await engine.start()
    await asyncio.wait_for(inner.probed_thrice.wait(), 5)
    assert inner.starts == 1
    await engine.close()


class Embedding(ScriptedEngine):
    """Engine that only embeds. It hangs and fails as it is told."""

    hangs = False
    starts = 0

    async def start(self) -> EngineInfo:
        self.starts += 1
        self.hangs = False
        info = await super().start()
        return dataclasses.replace(info, capabilities=frozenset({"embed"}))

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        if self.hangs:
            await asyncio.Event().wait()
        return [[1.0]] * len(texts)

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        raise AssertionError("it does not generate")


async def test_an_engine_that_only_embeds_is_restarted_when_it_hangs() -> None:
    inner = Embedding()
    embedder = EngineEmbedder("small", inner, "m")
    embedder.wrap(lambda engine: SupervisedEngine(engine, QUICK, Metrics().of_model()))
    await embedder.start()
    assert await embedder.embed(["a"]) == [[1.0]]
    inner.hangs = True
    async with asyncio.timeout(10):
        while inner.starts == 1:  # noqa: ASYNC110  supervision sets no event
            await asyncio.sleep(0.005)
        while True:
            with contextlib.suppress(EngineUnavailable):
                assert await embedder.embed(["a"]) == [[1.0]]
                break
            await asyncio.sleep(0.005)
    await embedder.close()


async def test_a_server_supervises_the_engine_that_only_embeds() -> None:
    inner = Embedding()
    server = Server(
        Settings(engine=QUICK, embedding=EmbeddingSettings(use="small")),
        ledger=MemoryLedger(),
        engine=ScriptedEngine("hello"),
        knowledge=ListKnowledge(),
        skills={"parrot": Parrot()},
        embedder=EngineEmbedder("small", inner, "m"),
    )
    async with server:
        inner.hangs = True
        async with asyncio.timeout(10):
            while inner.starts == 1:  # noqa: ASYNC110  supervision sets no event
                await asyncio.sleep(0.005)
    assert inner.starts >= 2


async def test_an_engine_that_can_do_nothing_is_not_restarted() -> None:
    starts = 0

    class Nothing(NoEngine):
        async def start(self) -> EngineInfo:
            nonlocal starts
            starts += 1
            return await super().start()

        async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
            probed.set()
            return await super().generate(request, on_text)

    probed = asyncio.Event()
    engine = SupervisedEngine(Nothing(), QUICK, Metrics().of_model())
    await engine.start()
    for _ in range(2):
        await asyncio.wait_for(probed.wait(), 5)
        probed.clear()
    assert (engine.problem, starts) == ("", 1)
    await engine.close()
