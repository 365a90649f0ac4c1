"""Server: wires the parts of one conversation server and owns their lifetimes."""

import asyncio
import contextlib
import functools
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from palaver.addresses import ClientAddresses
from palaver.admission.control import AdmissionControl
from palaver.admission.data_requests import DataRequests
from palaver.admission.quotas import Quotas
from palaver.admission.scheduler import LANES, Scheduler
from palaver.authentication import Authenticator, Principal, principal_of
from palaver.browsers import BrowserCookies
from palaver.channels import Channel, ReportingChannel, ToolDescription, missing_library
from palaver.config.settings import DEFAULT_MODEL, KnowledgeSettings, Settings
from palaver.conversations import ConversationFilter, ConversationList
from palaver.directory import Directory
from palaver.embedding import (
    Embedder,
    Embeddings,
    EngineEmbedder,
    cannot_embed,
    engine_model,
    start_embedder,
)
from palaver.engine import Capability, ChatMessage, Engine, EngineInfo
from palaver.engines.models import Model, Models
from palaver.engines.supervised import SupervisedEngine
from palaver.errors import (
    ConfigurationError,
    LedgerUnavailable,
    PluginError,
    TooMany,
    contained,
    describe_error,
    part_name,
)
from palaver.exports import DataSummary, export_beside_ledger, summarize_export
from palaver.feedback import Feedback
from palaver.files.objects import ObstoreObjects
from palaver.files.store import FileStore
from palaver.files.sweeper import Sweeper
from palaver.hooks import Interceptor
from palaver.jobs.people import erase_rows
from palaver.knowledge import (
    Document,
    DocumentInfo,
    DocumentStore,
    KnowledgeBase,
    ReadLimits,
    SearchByMeaning,
    limit_collections,
)
from palaver.ledger import (
    Erasure,
    Export,
    HistoryPage,
    Ledger,
    QueueDepth,
    Receipt,
    Snapshot,
    StopState,
)
from palaver.messages import MAX_OFFSET, Attachment, Conversation, Cursor, FileLimits, Message
from palaver.metrics import Metrics
from palaver.models.setup_job import ModelSetup
from palaver.pipeline import Pipeline
from palaver.platforms.people import find_approvals, forget_person
from palaver.records import RecordStore
from palaver.routing import Router
from palaver.routing.trials import TrialStore
from palaver.seals import Seals
from palaver.sites import Sites
from palaver.skills import PROGRAM_SKILLS, Skill
from palaver.streams.subscriptions import Drain, Subscriber, Subscription, Subscriptions
from palaver.tool_sources import Tools, ToolSource
from palaver.tools import Tool
from palaver.turns.attachments import AttachmentReader
from palaver.turns.dispatcher import Dispatcher
from palaver.turns.shutdown import GracefulShutdown, Listener
from palaver.turns.tool_services import ToolResources
from palaver.turns.turn import TurnServices
from palaver.visitors import VisitorSignatures
from palaver.watchdog import LoopWatchdog

if TYPE_CHECKING:  # programs without the web surface do not load aiohttp
    from aiohttp import web

    from palaver.fetching import Fetcher

EMBEDDER = "embedder"
"""Label of the metrics of an engine that only embeds."""
LEDGER_CHECK_INTERVAL = 2.0
"""Seconds between two counts of the ledger's unsettled turns."""

log = logging.getLogger(__name__)


