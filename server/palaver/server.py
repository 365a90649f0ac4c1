"""Server: the parts of one conversation server, wired together."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

import msgspec

from palaver.admission.control import AdmissionControl
from palaver.admission.quotas import Quotas
from palaver.admission.scheduler import LANES
from palaver.channels import Channel
from palaver.config.settings import Settings
from palaver.engine import Engine, EngineInfo
from palaver.engines.continuing import ContinuingEngine
from palaver.engines.scheduled import ScheduledEngine
from palaver.engines.supervised import SupervisedEngine
from palaver.errors import ConfigurationError, LedgerUnavailable, TooLarge
from palaver.hooks import Interceptor
from palaver.knowledge import KnowledgeBase
from palaver.ledger import (
    Claim,
    ConcurrencyPolicies,
    Erasure,
    Export,
    Ledger,
    PendingQuestion,
    QueueDepth,
    Receipt,
    Snapshot,
    StopState,
    without_joining,
)
from palaver.messages import Conversation, Cursor, Message
from palaver.metrics import Metrics
from palaver.routing import Decision, Router
from palaver.routing.arguments import fill_arguments
from palaver.routing.router import ANSWER_REASON, LEFT_QUESTION
from palaver.skills import Skill
from palaver.streams.subscriptions import Subscriber, Subscription, Subscriptions
from palaver.tools import Tool
from palaver.turns.dispatcher import Dispatcher
from palaver.turns.shutdown import GracefulShutdown
from palaver.turns.turn import Turn, TurnServices, UnvalidatedArguments

log = logging.getLogger(__name__)

DEPTH_INTERVAL = 2.0
"""Seconds between two counts of the ledger's queue for the metrics."""


