"""Helpers of the engine tests: a text collector, short requests, bounded waits."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from itertools import count
from pathlib import Path

from palaver.engine import (
    ChatMessage,
    Engine,
    EngineInfo,
    EngineStats,
    Generation,
    GenerationRequest,
    Sampling,
)

Factory = Callable[[Path], AbstractAsyncContextManager[Engine]]
IDLE = EngineStats(running=0, waiting=0)
_serial = count(1)


class TextCollector:
    """An ``on_text`` that stores the pieces; ``first`` is set by the first one."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.first = asyncio.Event()

    def __call__(self, piece: str) -> None:
        self.pieces.append(piece)
        self.first.set()

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@dataclasses.dataclass(frozen=True, slots=True)
class StartedEngine:
    """A started engine with its description, and a factory for another instance."""

    name: str
    engine: Engine
    engine_info: EngineInfo
    factory: Factory
    model: Path

    def has(self, capability: str) -> bool:
        return capability in self.engine_info.capabilities

    async def generate(
        self, prompt: str, collector: TextCollector | None = None, **options: object
    ) -> Generation:
        return await self.engine.generate(request(prompt, **options), collector or TextCollector())

    async def wait_until_idle(self) -> None:
        """Wait until the engine counts no request. Raises `TimeoutError` after 5 seconds."""

        async def is_idle() -> bool:
            return await self.engine.stats() == IDLE

        await wait_until(is_idle)


def request(prompt: str | tuple[ChatMessage, ...], **options: object) -> GenerationRequest:
    """Return a request with ``prompt`` and any fields of `Sampling` and `GenerationRequest`."""
    messages = (ChatMessage("user", prompt),) if isinstance(prompt, str) else prompt
    names = {field.name for field in dataclasses.fields(Sampling)}
    sampling = {"max_tokens": 40} | {key: options[key] for key in names & options.keys()}
    rest = {"tenant": "tests", "timeout": 60.0}
    rest |= {key: value for key, value in options.items() if key not in names}
    return GenerationRequest(
        id=f"test-{next(_serial)}",
        messages=messages,
        sampling=Sampling(**sampling),  # type: ignore[arg-type]
        **rest,  # type: ignore[arg-type]
    )


async def wait_until(condition: Callable[[], Awaitable[bool]], timeout: float = 5.0) -> None:  # noqa: ASYNC109
    """Wait until ``condition`` returns True. Raises `TimeoutError` after ``timeout`` seconds."""
    async with asyncio.timeout(timeout):
        while not await condition():  # noqa: ASYNC110  an engine's count sets no event
            await asyncio.sleep(0.01)
