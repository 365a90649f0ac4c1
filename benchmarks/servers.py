"""Servers to measure, each in its own process. Print the address and serve.

    python -m benchmarks.servers floor
    python -m benchmarks.servers memory|sqlite|redis ticks|together [REDIS_URL]
    python -m benchmarks.servers vllm MODEL_DIRECTORY PYTHON

``ticks``: each of the 32 chunks comes in its own loop tick, as from an engine that generates one
token at a time; ``together``: all chunks in one tick. ``vllm``: a real engine, with the ledger in
memory.
"""

import asyncio
import contextlib
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from aiohttp import WSMsgType, web

from benchmarks.engines import ARGUMENTS
from palaver import Sampling, Skill, Turn
from palaver.config.settings import ConnectionSettings, RoutingSettings, ServerSettings, Settings
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
from palaver.errors import Unsupported
from palaver.hooks import BuildContext
from palaver.ledger import Ledger
from palaver.messages import Usage
from palaver.plugins import load_plugins
from palaver.server import Server
from palaver.testing import ListKnowledge, MemoryLedger
from palaver.web.listener import listening

CHUNKS = tuple(f" chunk{n:02d}" for n in range(32))


class ReadyEngine:
    """Engine with a ready-made text, to measure only the cost of the server."""

    def __init__(self, *, ticks: bool) -> None:
        self._ticks = ticks

    async def start(self) -> EngineInfo:
        return EngineInfo(
            model="ready", context_window=100_000, capabilities=frozenset({"generate"})
        )

    async def close(self) -> None: ...

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        for chunk in CHUNKS:
            on_text(chunk)
            if self._ticks:
                await asyncio.sleep(0)
        return Generation(text="".join(CHUNKS), finish_reason="stop", usage=Usage())

    async def count_tokens(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition] = ()
    ) -> int:
        return sum(len(message.content) for message in messages)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        raise Unsupported("embed")

    async def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        raise Unsupported("classify")

    async def stats(self) -> EngineStats:
        return EngineStats(running=0, waiting=0)


class RelaySkill(Skill):
    """Stream the engine's text."""

    name = "relay"
    examples = ("relay this", "pass it on")

    async def answer(self, turn: Turn) -> None:
        await turn.stream(turn.message.text, sampling=Sampling(max_tokens=128))


class OtherSkill(Skill):
    """Second skill, so that messages are routed."""

    name = "other"
    examples = ("something else", "another thing")

    async def answer(self, turn: Turn) -> None:
        await turn.say("")


async def floor_websocket(request: web.Request) -> web.WebSocketResponse:
    """Send 32 ready-made frames for every message: the minimum that a server must do."""
    socket = web.WebSocketResponse(compress=False)
    await socket.prepare(request)
    frames = [
        f'{{"type":"text","turn":"{"0" * 32}","position":{8 * n},"text":"{chunk}"}}'
        for n, chunk in enumerate(CHUNKS)
    ]
    async for message in socket:
        if message.type is WSMsgType.TEXT and "hello" in message.data:
            await socket.send_str('{"type":"welcome"}')
            continue
        with contextlib.suppress(ConnectionError):
            for frame in frames:
                await socket.send_str(frame)
            await socket.send_str('{"type":"finished"}')
    return socket


async def serve_floor() -> None:
    application = web.Application()
    application.add_routes([web.get("/ws", floor_websocket)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print_address(f"http://127.0.0.1:{runner.addresses[0][1]}/")
    await asyncio.Event().wait()


def make_ledger(kind: str, data: Path, redis_url: str) -> Ledger:
    if kind == "memory":
        return MemoryLedger()
    backend = load_plugins().ledgers[kind]
    values = {"url": redis_url} if kind == "redis" else {"path": str(data / "ledger.sqlite")}
    build_context = BuildContext(data_directory=data, resolve_model=Path)
    return backend.build(backend.settings.model_validate(values), build_context)


def make_server(ledger: Ledger, engine: Engine, data: Path) -> Server:
    """Return a server with the skill `RelaySkill`, and another one to choose from."""
    settings = Settings(
        server=ServerSettings(port=0, data=data),
        connections=ConnectionSettings(per_address=10_000, pending=10_000),
        routing=RoutingSettings(default="relay"),
    )
    return Server(
        settings,
        ledger=ledger,
        engine=engine,
        knowledge=ListKnowledge(),
        skills={"relay": RelaySkill(), "other": OtherSkill()},
    )


async def serve_palaver(ledger: Ledger, engine: Engine, data: Path) -> None:
    async with make_server(ledger, engine, data) as server, listening(server) as address:
        print_address(address)
        await asyncio.Event().wait()


def vllm_engine(model: str, python: str) -> Engine:
    from palaver_plugins.engines.vllm import VllmEngine, VllmSettings

    settings = VllmSettings.model_validate(ARGUMENTS | {"model": model, "python": python})
    return VllmEngine(settings, BuildContext(data_directory=Path(model), resolve_model=Path))


def print_address(address: str) -> None:
    sys.stdout.write(address + "\n")
    sys.stdout.flush()


def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    kind, *rest = sys.argv[1:]
    with contextlib.suppress(KeyboardInterrupt), tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        if kind == "floor":
            asyncio.run(serve_floor())
        elif kind == "vllm":
            asyncio.run(serve_palaver(MemoryLedger(), vllm_engine(*rest), data))
        else:
            mode, redis_url = (*rest, "")[:2]
            ledger = make_ledger(kind, data, redis_url)
            asyncio.run(serve_palaver(ledger, ReadyEngine(ticks=mode == "ticks"), data))


if __name__ == "__main__":
    main()