class Server:
    """One conversation server: the parts given, wired together and alive inside ``async with``.

    Entering raises `ConfigurationError` when a part cannot work as it is configured.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        ledger: Ledger,
        engine: Engine,
        knowledge: KnowledgeBase,
        skills: Mapping[str, Skill],
        tools: Mapping[str, Tool] | None = None,
        interceptors: Sequence[Interceptor] = (),
        channels: Sequence[Channel] = (),
    ) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.ledger = ledger
        self._supervised = SupervisedEngine(engine, settings.engine, self.metrics)
        engine = ContinuingEngine(self._supervised, settings.engine, self.metrics)
        quotas = Quotas(settings.admission, time.monotonic)
        self.engine = ScheduledEngine(engine, settings.admission, quotas, self.metrics)
        self.door = AdmissionControl(
            settings.admission,
            ledger=ledger,
            quotas=quotas,
            wait=self.engine.estimated_wait,
            lane=self.engine.lane,
            metrics=self.metrics,
        )
        self.knowledge = knowledge
        self.engine_info: EngineInfo
        self._skills = skills
        own = {name: skill.concurrency_policy for name, skill in skills.items()}
        self._skill_policies = {
            **{name: policy for name, policy in own.items() if policy},
            **settings.concurrency_policy.skills,
        }
        self._tools = tools or {}
        self._interceptors = interceptors
        self.channels = channels
        self._streams = Subscriptions(ledger, history=settings.ledger.history)
        self._router: Router
        self._dispatcher: Dispatcher
        self._depth = QueueDepth(queued=0, running=0)
        self._ledger_problem = ""
        self.draining = False
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            await self._start(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.draining = True
        await self._stack.aclose()

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        await _open(stack, self.ledger)
        await _open(stack, self.knowledge)
        stack.push_async_callback(self.engine.close)
        self.engine_info = await self.engine.start()
        if "embed" in self.engine_info.capabilities and hasattr(self.knowledge, "use_embeddings"):
            self.knowledge.use_embeddings(self.engine.embed)
        skills = self._able_skills()
        self._router = Router(
            {name: type(skill) for name, skill in skills.items()},
            settings=self.settings.routing,
            engine=self.engine,
            engine_info=self.engine_info,
        )
        self._dispatcher = Dispatcher(
            self.ledger,
            self._streams,
            self._answer,
            services=self._services(),
            settings=self.settings.dispatch,
            history=self.settings.ledger.history,
            metrics=self.metrics,
            ended=self.door.register.end,
        )
        stack.push_async_callback(self._close_dispatcher)
        await self._dispatcher.start()
        for task in (self._streams.check_silent_forever(), self._watch_depth()):
            stack.push_async_callback(_end, asyncio.create_task(task))
        self._watch_gauges()
        for channel in self.channels:
            stack.push_async_callback(channel.close)
            await channel.start(self)

    async def depart(
        self, stop_listening: Callable[[], Awaitable[None]], requests: Callable[[], int]
    ) -> None:
        """Hand over to the other replicas: see `palaver.turns.shutdown`."""
        self.draining = True
        departure = GracefulShutdown(
            self._dispatcher, self._streams, self.ledger, self.settings.server
        )
        await departure.run(stop_listening, requests)

    async def _close_dispatcher(self) -> None:
        await self._dispatcher.close(self.settings.server.drain)

    def _services(self) -> TurnServices:
        return TurnServices(
            ledger=self.ledger,
            engine=self.engine,
            engine_info=self.engine_info,
            knowledge=self.knowledge,
            tools=self._tools,
            generation_deadline=self.settings.engine.timeout,
            ahead=self.engine.queue_position,
        )

    def _able_skills(self) -> Mapping[str, Skill]:
        """Refuse a server whose engine cannot serve its skills."""
        for name, skill in self._skills.items():
            available = self.engine_info.capabilities
            lacking = skill.needs - available
            if lacking:
                raise ConfigurationError(
                    f"skill {name!r} needs an engine with {', '.join(sorted(lacking))}; "
                    f"{self.engine_info.model!r} has {', '.join(sorted(available))}. "
                    f"Choose another engine, or disable the skill's plugin"
                )
        default = self.settings.routing.default
        if len(self._skills) != 1 and default not in self._skills:
            raise ConfigurationError(
                f"routing.default names the skill {default!r}; there are: {sorted(self._skills)}"
            )
        for name in self.settings.concurrency_policy.skills:
            if name not in self._skills:
                raise ConfigurationError(
                    f"concurrency_policy.skills names {name!r}; there are: {sorted(self._skills)}"
                )
        return self._skills

    # One turn

    async def _answer(self, turn: Turn, claim: Claim) -> None:
        self.door.register.begin(turn.id)
        decision = await self._route(turn, claim)
        skill = self._skills[decision.skill]
        turn.skill = decision.skill
        own_policy = decision.skill in self._skill_policies
        await turn.say_routed(decision.reason, decision.score, stored=own_policy)

        async def answer() -> None:
            named = bool(claim.message.arguments)
            turn.arguments = await fill_arguments(
                turn, skill.Arguments, decision.arguments, from_program=named
            )
            await skill.answer(turn)

        await _chain(self._interceptors, turn, answer)()

    def _resumes(self, claim: Claim, question: PendingQuestion) -> bool:
        """Return True when the message answers the question. An earlier attempt that recorded a
        step has decided it: only a turn that left the question records step 0, the routing."""
        if claim.journal and question.skill in self._skills:
            return min(step.number for step in claim.journal) > 0
        return self._router.resumes(claim.message, question)

    async def _route(self, turn: Turn, claim: Claim) -> Decision:
        waiting = claim.pending_question
        resumed = waiting is not None and self._resumes(claim, waiting)
        if waiting is not None and resumed:
            turn.resume(waiting)
        message = turn.message

        async def decide() -> Decision:
            return await self._router.route(message)

        decision = await turn.once(Decision, decide, "route", message.text, message.skill or "")
        turn.rephrase(decision.text)
        turn.arguments = UnvalidatedArguments.model_validate(decision.arguments)
        if resumed:
            return msgspec.structs.replace(decision, reason=ANSWER_REASON, score=None)
        if waiting is not None:
            reason = LEFT_QUESTION.format(decision.reason)
            return msgspec.structs.replace(decision, reason=reason)
        return decision

    # What channels use: see palaver.channels.Reception

    async def accept(self, message: Message) -> Receipt:
        limit = self.settings.server.max_message_bytes
        if len(message.text.encode()) > limit:
            raise TooLarge(f"the message is larger than {limit} bytes")
        if message.skill is not None:
            self._router.find_skill(message.skill)
        accept = partial(self._dispatcher.accept, policies=self._policies(message))
        receipt = await self.door.admit(message, accept)
        self.metrics.message(message.conversation.channel)
        return receipt

    def _policies(self, message: Message) -> ConcurrencyPolicies:
        """How a message is received while another's turn runs."""
        chosen = self.settings.concurrency_policy
        policies = ConcurrencyPolicies(
            default=chosen.channels.get(message.conversation.channel, chosen.default),
            skills=self._skill_policies,
            merge_window=chosen.merge_window,
            inbox_limit=self.settings.admission.inbox_limit,
        )
        return without_joining(policies) if message.text.startswith("/") else policies

    async def subscribe(
        self, conversation: Conversation, viewer: Subscriber, since: Cursor | None = None
    ) -> Subscription:
        return await self._streams.subscribe(conversation, viewer, since)

    def unsubscribe(self, subscription: Subscription) -> None:
        self._streams.unsubscribe(subscription)

    async def stop(
        self, conversation: Conversation, turn: str | None = None
    ) -> tuple[StopState, str]:
        return await self._dispatcher.stop(conversation, turn)

    async def snapshot(self, conversation: Conversation) -> Snapshot:
        return await self.ledger.snapshot(conversation, self.settings.ledger.history)

    async def members(self, conversation: Conversation) -> frozenset[str]:
        return await self.ledger.members(conversation)

    async def export(self, tenant: str, person: str) -> Export:
        return await self.ledger.export(tenant, person)

    async def erase(self, tenant: str, person: str) -> Erasure:
        erasure = await self.ledger.erase(tenant, person)
        self._dispatcher.sync_tenant(tenant)
        return erasure

    def skills(self) -> dict[str, str]:
        return {name: skill.description() for name, skill in self._skills.items()}

    # Operations

    def readiness(self) -> Mapping[str, str]:
        """What keeps the server from answering, by component; empty when it is ready."""
        problems = {
            "engine": self._supervised.problem,
            "ledger": self._ledger_problem,
            "server": "draining" if self.draining else "",
        }
        return {component: problem for component, problem in problems.items() if problem}

    def about(self) -> Mapping[str, Any]:  # Any: JSON values
        return {
            "model": self.engine_info.model,
            "demonstration": self.engine_info.demonstration,
            "skills": self.skills(),
        }

    async def _watch_depth(self) -> None:
        while True:
            try:
                self._depth = await self.ledger.queue_depth()
                self._ledger_problem = ""
                await self.door.look()
            except LedgerUnavailable as error:
                self._ledger_problem = str(error)
            await asyncio.sleep(DEPTH_INTERVAL)

    def _watch_gauges(self) -> None:
        watch = self.metrics.watch
        watch("palaver_turns_queued", "Turns that wait, all replicas", lambda: self._depth.queued)
        watch("palaver_turns_running", "Turns that run, all replicas", lambda: self._depth.running)
        watch("palaver_turns_here", "Turns that run here", lambda: self._dispatcher.running)
        register, scheduler = self.door.register, self.engine.scheduler
        watch("palaver_turns_unsettled", "Accepted here and not ended", lambda: len(register))
        watch("palaver_tokens_unsettled", "What these count for", lambda: register.tokens)
        lanes = {
            "palaver_admission_waiting": ("Generations in line", scheduler.waiting_in),
            "palaver_admission_waiting_tokens": ("Tokens they may take", scheduler.tokens_in),
            "palaver_admission_running": ("Generations at the engine", scheduler.running_in),
        }
        for name, (text, count) in lanes.items():
            values: dict[str, Callable[[], float]] = {it: partial(count, it) for it in LANES}
            self.metrics.watch_each(name, text, "lane", values)
        watch("palaver_subscriptions", "Open views of conversations", lambda: self._streams.count)
        watch(
            "palaver_engine_up", "1 when the engine answers", lambda: not self._supervised.problem
        )
        watch("palaver_ledger_up", "1 when the ledger answers", lambda: not self._ledger_problem)


def _chain(
    interceptors: Sequence[Interceptor], turn: Turn, answer: Callable[[], Awaitable[None]]
) -> Callable[[], Awaitable[None]]:
    """Fold the interceptors around ``answer``, the first outermost."""
    for interceptor in reversed(interceptors):
        answer = _Call(interceptor, turn, answer)
    return answer


class _Call:
    """One interceptor, with what comes after it."""

    def __init__(
        self, interceptor: Interceptor, turn: Turn, call_next: Callable[[], Awaitable[None]]
    ) -> None:
        self._interceptor, self._turn, self._call_next = interceptor, turn, call_next

    async def __call__(self) -> None:
        await self._interceptor.intercept(self._turn, self._call_next)


async def _open(stack: contextlib.AsyncExitStack, part: Ledger | KnowledgeBase) -> None:
    stack.push_async_callback(part.close)
    await part.start()


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
