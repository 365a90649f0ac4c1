"""Scheduled engine: fair, bounded access to the engine.

It passes on as many generations as the engine runs at once and queues the others, in an order that
`palaver.admission.scheduler` decides. `palaver.admission.control` keeps the queue short.
"""

import asyncio
import dataclasses
import math
from collections.abc import Mapping, Sequence

from palaver.admission.quotas import Quotas, estimate_tokens
from palaver.admission.scheduler import LANES, OUTPUT, Scheduler, Ticket, lane_of
from palaver.config.settings import AdmissionSettings, Lane
from palaver.engine import (
    MAX_CHARACTERS_PER_TOKEN,
    TYPICAL_IMAGE_TOKENS,
    ChatMessage,
    Engine,
    EngineInfo,
    EngineStats,
    Generation,
    GenerationRequest,
    OnText,
    ToolDefinition,
    count_characters,
)
from palaver.errors import EngineTimeout, Overloaded, PromptTooLong
from palaver.messages import Usage
from palaver.metrics import ModelMetrics

UNKNOWN_SLOTS = 64
"""Slots of an engine that does not tell how many generations it runs at once."""
PRIORITIES: Mapping[Lane, int] = {lane: number for number, lane in enumerate(LANES)}
QUEUE_NOTICE_DELAY = 0.5
"""Seconds in the queue after which `GenerationRequest.on_queued` is called."""
RETRY_INTERVAL = 1.0
"""Seconds after which an overloaded engine is asked again, where it does not say."""


class ScheduledEngine:
    """An `Engine` around an engine that runs generations in the order of ``scheduler``."""

    def __init__(
        self,
        engine: Engine,
        settings: AdmissionSettings,
        *,
        scheduler: Scheduler,
        quotas: Quotas,
        metrics: ModelMetrics,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self.scheduler = scheduler
        self._quotas = quotas
        self._metrics = metrics
        self._has_priorities = False
        self._max_characters = math.inf
        """Characters of a prompt that is tokenized at all."""
        self._queued: dict[Ticket, asyncio.Future[None]] = {}

    async def start(self) -> EngineInfo:
        info = await self._engine.start()
        self._has_priorities = "priority" in info.capabilities
        settings = self._settings
        self._max_characters = MAX_CHARACTERS_PER_TOKEN * (info.context_window + 1)
        slots = settings.max_generations or info.slots or UNKNOWN_SLOTS
        self.scheduler.resize(
            slots,
            reserve=int(slots * settings.reserved_share),
            batch_slots=max(1, int(slots * settings.batch_share)),
        )
        return info

    async def close(self) -> None:
        await self._engine.close()

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        """See `Engine.generate`. The timeout includes the time in the queue."""
        characters = count_characters(request.messages, request.tools)
        if characters > self._max_characters:
            raise PromptTooLong(f"{request.id}: the prompt has {characters} characters")
        deadline = asyncio.get_running_loop().time() + request.timeout
        ticket = self._ticket(request)
        self.scheduler.enqueue(ticket)
        slot = self._queued[ticket] = asyncio.get_running_loop().create_future()
        self._start_queued()
        try:
            if slot.done():
                self._metrics.waited(ticket.lane, 0.0)
            else:
                await self._wait_for_slot(slot, ticket, request)
            return await self._run(ticket, request, deadline, on_text)
        finally:
            del self._queued[ticket]
            self.scheduler.remove(ticket)
            self._start_queued()

    def _ticket(self, request: GenerationRequest) -> Ticket:
        texts = [text for message in request.messages for text in message.texts]
        texts += [tool.text for tool in request.tools]
        prompt = sum(map(estimate_tokens, (*texts, request.partial)))
        prompt += TYPICAL_IMAGE_TOKENS * sum(len(m.images) for m in request.messages)
        return Ticket(
            tenant=request.tenant,
            lane=lane_of(self._settings, request.channel),
            prompt_tokens=prompt,
            max_tokens=prompt + request.sampling.max_tokens,
        )

    # The queue

    async def _wait_for_slot(
        self, slot: "asyncio.Future[None]", ticket: Ticket, request: GenerationRequest
    ) -> None:
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        notice = loop.call_later(QUEUE_NOTICE_DELAY, self._notify_queued, ticket, request)
        try:
            async with asyncio.timeout(request.timeout):
                await slot
        except TimeoutError as error:
            detail = f"{request.id}: still queued after {request.timeout} s"
            raise EngineTimeout(detail) from error
        finally:
            notice.cancel()
            self._metrics.waited(ticket.lane, loop.time() - started_at)

    def _start_queued(self) -> None:
        """Give the free slots to queued generations."""
        while ticket := self.scheduler.start_next():
            slot = self._queued[ticket]
            if not slot.done():  # a cancelled one frees its slot when its task ends
                slot.set_result(None)
        self.scheduler.queue_changed()

    def _notify_queued(self, ticket: Ticket, request: GenerationRequest) -> None:
        position = self.scheduler.position(ticket)
        if position is not None and request.on_queued is not None:
            request.on_queued(position)

    # The engine

    async def _run(
        self, ticket: Ticket, request: GenerationRequest, deadline: float, on_text: OnText
    ) -> Generation:
        def count(text: str) -> None:
            ticket.output_tokens += 1  # a piece of text is about a token
            on_text(text)

        used = 0
        try:
            generation = await self._generate_with_retry(ticket, request, deadline, count)
            used = self._correct(ticket, generation.usage)
            return generation
        finally:
            if ticket.output_tokens or used:
                used = used or ticket.prompt_tokens + ticket.output_tokens
                self._quotas.take("tokens", request.tenant, request.person, used)
                self._metrics.served(request.tenant, used)

    def _correct(self, ticket: Ticket, usage: Usage) -> int:
        """Charge what the engine has counted, and return the tokens used.

        Cached prompt tokens are free. Of a continued reply the engine has counted the whole.
        """
        prompt = usage.prompt_tokens - usage.cached_tokens - ticket.prompt_tokens
        reply = max(0, usage.completion_tokens - ticket.output_tokens)
        self.scheduler.charge(ticket, prompt + OUTPUT * reply)
        return usage.prompt_tokens + max(usage.completion_tokens, ticket.output_tokens)

    async def _generate_with_retry(
        self, ticket: Ticket, request: GenerationRequest, deadline: float, on_text: OnText
    ) -> Generation:
        """Generate. An overloaded engine is asked again: the message was accepted."""
        loop = asyncio.get_running_loop()
        priority = request.priority
        if self._has_priorities:
            priority += PRIORITIES[ticket.lane]
        while True:
            timeout = deadline - loop.time()
            try:
                return await self._engine.generate(
                    dataclasses.replace(request, priority=priority, timeout=timeout), on_text
                )
            except Overloaded as error:
                pause = error.retry_after or RETRY_INTERVAL
                if ticket.output_tokens or loop.time() + pause >= deadline:
                    raise
            await asyncio.sleep(pause)

    # Calls that need no slot

    async def count_tokens(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition] = ()
    ) -> int:
        """See `Engine.count_tokens`. A text that certainly does not fit into the context window is
        not tokenized: the result is an estimate above the window."""
        characters = count_characters(messages, tools)
        if characters > self._max_characters:
            return characters // MAX_CHARACTERS_PER_TOKEN
        return await self._engine.count_tokens(messages, tools)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return await self._engine.embed(texts)

    async def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        return await self._engine.classify(texts)

    async def stats(self) -> EngineStats:
        return await self._engine.stats()