class Server:
    """One conversation server: the parts given, wired together and alive inside ``async with``.

    ``cookie_secrets`` sign the cookies of browsers, the tokens of visitors and what channels seal;
    without them a random one lasts as long as the server. Without ``files``, those that people
    upload are in memory. Without ``trials``, each start tries out whether the engine can choose
    skills. ``engine`` is that of the default model, ``models`` are those of the others, by name. An
    erasure reaches the files of the jobs in the directory ``jobs``. A channel that cannot work as
    it is configured is in ``closed_channels``.

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
        tool_sources: Mapping[str, ToolSource] | None = None,
        interceptors: Sequence[Interceptor] = (),
        channels: Mapping[str, Channel] | None = None,
        cookie_secrets: Sequence[bytes] = (),
        files: FileStore | None = None,
        embedder: Embedder | None = None,
        models: Mapping[str, Engine] | None = None,
        trials: TrialStore | None = None,
        jobs: Path | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.channel_metrics = self.metrics.channels
        self.authenticator = Authenticator(settings)
        self.browser_cookies = BrowserCookies(cookie_secrets)
        self.sites = Sites(settings, VisitorSignatures(cookie_secrets))
        self.client_addresses = ClientAddresses(settings.connections.trusted_proxies)
        self.ledger = ledger
        self.records: RecordStore = ledger
        self.knowledge = knowledge
        self.channels = channels or {}
        self.closed_channels: dict[str, str] = {}
        """What keeps a channel from running, by its name."""
        self.files = files or FileStore(ObstoreObjects("memory:///"), settings.files)
        self.engine_info: EngineInfo
        self.directory: Directory
        self.draining = False
        self.model_setup: ModelSetup | None = None
        """Connects another model, where the program that runs this server can restart it."""
        self.embeddings: Embeddings | None = None
        """Vectors of texts, where there is an embedder."""
        self._embedder = embedder
        if isinstance(embedder, EngineEmbedder):
            metrics = self.metrics.of_model(EMBEDDER)
            embedder.wrap(lambda engine: SupervisedEngine(engine, settings.engine, metrics))
        self._trials = trials
        self._jobs = jobs
        self._cookie_secrets = tuple(cookie_secrets) or (secrets.token_bytes(32),)
        self._skills = skills
        self.tool_sources = tool_sources or {}
        self._tools = Tools(tools or {}, tuple(self.tool_sources.values()))
        self._interceptors = interceptors
        quotas = Quotas(settings.admission, time.monotonic, settings.widget.sites)
        self._data_requests = DataRequests(settings.admission, quotas, self.metrics)

        def make_model(name: str, engine: Engine) -> Model:
            return Model(name, engine, settings, quotas=quotas, metrics=self.metrics)

        self._models = Models(
            make_model(DEFAULT_MODEL, engine),
            {name: make_model(name, each) for name, each in (models or {}).items()},
            settings.models_of_skills,
        )
        self.engine = self._models.default.engine
        self._admission = AdmissionControl(
            settings.admission,
            ledger=ledger,
            find_scheduler=self._find_scheduler,
            quotas=quotas,
            metrics=self.metrics,
        )
        self._subscriptions = Subscriptions(
            ledger,
            history=settings.ledger.history,
            per_person=settings.connections.per_person,
            history_bytes=settings.ledger.history_bytes,
        )
        self._dispatcher: Dispatcher
        self._pipeline: Pipeline
        self._routers: list[Router] = []
        self._attachments = AttachmentReader(
            self.files, knowledge, read_limits(settings.knowledge), self.metrics
        )
        self._fetcher: Fetcher | None = None
        self._depth = QueueDepth(queued=0, running=0)
        self._ledger_problem = ""
        self._watchdog = LoopWatchdog(self.metrics)
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
        await asyncio.to_thread(self.authenticator.load_keys)
        await asyncio.to_thread(self.sites.load)
        await _open(stack, "ledger", self.ledger)
        await _open(stack, "knowledge base", self.knowledge)
        await self.files.start()
        for source in self.tool_sources.values():
            stack.push_async_callback(_close, "tool source", source)
            with contained(part_name("tool source", source)):
                await source.start(self.records)
        for model in self._models:
            stack.push_async_callback(model.close)
        await self._models.default.start()
        self.engine_info = self._models.default.info
        for name in self._models.names[1:]:
            await self._models.find(name).start_when_available(self._check_needs_later)
        self.embeddings = await self._start_embedder(stack)
        if self.embeddings is not None and isinstance(self.knowledge, SearchByMeaning):
            self.knowledge.use_embeddings(self.embeddings, self.embeddings.model)
        self.directory = Directory(self.ledger, self.engine, self.engine_info)
        self._check_skills()
        if self.settings.fetch.enabled:
            from palaver.fetching import Fetcher  # with aiohttp, which most programs do not need

            self._fetcher = await stack.enter_async_context(Fetcher(self.settings.fetch))
        self._wire()
        for router in self._routers:
            stack.push_async_callback(router.close)
            router.start()
        await self._admission.refresh()
        stack.push_async_callback(self._dispatcher.close, self.settings.server.drain)
        await self._dispatcher.start(self._pipeline)
        for task in (
            self._subscriptions.check_silent_forever(),
            self._watch_ledger(),
            Sweeper(self.files, self.ledger.members).run_forever(),
        ):
            stack.push_async_callback(_cancel, asyncio.create_task(task))
        self._watchdog.start()
        stack.callback(self._watchdog.stop)
        self._register_gauges()
        for name, channel in self.channels.items():
            stack.push_async_callback(_close, "channel", channel)
            await self._start_channel(name, channel)

    async def _start_embedder(self, stack: contextlib.AsyncExitStack) -> Embeddings | None:
        chosen = self.settings.embedding.use
        if chosen in ("", self.settings.engine.use) and "embed" in self.engine_info.capabilities:
            model = engine_model(self.settings, self.settings.engine.use)
            return Embeddings(model, self.engine.embed)
        if chosen == self.settings.engine.use:
            raise cannot_embed(chosen)
        if self._embedder is None:
            return None
        stack.push_async_callback(self._embedder.close)
        return await start_embedder(self._embedder, required=bool(chosen))

    async def _start_channel(self, name: str, channel: Channel) -> None:
        """Start a channel. One that cannot work as it is configured stays closed."""
        try:
            with contained(part_name("channel", channel)):
                await channel.start(self)
        except (ConfigurationError, ImportError) as error:
            problem = missing_library(error) if isinstance(error, ImportError) else error
            self.closed_channels[name] = "; ".join(str(problem).splitlines())
            log.error("the channel %s does not run: %s", name, self.closed_channels[name])

    def _wire(self) -> None:
        """Build the parts that need to know what the engine can do."""
        settings = self.settings
        skills_of_sites = {
            (site.tenant, name): {skill: self._skills[skill] for skill in site.skills}
            for name, site in settings.widget.sites.items()
            if site.skills
        }
        routers_of_sites = {
            (site.tenant, name): self._make_router(site.skills or self._skills, site.collections)
            for name, site in settings.widget.sites.items()
            if site.skills or site.collections
        }
        services = TurnServices(
            ledger=self.ledger,
            models=self._models,
            attachments=self._attachments,
            tools=self._tools,
            tool_resources=ToolResources(
                ledger=self.ledger,
                knowledge=self.knowledge,
                attachments=self._attachments,
                directory=self.directory,
                fetcher=self._fetcher,
                auth=settings.auth,
                metrics=self.metrics,
                tool_collections=settings.knowledge.tool_collections,
                collections_of_sites={
                    (site.tenant, name): site.collections
                    for name, site in settings.widget.sites.items()
                },
            ),
            metrics=self.metrics,
            generation_timeout=settings.engine.timeout,
            approval_timeout=settings.dispatch.approval_timeout,
            skills=self._skills,
            skills_of_sites=skills_of_sites,
            agents=settings.agents,
        )
        self._dispatcher = Dispatcher(
            services=services,
            subscriptions=self._subscriptions,
            admission=self._admission,
            settings=settings.dispatch,
            history=settings.ledger.history,
            history_bytes=settings.ledger.history_bytes,
            metrics=self.metrics,
        )
        self._pipeline = Pipeline(
            settings,
            ledger=self.ledger,
            admission=self._admission,
            dispatcher=self._dispatcher,
            models=self._models,
            router=self._make_router(self._skills),
            routers_of_sites=routers_of_sites,
            skills={**self._skills, **{name: kind() for name, kind in PROGRAM_SKILLS.items()}},
            files=self.files,
            interceptors=self._interceptors,
            metrics=self.metrics,
        )

    def _make_router(self, skills: Iterable[str], collections: Iterable[str] = ()) -> Router:
        """Return a router among skills. ``collections``: of the documents that count, or all."""
        router = Router(
            {name: type(self._skills[name]) for name in skills},
            settings=self.settings.routing,
            engine=self.engine,
            engine_info=self.engine_info,
            embeddings=self.embeddings,
            knowledge=self.knowledge,
            collections={
                name: limit_collections(self._skills[name].collections, collections)
                for name in skills
            },
            metrics=self.metrics,
            trials=self._trials,
        )
        self._routers.append(router)
        return router

    async def shut_down(self, listener: Listener) -> None:
        """Let other replicas continue what runs here: see `palaver.turns.shutdown`."""
        self.draining = True
        shutdown = GracefulShutdown(
            self._dispatcher, self._subscriptions, self.ledger, self.settings.server
        )
        await shutdown.run(listener)

    def _check_skills(self) -> None:
        """Refuse a server whose models cannot serve its skills."""
        for skill, chosen in self.settings.models_of_skills.items():
            if self._models.get(chosen) is None:
                models = ", ".join(self._models.names)
                raise ConfigurationError(
                    f"skills.{skill}.model names {chosen!r}; the models are: {models}"
                )
        for model in self._models:
            if model.has_started:
                self._check_needs(model)
        default = self.settings.routing.default
        if len(self._skills) != 1 and default not in self._skills:
            raise ConfigurationError(
                f"routing.default names the skill {default!r}; there are: {sorted(self._skills)}"
            )
        sites = self.settings.widget.sites.items()
        # The tools of sources come later, when other programs offer them.
        acting = [
            name
            for name in self.settings.agents.tools or ()
            if not any(source.may_offer(name) for source in self.tool_sources.values())
        ]
        named = {
            "concurrency_policy.skills": (self.settings.concurrency_policy.skills, self._skills),
            "agents.tools": (acting, {**self._tools, **self._skills}),
            **{f"widget.sites.{site}.skills": (it.skills, self._skills) for site, it in sites},
        }
        for setting, (names, known) in named.items():
            for name in names:
                if name not in known:
                    raise ConfigurationError(
                        f"{setting} names {name!r}; there are: {sorted(known)}"
                    )

    def _check_needs(self, model: Model) -> None:
        """Refuse a model that lacks what the skills need for which it writes. Raises
        `ConfigurationError`."""
        available = model.info.capabilities
        for name, skill in self._skills.items():
            lacking = skill.needs - available
            if lacking and self._models.of_skill(name) is model:
                raise ConfigurationError(
                    f"skill {name!r} needs an engine with {', '.join(sorted(lacking))}; "
                    f"{model.public_name!r} has {', '.join(sorted(available))}. "
                    f"Choose another engine, or disable the skill's plugin"
                )

    def _check_needs_later(self, model: Model) -> None:
        try:
            self._check_needs(model)
        except ConfigurationError as error:
            log.error("%s", describe_error(error))

    def _find_scheduler(self, message: Message) -> Scheduler:
        """Return the queue in which a message will probably be: the router chooses the skill
        later."""
        named = message.program.model if message.program else ""
        model = self._models.get(named) if named else None
        return (model or self._models.of_skill(message.skill or "")).scheduler

    # The `ConversationService` that channels use

    def authenticate(self, request: "web.Request") -> Principal:
        return principal_of(request)

    async def accept(
        self,
        message: Message,
        *,
        members_only: bool = True,
        outbox: bool = False,
        start_delay: float = 0.0,
    ) -> Receipt:
        return await self._pipeline.accept(
            message, members_only=members_only, outbox=outbox, start_delay=start_delay
        )

    async def subscribe(
        self,
        conversation: Conversation,
        subscriber: Subscriber,
        since: Cursor | None = None,
        *,
        person: str = "",
        drain: Drain | None = None,
        stored_only: bool = False,
    ) -> Subscription:
        self.check_subscriptions(conversation.tenant, person)
        return await self._subscriptions.subscribe(
            conversation, subscriber, since, person=person, drain=drain, stored_only=stored_only
        )

    def check_subscriptions(self, tenant: str, person: str) -> None:
        try:
            self._subscriptions.check_person(tenant, person)
        except TooMany:
            self.metrics.limit_reached("per_person")
            raise

    def unsubscribe(self, subscription: Subscription) -> None:
        self._subscriptions.unsubscribe(subscription)

    async def stop(
        self, conversation: Conversation, turn: str | None = None
    ) -> tuple[StopState, str]:
        return await self._dispatcher.stop(conversation, turn)

    async def change_waiting(
        self, conversation: Conversation, message: str, text: str | None
    ) -> bool:
        return await self._pipeline.change_waiting(conversation, message, text)

    async def select(self, conversation: Conversation, turn: str) -> None:
        await self.ledger.select(conversation, turn)

    async def revise(self, conversation: Conversation, person: str, turn: str, text: str) -> None:
        await self._pipeline.revise(conversation, person, turn, text)

    async def latest(self, conversation: Conversation) -> Cursor:
        page = await self.ledger.read(conversation, MAX_OFFSET, 1)
        return Cursor(page.epoch, page.last)

    async def snapshot(self, conversation: Conversation) -> Snapshot:
        limits = self.settings.ledger
        return await self.ledger.snapshot(conversation, limits.history, limits.history_bytes)

    async def history(self, conversation: Conversation, before: str, limit: int) -> HistoryPage:
        """Return the history entries before a position, at most as many as a snapshot has."""
        limits = self.settings.ledger
        limit = min(limit, max(limits.history, 1))
        return await self.ledger.history(conversation, before, limit, limits.history_bytes)

    async def list_conversations(
        self, tenant: str, person: str, filter: ConversationFilter, *, before: str = "", limit: int
    ) -> ConversationList:
        return await self.ledger.list_conversations(
            tenant, person, filter, before=before, limit=limit
        )

    async def members(self, conversation: Conversation) -> frozenset[str]:
        return await self.ledger.members(conversation)

    async def export(self, tenant: str, person: str) -> AsyncGenerator[Export, None]:
        with self._data_requests.admitted(tenant, person):
            files = await self.files.files(tenant, person)
            async with contextlib.aclosing(self.ledger.export(tenant, person)) as parts:
                async for part in parts:
                    yield part
            approvals = await find_approvals(self.records, self.channels, tenant, person)
            yield export_beside_ledger(part, files, approvals)

    async def summarize_data(self, tenant: str, person: str) -> DataSummary:
        async with contextlib.aclosing(self.export(tenant, person)) as parts:
            return await summarize_export(parts)

    async def erase(
        self, tenant: str, person: str, conversation: Conversation | None = None
    ) -> Erasure:
        with self._data_requests.admitted(tenant, person):
            erasure = await self.ledger.erase(tenant, person, conversation)
            self._dispatcher.sync_tenant(tenant)
            if conversation is None:
                await forget_person(self.records, self.channels, tenant, person)
            files = await self.files.erase(tenant, person, conversation)
            rows = await self._erase_training_rows(tenant, person, conversation)
        return msgspec.structs.replace(erasure, files=files, training_rows=rows)

    async def _erase_training_rows(
        self, tenant: str, person: str, conversation: Conversation | None
    ) -> int:
        if self._jobs is None:
            return 0
        name = str(conversation) if conversation else ""
        erased = await asyncio.to_thread(erase_rows, self._jobs, tenant, person, name)
        for each in erased:
            log.warning("%s", each)
        return sum(each.rows for each in erased)

    async def store_file(
        self,
        tenant: str,
        person: str,
        name: str,
        pieces: AsyncIterator[bytes],
        *,
        length: int | None = None,
    ) -> Attachment:
        file = await self.files.upload(tenant, person, name, pieces, length=length)
        self.metrics.uploaded(file.size)
        return file.attachment

    async def read_file(self, conversation: Conversation, attachment: Attachment) -> bytes:
        return await self._attachments.read(conversation, attachment)

    async def rate(self, conversation: Conversation, person: str, feedback: Feedback) -> Feedback:
        receipt = await self.ledger.give_feedback(conversation, person, feedback)
        if not receipt.duplicate:
            self.metrics.rated(receipt.feedback.skill, feedback.rating)
        return receipt.feedback

    def skills(self, site: str = "") -> dict[str, str]:
        """Return the skills' descriptions by name; for visitors of ``site``, those of the site."""
        chosen = self.settings.widget.sites[site].skills if site else ()
        return {
            name: skill.description()
            for name, skill in self._skills.items()
            if not chosen or name in chosen
        }

    def argument_schema(self, skill: str) -> dict[str, Any]:  # Any: a JSON Schema document
        """See `ConversationService.argument_schema`."""
        return self._skills[skill].Arguments.model_json_schema()

    def tools(self) -> dict[str, ToolDescription]:
        """Return the registered tools by name."""
        return {name: tool.describe() for name, tool in self._tools.items()}

    async def documents(self, tenant: str) -> tuple[DocumentInfo, ...]:
        return await self.knowledge.documents(tenant)

    async def read_document(self, tenant: str, document: str) -> Document | None:
        """See `ConversationService.read_document`."""
        if not isinstance(self.knowledge, DocumentStore):
            return None
        return await self.knowledge.document(tenant, document)

    def seals(self, purpose: str) -> Seals:
        return Seals(self._cookie_secrets, purpose)

    def file_limits(self, site: str = "") -> FileLimits | None:
        """Return the limits of files, for visitors of ``site``, or None: nobody may upload."""
        if site and not self.settings.widget.sites[site].files:
            return None
        return self.files.limits

    def prompts(self, skill: str) -> tuple[str, ...]:
        """Return messages that a person may begin with, none when the model is not for them."""
        kind = self._skills[skill]
        is_able = kind.task is None or self._models.of_skill(skill).info.find_reach(kind.task)
        return tuple(kind.prompts) if is_able else ()

    # Operations

    def readiness(self) -> Mapping[str, str]:
        """Return the problem of each component that is not ready; empty when the server is
        ready."""
        problems = {
            "engine": self._models.default.problem,
            "ledger": self._ledger_problem,
            "server": "draining" if self.draining else "",
        }
        return {component: problem for component, problem in problems.items() if problem}

    def channel_problem(self, name: str) -> str:
        """Return what is wrong with a channel; empty when it works."""
        channel = self.channels[name]
        running = channel.problem if isinstance(channel, ReportingChannel) else ""
        return self.closed_channels.get(name, running)

    def models(self) -> Mapping[str, EngineInfo | None]:
        """See `ConversationService.models`."""
        named = [model for model in self._models if model is not self._models.default]
        return {
            self.engine_info.model: self.engine_info,
            **{model.name: model.info if model.has_started else None for model in named},
        }

    def engine_of_skill(self, skill: str) -> EngineInfo:
        """See `ConversationService.engine_of_skill`."""
        return self._models.of_skill(skill).info

    def image_skills(self) -> frozenset[str]:
        """See `ConversationService.image_skills`."""
        return frozenset(
            name
            for name, skill in self._skills.items()
            if skill.sees_images and self._can(name, "vision")
        )

    def client_tool_skills(self) -> frozenset[str]:
        """See `ConversationService.client_tool_skills`."""
        return frozenset(
            name
            for name, skill in self._skills.items()
            if skill.calls_client_tools and self._can(name, "tools")
        )

    def _can(self, skill: str, capability: Capability) -> bool:
        """Return whether the model of a skill has a capability."""
        model = self._models.of_skill(skill)
        return model.has_started and capability in model.info.capabilities

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return await self.engine.embed(texts)

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        return await self.engine.count_tokens(messages)

    def about(self, site: str = "") -> Mapping[str, Any]:  # Any: JSON values
        return {
            "model": self.engine_info.model,
            "demonstration": self.engine_info.demonstration,
            "sharing": self.settings.server.sharing and not site,
            "files": self.file_limits(site),
            "vision": bool(self.image_skills() & self.skills(site).keys()),
            "skills": self.skills(site),
        }

    async def _watch_ledger(self) -> None:
        while True:
            try:
                self._depth = await self.ledger.queue_depth()
                await self._admission.refresh()
                self._ledger_problem = ""
            except LedgerUnavailable as error:
                self._ledger_problem = str(error)
            await asyncio.sleep(LEDGER_CHECK_INTERVAL)

    def _register_gauges(self) -> None:
        gauge, admission = self.metrics.gauge, self._admission
        gauge("palaver_turns_queued", "Queued turns, all replicas", lambda: self._depth.queued)
        gauge("palaver_turns_running", "Running turns, all replicas", lambda: self._depth.running)
        gauge("palaver_turns_here", "Running turns, this replica", lambda: self._dispatcher.running)
        gauge("palaver_turns_unsettled", "Unsettled turns", lambda: admission.unsettled_turns)
        gauge("palaver_tokens_unsettled", "Their tokens", lambda: admission.unsettled_tokens)
        gauge("palaver_subscriptions", "Open subscriptions", lambda: self._subscriptions.count)
        self.metrics.gauge_each(
            "palaver_engine_up",
            "1: the engine answers",
            "model",
            self._models.names,
            lambda name: not self._models.find(name).problem,
        )
        gauge("palaver_ledger_up", "1: the ledger answers", lambda: not self._ledger_problem)
        gauge("palaver_uploads", "Uploads in progress", lambda: self.files.uploads.in_progress)
        gauge(
            "palaver_loop_longest_stall_seconds",
            "Longest delay of the event loop in the last minute or two",
            lambda: self._watchdog.longest_stall,
        )
        self.metrics.gauge_each(
            "palaver_channel_up",
            "1: the channel works",
            "channel",
            self.channels,
            lambda name: not self.channel_problem(name),
        )
        for name, text, count in (
            ("palaver_scheduler_waiting", "Queued generations", Scheduler.waiting_in_lane),
            ("palaver_scheduler_waiting_tokens", "Their tokens", Scheduler.waiting_tokens),
            ("palaver_scheduler_running", "Running generations", Scheduler.running_in_lane),
        ):
            counts: dict[tuple[str, ...], Callable[[], float]] = {
                (lane, model.name): functools.partial(count, model.scheduler, lane)
                for lane in LANES
                for model in self._models
            }
            self.metrics.gauges(name, text, ("lane", "model"), counts)


def read_limits(settings: KnowledgeSettings) -> ReadLimits:
    return ReadLimits(
        timeout=settings.read_timeout,
        memory=settings.read_memory_mib << 20,
        file_bytes=settings.max_file_bytes,
        text_characters=settings.max_text_characters,
    )


async def _open(stack: contextlib.AsyncExitStack, kind: str, part: Ledger | KnowledgeBase) -> None:
    stack.push_async_callback(_close, kind, part)
    with contained(part_name(kind, part)):
        await part.start()


async def _close(kind: str, part: Channel | Ledger | KnowledgeBase | ToolSource) -> None:
    """Close a part. One that tries to end the process is named in the log."""
    try:
        with contained(part_name(kind, part)):
            await part.close()
    except PluginError as error:
        log.error("%s tried to end the process: %s", part_name(kind, part), describe_error(error))


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
