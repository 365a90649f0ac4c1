"""Admission: fair, bounded access to the engine.

Between the turns and the engine: `Admission` is an `Engine` around one. It hands on as many
generations as the engine runs at once; the others stand in line, in an order that
`palaver.admission.scheduler` decides. `palaver.admission.control` keeps the queue short.
"""

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence

from palaver.admission.quotas import Quotas, estimate_tokens
from palaver.admission.scheduler import LANES, OUTPUT, Scheduler, Ticket
from palaver.config.settings import AdmissionSettings, Lane
from palaver.engine import (
    ChatMessage,
    Engine,
    EngineInfo,
    EngineStats,
    Generation,
    GenerationRequest,
    OnText,
)
from palaver.errors import EngineTimeout, Overloaded
from palaver.messages import Usage
from palaver.metrics import Metrics

UNKNOWN_SLOTS = 64
"""Generations for an engine that does not tell how many it runs at once."""
PRIORITIES: Mapping[Lane, int] = {lane: number for number, lane in enumerate(LANES)}
RETRY = 1.0
"""Seconds after which an engine that is full is asked again, where it does not say."""


class WaitEstimator:
    """How fast the line moves: seconds from one place that comes free to the next.

    The average over what the places freed in their last four rounds or so; until the end of the
    first one it is not known.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._mean = 0.0
        self._count = 0
        self._since: float | None = None
        """When a place last came free while there was a line."""

    def moved(self, now: float) -> None:
        """A place came free."""
        if self._since is not None:
            self._count = min(self._count + 1, 4 * self._places)
            self._mean += (now - self._since - self._mean) / self._count
            self._since = now

    def line(self, now: float, *, exists: bool) -> None:
        """Told of the line after every change."""
        if not exists:
            self._since = None
        elif self._since is None:
            self._since = now

    def seconds(self, now: float) -> float:
        known = self._mean if self._count >= self._places else 0.0
        silent = 0.0 if self._since is None else now - self._since
        return max(known, silent / self._places)


class TokenMeter:
    """Charges a generation's text while it is written. A piece is about a token."""

    def __init__(self, scheduler: Scheduler, ticket: Ticket, on_text: OnText) -> None:
        self.pieces = 0
        self._scheduler = scheduler
        self._ticket = ticket
        self._on_text = on_text

    def __call__(self, text: str) -> None:
        self.pieces += 1
        self._scheduler.charge(self._ticket, OUTPUT)
        self._on_text(text)

    def correct(self, usage: Usage) -> None:
        """Charge what the engine has counted instead. What it had cached of the prompt is free.
        Of a reply that was continued it has counted the whole."""
        prompt = usage.prompt_tokens - usage.cached_tokens - self._ticket.prompt
        reply = max(0, usage.completion_tokens - self.pieces)
        self._scheduler.charge(self._ticket, prompt + OUTPUT * reply)


