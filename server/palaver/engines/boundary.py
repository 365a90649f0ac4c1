"""Boundary: what passes between the server and an engine's plugin, whichever it is."""

import asyncio
import dataclasses
import logging
from collections.abc import Sequence

from palaver.engine import (
    Capability,
    ChatMessage,
    Engine,
    EngineInfo,
    EngineStats,
    Generation,
    GenerationRequest,
    OnText,
    ToolDefinition,
)
from palaver.engines.normalization import normalize_messages
from palaver.engines.requests import check_images, check_request, check_tools
from palaver.errors import EngineRefused, PalaverError, contained, part_name

log = logging.getLogger(__name__)

PROBE_TIMEOUT = 10.0  # seconds
_USER = ChatMessage("user", "Hi")
_SHORT_SYSTEM = ChatMessage("system", "Answer briefly.")
_LONG_SYSTEM = ChatMessage("system", "Answer briefly, in one or two sentences that all understand.")


class EngineBoundary:
    """An `Engine` around a plugin's engine.

    The plugin gets only messages that every chat template takes, see `normalize_messages`. Nothing
    of its errors but their kind reaches a client: their details may quote a server's address or its
    response. What is wrong with a request itself is told before the plugin gets it.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._name = part_name("engine", engine)
        self._hiding_details = _HidingDetails(self._name)
        self._capabilities: frozenset[Capability] = frozenset()
        self.has_system_role = True
        """Whether the model's chat template takes a system message."""

    async def start(self) -> EngineInfo:
        with contained(self._name):
            info = await self._engine.start()
        self._capabilities = info.capabilities
        if "generate" in info.capabilities:
            self.has_system_role = await self._find_system_role()
        return info

    async def _find_system_role(self) -> bool:
        """Return False when the chat template refuses a system message or leaves it out.

        Two system messages are compared: instead of none, some templates show one of their own.
        """
        long, short = await self._count(_LONG_SYSTEM), await self._count(_SHORT_SYSTEM)
        if long is not None and short is not None and long > short:
            return True
        if await self._count() is None:  # something else is wrong
            return True
        log.info("the model takes no system message: its text is put before the user's first one")
        return False

    async def _count(self, *system: ChatMessage) -> int | None:
        """Return the tokens of a conversation, or None when the engine cannot count them."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                return await self._engine.count_tokens([*system, _USER])
        except (PalaverError, TimeoutError):
            return None

    async def close(self) -> None:
        with contained(self._name):
            await self._engine.close()

    def _normalize(self, messages: Sequence[ChatMessage]) -> tuple[ChatMessage, ...]:
        return normalize_messages(
            messages, system_role=self.has_system_role, tools="tools" in self._capabilities
        )

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        check_request(request, self._capabilities)
        messages = self._normalize(request.messages)
        if messages != request.messages:
            request = dataclasses.replace(request, messages=messages)
        with self._hiding_details:
            return await self._engine.generate(request, on_text)

    async def count_tokens(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition] = ()
    ) -> int:
        check_images(messages, self._capabilities)
        check_tools(tools, self._capabilities)
        with self._hiding_details:
            return await self._engine.count_tokens(self._normalize(messages), tools)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        with self._hiding_details:
            return await self._engine.embed(texts)

    async def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        with self._hiding_details:
            return await self._engine.classify(texts)

    async def stats(self) -> EngineStats:
        with self._hiding_details:
            return await self._engine.stats()


class _HidingDetails:
    """Block that raises `EngineRefused` in place of an error whose detail a client would see, and
    `PluginError` in place of what would end the process, as `contained` does."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        if isinstance(error, PalaverError) and error.detail_is_public:
            raise EngineRefused(str(error)) from error
        if error is not None and not isinstance(error, Exception):
            with contained(self._name):
                raise error
