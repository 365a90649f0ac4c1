"""What the tests of engines share: a listener, requests in few words, bounded waits."""

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
    """An ``on_text`` that keeps the pieces, and tells when the first has come."""

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
    """A started engine, what it declared, and how to make another one."""

    name: str
    engine: Engine
    engine_info: EngineInfo
    factory: Factory
    model: Path

    def has(self, ability: str) -> bool:
        return ability in self.engine_info.capabilities

    async def generate(
        self, prompt: str, ear: TextCollector | None = None, **options: object
    ) -> Generation:
        return await self.engine.generate(request(prompt, **options), ear or TextCollector())

    async def wait_until_idle(self) -> None:
        """Return when the engine counts no request; `TimeoutError` after 5 seconds."""

        async def is_idle() -> bool:
            return await self.engine.stats() == IDLE

        await wait_until(is_idle)


def request(prompt: str | tuple[ChatMessage, ...], **options: object) -> GenerationRequest:
    """A request from a prompt and any fields of `Sampling` and `GenerationRequest`."""
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


async def wait_until(holds: Callable[[], Awaitable[bool]], within: float = 5.0) -> None:
    """Return when ``holds`` does; `TimeoutError` after ``within`` seconds."""
    async with asyncio.timeout(within):
        while not await holds():  # noqa: ASYNC110  an engine's count sets no event
            await asyncio.sleep(0.01)