class ScheduledEngine:
    """An `Engine` that lets generations through in turn."""

    def __init__(
        self, engine: Engine, settings: AdmissionSettings, quotas: Quotas, metrics: Metrics
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._quotas = quotas
        self._metrics = metrics
        self._prioritised = False
        self._granted: dict[Ticket, asyncio.Future[None]] = {}
        self._tickets: dict[str, Ticket] = {}
        self._configure(UNKNOWN_SLOTS)

    def _configure(self, slots: int) -> None:
        places = self._settings.max_generations or slots
        self.scheduler = Scheduler(
            places,
            reserve=int(places * self._settings.reserved_share),
            batch_places=max(1, int(places * self._settings.batch_share)),
            weight=lambda tenant: self._quotas.of_tenant(tenant).weight,
        )
        self._pace = WaitEstimator(places)

    async def start(self) -> EngineInfo:
        engine_info = await self._engine.start()
        self._prioritised = "priority" in engine_info.capabilities
        self._configure(engine_info.slots or UNKNOWN_SLOTS)
        return engine_info

    async def close(self) -> None:
        await self._engine.close()

    # In line

    def lane(self, channel: str) -> Lane:
        """The lane of a channel's turns."""
        usual: Lane = "interactive" if channel == "web" else "channel"
        return self._settings.lanes.get(channel, usual)

    def queue_position(self, request: str) -> int | None:
        """About how many generations come before the one with this id; None when it does not
        wait (any more)."""
        ticket = self._tickets.get(request)
        return None if ticket is None else self.scheduler.ahead(ticket)

    def estimated_wait(self, tenant: str, lane: Lane, coming: int) -> float:
        """About how many seconds a new generation would be in line, with ``coming`` more of the
        tenant's own before it."""
        own = self.scheduler.waiting_of(tenant, lane) + coming
        free = self.scheduler.places - self.scheduler.running
        before = max(0, self.scheduler.before(tenant, lane, own) - free)
        return before * self._pace.seconds(asyncio.get_running_loop().time())

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        """See `Engine.generate`. The deadline counts from now on, in line too."""
        until = asyncio.get_running_loop().time() + request.timeout
        ticket = self._tickets[request.id] = self._ticket(request)
        try:
            await self._wait_in_queue(ticket, request)
            return await self._run(ticket, request, until, on_text)
        finally:
            self._tickets.pop(request.id, None)
            self._leave(ticket)

    def _ticket(self, request: GenerationRequest) -> Ticket:
        said = [message.content for message in request.messages]
        prompt = sum(map(estimate_tokens, (*said, request.partial)))
        return Ticket(
            tenant=request.tenant,
            lane=self.lane(request.channel),
            prompt=prompt,
            at_most=prompt + request.sampling.max_tokens,
        )

    async def _wait_in_queue(self, ticket: Ticket, request: GenerationRequest) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        granted = self._granted[ticket] = loop.create_future()
        self.scheduler.join(ticket)
        self._grant_slots()
        try:
            async with asyncio.timeout(request.timeout):
                await granted
        except TimeoutError as error:
            detail = f"{request.id}: still in line after {request.timeout} s"
            raise EngineTimeout(detail) from error
        finally:
            self._metrics.waited(ticket.lane, loop.time() - began)

    def _leave(self, ticket: Ticket) -> None:
        self._granted.pop(ticket, None)
        if self.scheduler.leave(ticket):
            self._pace.moved(asyncio.get_running_loop().time())
        self._grant_slots()

    def _grant_slots(self) -> None:
        """Give away the places that are free."""
        while ticket := self.scheduler.next():
            granted = self._granted[ticket]
            if not granted.done():  # one that was cancelled frees its place as it leaves
                granted.set_result(None)
        now = asyncio.get_running_loop().time()
        self._pace.line(now, exists=self.scheduler.waiting > 0)

    # At the engine

    async def _run(
        self, ticket: Ticket, request: GenerationRequest, until: float, on_text: OnText
    ) -> Generation:
        meter = TokenMeter(self.scheduler, ticket, on_text)
        used = 0
        try:
            generation = await self._generate_with_retry(ticket, request, until, meter)
            usage = generation.usage
            meter.correct(usage)
            used = usage.prompt_tokens + max(usage.completion_tokens, meter.pieces)
            return generation
        finally:
            if meter.pieces or used:
                used = used or ticket.prompt + meter.pieces
                self._quotas.take("tokens", request.tenant, request.person, used)
                self._metrics.served(request.tenant, used)

    async def _generate_with_retry(
        self, ticket: Ticket, request: GenerationRequest, until: float, meter: TokenMeter
    ) -> Generation:
        """Generate. An engine that is full is asked again: the message was accepted."""
        loop = asyncio.get_running_loop()
        if self._prioritised:
            priority = request.priority + PRIORITIES[ticket.lane]
            request = dataclasses.replace(request, priority=priority)
        while True:
            left = dataclasses.replace(request, timeout=until - loop.time())
            try:
                return await self._engine.generate(left, meter)
            except Overloaded as error:
                pause = error.retry_after or RETRY
                if meter.pieces or loop.time() + pause >= until:
                    raise
            await asyncio.sleep(pause)

    # What needs no place

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        return await self._engine.count_tokens(messages)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return await self._engine.embed(texts)

    async def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        return await self._engine.classify(texts)

    async def stats(self) -> EngineStats:
        return await self._engine.stats()
