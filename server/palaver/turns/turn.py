"""Turn: the interface between a skill and the server."""

import asyncio
import dataclasses
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

import msgspec
import pydantic
from typing_extensions import TypeVar as DefaultTypeVar

from palaver.config.settings import AgentSettings
from palaver.engine import (
    Capability,
    ChatMessage,
    Choice,
    EngineInfo,
    Generation,
    JsonSchema,
    OnText,
    Sampling,
    ToolCall,
    ToolDefinition,
)
from palaver.engines.models import Model, Models
from palaver.errors import (
    InvalidInput,
    SkillError,
    Unsupported,
    UnusableAnswer,
)
from palaver.knowledge import Document, Passage
from palaver.ledger import (
    MAX_MEMORIES,
    MAX_MEMORY_BYTES,
    Claim,
    HistoryEntry,
    Ledger,
    MemoryWrite,
    Step,
)
from palaver.messages import (
    Attached,
    Attachment,
    Citation,
    Cited,
    ClientCall,
    FinishReason,
    Message,
    Usage,
)
from palaver.metrics import Metrics
from palaver.tools import Tool
from palaver.turns.agent import Agent
from palaver.turns.agent_limits import AgentLimits, apply_limits
from palaver.turns.answers import MAX_QUESTIONS, find_option, format_options
from palaver.turns.approvals import Approvals
from palaver.turns.attachments import AttachmentReader
from palaver.turns.call_requests import request_call
from palaver.turns.endings import ReplyLimitReached, Suspended
from palaver.turns.filters import Filter, FilteredText
from palaver.turns.generation import Generations, OfferedTools, Prompt
from palaver.turns.image_memory import ImageMemory
from palaver.turns.journal import Journal
from palaver.turns.program import Program
from palaver.turns.prompt import build_messages, build_transcript, fit_exactly
from palaver.turns.prompt_images import image_attachments
from palaver.turns.questions import Questions
from palaver.turns.replay import CapturedReply, Replay
from palaver.turns.reply_record import ReplyRecord, SkillRecord
from palaver.turns.skill_tools import (
    RunnableSkill,
    SkillTool,
    make_skill_tool,
    message_of_call,
    renumber_citations,
)
from palaver.turns.tool_calls import ToolCalls, Trust
from palaver.turns.tool_results import present_result
from palaver.turns.tool_services import CallServices, ToolResources
from palaver.turns.turn_history import read_transcript
from palaver.turns.writer import TurnWriter
from palaver.visitors import site_of_person

ArgumentsT = DefaultTypeVar("ArgumentsT", bound=pydantic.BaseModel, default=Any)
ModelT = TypeVar("ModelT", bound=pydantic.BaseModel)
ResultT = TypeVar("ResultT")
NO_AGENT_LIMITS = AgentLimits()


class CompletedReply(msgspec.Struct, frozen=True):
    """Result of `Turn.complete` in the journal, when the reply has not ended by itself."""

    text: str
    finish_reason: FinishReason = "length"
    calls: tuple[ClientCall, ...] = ()


class RecordedText(msgspec.Struct, frozen=True):
    """Result of a generation in the journal, when the limit of tokens cut it, or its confidence is
    known; else it is a text."""

    text: str
    is_cut: bool = True
    confidence: float | None = None


_RECORDED_TEXT = cast("type[str | RecordedText]", str | RecordedText)
_RECORDED_REPLY = cast("type[str | CompletedReply]", str | CompletedReply)


class UnvalidatedArguments(pydantic.BaseModel):
    """The arguments that the router found in the message, as they are, one attribute for each."""

    model_config = pydantic.ConfigDict(extra="allow", frozen=True)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TurnServices:
    """Services of the server for every Turn."""

    ledger: Ledger
    models: Models
    attachments: AttachmentReader
    tools: Mapping[str, Tool]
    tool_resources: ToolResources
    metrics: Metrics
    generation_timeout: float
    """Seconds that one generation may take."""
    approval_timeout: float
    """Seconds for which a person may approve the call of a tool."""
    image_memory: ImageMemory = dataclasses.field(default_factory=ImageMemory)
    skills: Mapping[str, RunnableSkill] = dataclasses.field(default_factory=dict)
    """Those that a model may call as tools."""
    skills_of_sites: Mapping[tuple[str, str], Mapping[str, RunnableSkill]] = dataclasses.field(
        default_factory=dict
    )
    """By tenant and site: of the sites that have fewer."""
    agents: AgentSettings = dataclasses.field(default_factory=AgentSettings)


class Turn(Generic[ArgumentsT]):
    """The answering of one message: the message, and the methods to answer it with.

    The methods `stream`, `generate`, `run`, `choose`, `extract`, `ask`, `call_tool`, `search`,
    `search_in`, `remember`, `recall` and `take_steering` are journaled: when a server dies and
    another takes the turn over, the skill runs again from the top, and each finished method returns
    its recorded result at once. So a skill must call them in an order that follows from the message
    and from their results alone.
    """

    def __init__(
        self,
        claim: Claim,
        writer: TurnWriter,
        journal: Journal,
        replay: Replay,
        services: TurnServices,
        *,
        deadline: float,
        caller: "Turn[Any] | None" = None,  # Any: the Arguments of another skill
    ) -> None:
        """``caller``: the turn that runs this one's skill as a tool."""
        self.id = claim.turn
        self.attempt = claim.attempt
        transcript = read_transcript(claim, claim.message)
        self.message: Message = transcript.message
        """The message to answer. Where several messages make one turn, all of them as one."""
        self.messages: tuple[Message, ...] = (*claim.interrupted, *claim.messages)
        """The same as single messages, as they were written."""
        self.history: tuple[HistoryEntry, ...] = caller.history if caller else transcript.history
        self.following = 0 if caller else transcript.following
        """Number of the last entries of the history that come after the message: calls of tools
        that the program runs, and their results."""
        self.arguments: ArgumentsT = cast(ArgumentsT, UnvalidatedArguments())
        """The skill's validated Arguments. Before the skill runs, for interceptors, they are
        `UnvalidatedArguments`."""
        self.skill = ""
        self.deadline = deadline
        """Event loop time at which the turn is ended."""
        self.finish_reason: FinishReason = "stop"
        """``length`` when the limit of tokens has cut a text that `stream` said, ``tool_calls``
        after `call_client`."""
        self.confidence: float | None = None
        """Mean probability of the tokens of the last text that `stream` or `generate` wrote, where
        its sampling asked for ``logprobs``: the geometric mean."""
        self._claim = claim
        self._writer = writer
        self._journal = journal
        self._replay = replay
        self._services = services
        site = claim.conversation.tenant, site_of_person(claim.message.person)
        self._skills = services.skills_of_sites.get(site, services.skills)
        self._caller = caller
        self._depth: int = caller._depth + 1 if caller else 0
        self._model: Model = services.models.default
        self._generations: Generations = (
            caller._generations
            if caller
            else Generations(
                claim,
                writer,
                model=self._model,
                attachments=services.attachments,
                image_memory=services.image_memory,
                timeout=services.generation_timeout,
                deadline=deadline,
            )
        )
        self._program = Program(None if caller else claim.message.program or None)
        self.record = _make_record(caller)
        """What the reply has beside its text."""
        self._questions = Questions(claim.turn, writer, journal, replay, self.record)
        self._tool_calls: ToolCalls = ToolCalls(
            claim,
            writer,
            journal,
            self.record,
            services.tools,
            self._open_call_services,
            trust=caller._tool_calls.trust if caller else Trust(),
            is_nested=caller is not None,
            approvals=Approvals(
                claim.turn, journal, self._questions, timeout=services.approval_timeout
            ),
        )
        self._known_memories: set[str] = set()
        """Keys of memories that exist: another value of theirs counts as none."""
        self._steering = claim.steering_messages
        self.taken_steering: tuple[Message, ...] = ()
        """The messages that `take_steering` has returned."""

    # Data

    @property
    def person(self) -> str:
        """Return the id of the person who sent the message."""
        return self.message.person

    @property
    def engine(self) -> EngineInfo:
        """Return the engine's model, capabilities and ``context_window`` in tokens."""
        return self._model.info

    def use_model(self, name: str) -> None:
        """Let another model write from here on: one of ``engine.models``, or ``default``.

        At the beginning it is the one that ``skills.NAME.model`` names. Raises `NotFound`.
        """
        self._model = self._services.models.find(name)
        self._generations = self._generations.with_model(self._model)

    def _note_model(self) -> None:
        """Record that the model writes a text of the reply."""
        self.record.model = self._model.public_name

    @property
    def usage(self) -> Usage:
        """Return the tokens of all generations of this run."""
        return self._generations.usage

    @property
    def text(self) -> str:
        """Return the reply so far."""
        return self._replay.text

    @property
    def images(self) -> tuple[Attachment, ...]:
        """Return the message's attachments that an engine with ``vision`` may see."""
        return image_attachments(self.message.attachments)

    # Saying

    async def say(self, text: str) -> None:
        """Add ``text`` to the reply."""
        self._replay.say(text)

    def cite(self, passage: Passage, *, number: int | None = None) -> int:
        """Cite a source, and return its number, to be written as ``[n]``. ``number``: the number in
        the reply; without it, the next free one."""
        number = number or max(self.record.citations, default=0) + 1
        citation = Citation(
            number=number,
            document=passage.document,
            title=passage.title,
            section=passage.section,
            passage=passage.text,
        )
        self.record.citations[number] = citation
        self._write_once("cite", Cited(turn=self.id, citation=citation))
        return number

    def attach(self, attachment: Attachment) -> None:
        """Add a file to the reply."""
        self.record.attachments.append(attachment)
        self._write_once("attach", Attached(turn=self.id, attachment=attachment))

    def _write_once(self, verb: str, event: Cited | Attached) -> None:
        if self._caller is not None:  # the caller gets it with the result
            return
        step = self._journal.next_step(verb, repr(event))
        if self._journal.recorded_result(step, bool) is None:
            self._writer.write(event)
            self._journal.record_result(step, True)

    # Generating

    async def stream(
        self,
        prompt: str,
        *,
        system: str = "",
        history: Sequence[HistoryEntry] = (),
        sampling: Sampling | None = None,
        images: bool = False,
        through: Filter | None = None,
        steerable: bool = False,
    ) -> str:
        """Generate an answer to ``prompt``, say it as it is written, and return it.

        ``history`` is cut from its old end until the prompt fits. ``images``: where the engine has
        the capability ``vision``, it sees the message's images, and the newest of ``history``.
        ``through`` may change the text before it is said. ``steerable``: end early when
        `take_steering` has something to return. After a takeover the text continues after the last
        stored character.
        """
        self._note_model()
        step = self._journal.next_step("stream", system, prompt)
        if (recorded := self._recorded_text(step)) is not None:
            self._replay.say(recorded)
            return recorded
        start = self._replay.pieces
        stored = self._replay_stored()
        on_text: OnText = self._replay.say
        if through is not None:
            through.feed(stored)
            through.end()  # what it kept back of the stored text has been said
            on_text = FilteredText(through, on_text)
        sampling = self._sampling_of_reply(sampling)
        generating = self._generations.generate(
            step,
            self.message,
            Prompt(text=prompt, system=system, history=history, images=images),
            sampling,
            on_text=on_text,
            partial=stored,
        )
        generation = await (self._run_until_steered(generating) if steerable else generating)
        if through is not None:
            self._replay.say(through.end())
        text = self._replay.text_since(start)
        self._record_text(step, text, generation)
        return text

    def _recorded_text(self, step: Step) -> str | None:
        """Return the recorded text of a generation; None: there is none."""
        recorded = self._journal.recorded_result(step, _RECORDED_TEXT)
        if not isinstance(recorded, RecordedText):
            return recorded
        if recorded.is_cut:
            self.finish_reason = "length"
        self.confidence = recorded.confidence
        return recorded.text

    def _replay_stored(self) -> str:
        """Say and return the part of a generation's text that an earlier attempt has stored, where
        the engine can continue it."""
        return self._replay.replay_rest() if "continuation" in self.engine.capabilities else ""

    def _record_text(
        self, step: Step, text: str, generation: Generation | None, *, for_reply: bool = True
    ) -> None:
        """Record what a step has said, whether the limit of tokens cut it, and its confidence."""
        is_cut = generation is not None and for_reply and self._count_reply(generation)
        self.confidence = generation.confidence if generation else None
        is_plain = not is_cut and self.confidence is None
        self._journal.record_result(
            step, text if is_plain else RecordedText(text, is_cut, self.confidence)
        )

    def _count_reply(self, generation: Generation) -> bool:
        """Count what the model wrote for the reply, and return whether it was cut."""
        self._program.count(generation.usage)
        if generation.finish_reason == "length":
            self.finish_reason = "length"
        return generation.finish_reason == "length"

    def _sampling_of_reply(self, sampling: Sampling | None) -> Sampling:
        """Return the sampling parameters of a generation for the reply: the skill's, with those
        that the program asked for. Ends the skill when the model may write no more."""
        try:
            return self._program.apply(sampling or Sampling())
        except ReplyLimitReached:
            self.finish_reason = "length"
            raise

    async def generate(
        self,
        prompt: str,
        *,
        system: str = "",
        history: Sequence[HistoryEntry] = (),
        sampling: Sampling | None = None,
        images: bool = False,
        for_reply: bool = False,
    ) -> str:
        """Generate an answer to ``prompt`` and return it; the person does not see it.

        ``images`` as in `stream`. ``for_reply``: the skill says it, perhaps changed, so that what a
        program asked for the reply applies to it.
        """
        if for_reply:
            self._note_model()
        step = self._journal.next_step("generate", system, prompt)
        recorded = self._recorded_text(step)
        if recorded is not None:
            return recorded
        sampling = self._sampling_of_reply(sampling) if for_reply else sampling or Sampling()
        generation = await self._generations.generate(
            step,
            self.message,
            Prompt(text=prompt, system=system, history=history, images=images),
            sampling,
            on_text=_ignore_text,
        )
        self._record_text(step, generation.text, generation, for_reply=for_reply)
        return generation.text

    async def complete(self, messages: Sequence[ChatMessage]) -> Generation:
        """Generate the reply to exactly these messages, with the sampling parameters that the
        program asked for, and say it as it is written. Raises `PromptTooLong`."""
        self._note_model()
        step = self._journal.next_step("complete", *map(_fingerprint, messages))
        recorded = self._journal.recorded_result(step, _RECORDED_REPLY)
        if recorded is not None:
            return self._replay_reply(recorded)
        start = self._replay.pieces
        sampling = self._sampling_of_reply(Sampling(max_tokens=self.engine.context_window))
        if self.message.sent_history is None:  # else the pipeline has counted them
            count_tokens = self._model.engine.count_tokens
            await fit_exactly(messages, self.engine, count_tokens, self._program.tools)
        generation = await self._generations.request(
            step,
            self.message,
            messages,
            sampling,
            partial=self._replay_stored(),
            on_text=self._replay.say,
            tools=OfferedTools(
                definitions=self._program.tools,
                choice=self._program.tool_choice,
                parallel=self._program.parallel_tool_calls,
            ),
        )
        self._count_reply(generation)
        text = self._replay.text_since(start)
        calls = client_calls(generation.tool_calls)
        ended = generation.finish_reason == "stop" and not calls
        self._journal.record_result(
            step, text if ended else CompletedReply(text, generation.finish_reason, calls)
        )
        return generation

    # Letting the model act

    @property
    def enabled_tools(self) -> tuple[str, ...] | None:
        """Return the tools and skills of the setting ``agents.tools`` that there are now, without
        the running skill; None: it is not set. Those of a tool source come and go."""
        names, services = self._services.agents.tools, self._services
        if names is None:
            return None
        known = (name for name in names if name in services.tools or name in services.skills)
        return tuple(name for name in known if name != self.skill)

    @property
    def harmless_tools(self) -> tuple[str, ...]:
        """Return the registered tools that are ``read_only``, and the other skills."""
        tools = [tool.name for tool in self._services.tools.values() if tool.read_only]
        skills = [name for name in self._services.skills if name != self.skill]
        return tuple(dict.fromkeys((*tools, *skills)))

    async def run(
        self,
        prompt: str,
        *,
        tools: Sequence[Tool | ToolDefinition | str],
        system: str = "",
        history: Sequence[HistoryEntry] = (),
        sampling: Sampling | None = None,
        images: bool = False,
        limits: AgentLimits = NO_AGENT_LIMITS,
        through: Filter | None = None,
    ) -> str:
        """Let the model call ``tools`` until it answers ``prompt``; say what it writes, and return
        the answer.

        ``tools`` are tools, or names of registered tools and of skills: a skill runs within this
        turn, and its text is the result. Errors of tools go to the model. At one of the ``limits``
        it is asked for a last answer without tools. Messages that steer the turn are taken between
        the steps. The other parameters as in `stream`. Raises `Unsupported` when the engine calls
        no tools, `NotFound` for an unknown name, and `InvalidInput` for two tools of one name.

        Those of `client_tools` are run by the program: the turn ends with their calls, and its next
        message, with their results, continues here. Their results count as ``untrusted``.

        After a takeover no call is repeated, but for those of idempotent tools that had not ended.
        """
        applied = apply_limits(limits, self._services.agents)
        client_tools = [tool for tool in tools if isinstance(tool, ToolDefinition)]
        offered = self._offer_tools(
            [tool for tool in tools if not isinstance(tool, ToolDefinition)], applied
        )
        _check_names(offered, client_tools)
        if offered or client_tools:
            self._require_capability("tools")
        history, following = self._split_history(history)
        self._note_model()

        def make_sampling() -> Sampling:
            return self._sampling_of_reply(sampling)

        def note_cut() -> None:
            self.finish_reason = "length"

        agent = Agent(
            message=self.message,
            prompt=Prompt(
                text=prompt, system=system, history=history, images=images, following=following
            ),
            tools=offered,
            client_tools={tool.name: tool for tool in client_tools},
            parallel_tool_calls=self._program.parallel_tool_calls,
            limits=applied,
            through=through,
            continues="continuation" in self.engine.capabilities,
            journal=self._journal,
            replay=self._replay,
            tool_calls=self._tool_calls,
            generations=self._generations,
            metrics=self._services.metrics,
            make_sampling=make_sampling,
            count=lambda generation: self._program.count(generation.usage),
            note_cut=note_cut,
            take_steering=self.take_steering,
            call_client=self._suspend_with_calls,
            client_call_prefix=self._program.call_prefix or self.id,
        )
        return await agent.run()

    def _split_history(
        self, history: Sequence[HistoryEntry]
    ) -> tuple[Sequence[HistoryEntry], tuple[ChatMessage, ...]]:
        """Return the history before the message, and what follows it as messages for the model:
        calls of a program's tools and their results."""
        start = len(history) - self.following
        if not self.following or tuple(history[start:]) != self.history[-self.following :]:
            return history, ()
        native_calls = "tools" in self.engine.capabilities
        messages = build_transcript(history[start:], native_calls=native_calls)
        results = [message for message in messages if message.role == "tool"]
        self._tool_calls.trust.saw_untrusted |= bool(results)
        return history[:start], tuple(
            dataclasses.replace(message, content=present_result(message.content))
            if message.role == "tool"
            else message
            for message in messages
        )

    def _suspend_with_calls(self, calls: Sequence[ToolCall]) -> Mapping[str, str]:
        """Return what the program's tools returned, by the id of the call. Without that, end the
        turn with the calls: the message with the results continues it."""
        step = self._journal.next_step("call_client", repr(calls))
        results = self._journal.recorded_result(step, dict[str, str])
        if results is None:
            self._replay.withdraw_rest()
            self.call_client(calls)
            self._journal.keep_open(step)
            raise Suspended(client_calls=self.record.client_calls)
        self._tool_calls.trust.saw_untrusted = True
        return results

    def _offer_tools(self, tools: Sequence[Tool | str], limits: AgentSettings) -> dict[str, Tool]:
        """Return the tools by name, without the skills that the visitor's site lacks. There are no
        skills below the limit of depth."""
        lacking = self._services.skills.keys() - self._skills.keys()
        offered: dict[str, Tool] = {}
        for named in tools:
            if isinstance(named, str) and named in lacking:
                continue
            tool = named if isinstance(named, Tool) else self._find_tool(named)
            if tool.name in offered:
                raise SkillError(f"two tools have the name {tool.name!r}")
            if not isinstance(tool, SkillTool) or self._depth < limits.depth:
                offered[tool.name] = tool
        return offered

    def _find_tool(self, name: str) -> Tool:
        if name in self._services.tools or name not in self._skills:
            return self._tool_calls.find(name)
        skill = self._skills[name]

        async def run(call: pydantic.BaseModel) -> str:
            return await self._run_skill(skill, call)

        return make_skill_tool(skill, run)

    async def _run_skill(self, skill: RunnableSkill, call: pydantic.BaseModel) -> str:
        """Run a skill as a tool, in this turn and its journal; return what it says."""
        reply = CapturedReply(self._replay)
        turn: Turn[Any] = Turn(  # Any: the Arguments of any skill
            *(self._claim, self._writer, self._journal, reply, self._services),
            deadline=self.deadline,
            caller=self,
        )
        turn.use_model(self._services.models.of_skill(skill.name).name)
        turn.skill, turn.arguments = skill.name, call
        turn.message = message_of_call(self.message, skill, call)
        turn.messages = (turn.message,)
        await skill.answer(turn)
        text, citations = renumber_citations(
            turn.text, turn.record.citations, self.record.citations
        )
        for citation in citations:
            self.record.citations[citation.number] = citation
            self._write_once("cite", Cited(turn=self.id, citation=citation))
        for attachment in turn.record.attachments:
            self.attach(attachment)
        return text

    # Tools of a program

    def _replay_reply(self, recorded: str | CompletedReply) -> Generation:
        """Say the recorded reply of `complete`, and return it."""
        reply = CompletedReply(recorded, "stop") if isinstance(recorded, str) else recorded
        self._replay.say(reply.text)
        if reply.finish_reason == "length":
            self.finish_reason = "length"
        return Generation(
            text=reply.text,
            finish_reason=reply.finish_reason,
            usage=Usage(),
            tool_calls=tuple(ToolCall(it.id, it.name, it.arguments) for it in reply.calls),
        )

    @property
    def client_tools(self) -> tuple[ToolDefinition, ...]:
        """Return the tools that the program offers and runs itself."""
        return self._program.tools

    def call_client(self, calls: Sequence[ToolCall]) -> None:
        """End the reply with calls of tools that the program runs, see `ProgramRequest.tools`. Its
        next message brings the results."""
        self.record.client_calls += client_calls(calls)
        if self.record.client_calls and self.finish_reason != "length":
            self.finish_reason = "tool_calls"

    async def choose(self, prompt: str, options: Sequence[str], *, system: str = "") -> str:
        """Let the engine pick exactly one of ``options``."""
        self._require_capability("choice")

        async def pick(step: Step) -> str:
            sampling = Sampling(structure=Choice(tuple(options)), max_tokens=64)
            messages = build_messages(system, (), prompt)
            generation = await self._generations.request(
                step, self.message, messages, sampling, on_text=_ignore_text
            )
            return generation.text

        return await self._journal.run_once(str, pick, "choose", system, prompt, *options)

    async def extract(self, model: type[ModelT], prompt: str, *, system: str = "") -> ModelT:
        """Let the engine fill ``model`` from ``prompt``.

        Raises `SkillError` when what it writes does not validate.
        """
        self._require_capability("json_schema")
        schema = model.model_json_schema()

        async def fill(step: Step) -> str:
            sampling = Sampling(structure=JsonSchema(schema), max_tokens=512)
            messages = build_messages(system, (), prompt)
            generation = await self._generations.request(
                step, self.message, messages, sampling, on_text=_ignore_text
            )
            return generation.text

        written = await self._journal.run_once(str, fill, "extract", system, prompt, repr(schema))
        try:
            return model.model_validate_json(written)
        except pydantic.ValidationError as error:
            raise SkillError(
                f"the output of the engine is not a {model.__name__}: {_describe_faults(error)}"
            ) from error

    def _require_capability(self, capability: Capability) -> None:
        if capability not in self.engine.capabilities:
            raise Unsupported(
                f"the engine {self.engine.model!r} has no capability {capability!r}; "
                f"declare it in the skill's `needs`, which are checked at start-up"
            )

    async def count_tokens(self, text: str) -> int:
        """Return the tokens that ``text`` takes as a message of its own."""
        return await self._model.engine.count_tokens([ChatMessage("user", text)])

    # Steering

    async def take_steering(self) -> tuple[Message, ...]:
        """Return the messages that steer this turn and came since the last call, oldest first.

        Messages steer a turn where the policy is ``steer``, see `Skill.concurrency_policy`. Those
        that a skill does not take become the next turn. A skill that runs as a tool gets none.
        """
        if self._caller is not None:
            return ()

        async def read_ledger(step: Step) -> tuple[Message, ...]:
            self._steering = await self._services.ledger.read_steering(self._claim)
            return self._steering[len(self.taken_steering) :]

        messages = await self._journal.run_once(tuple[Message, ...], read_ledger, "steering")
        ids = {message.id for message in messages}  # a turn that asked may have been steered, too
        self.taken_steering += tuple(message for message in self._steering if message.id in ids)
        self._writer.record_taken_steering(len(self.taken_steering))
        return messages

    async def _run_until_steered(
        self, generating: Coroutine[Any, Any, Generation]
    ) -> Generation | None:
        """Return the generation, or None when a message that steers the turn ended it early."""
        generation = asyncio.create_task(generating)
        steered = asyncio.create_task(self._writer.steered.wait())
        try:
            await asyncio.wait({generation, steered}, return_when=asyncio.FIRST_COMPLETED)
            return generation.result() if generation.done() else None
        finally:
            generation.cancel()
            steered.cancel()
            await asyncio.gather(generation, steered, return_exceptions=True)

    # Questions, tools, knowledge, memory

    async def ask(
        self, question: str, options: Sequence[str] = (), *, suggestions: Sequence[str] = ()
    ) -> str:
        """Ask the person and return the answer.

        The turn ends with the question. The next message of the conversation continues the skill
        here, on any server, a minute or a month later.

        With ``options`` the answer is one of them; the person names it by its text in any case or
        by its number, and is asked again after another answer. Raises `UnusableAnswer` after
        `MAX_QUESTIONS`. ``suggestions`` are shown as well, but any answer is allowed.
        """
        asked = question
        for _ in range(MAX_QUESTIONS):
            answer = self._ask_once(asked, options, suggestions)
            option = find_option(answer, options) if options else answer
            if option is not None:
                return option
            asked = f"Please answer with one of these: {format_options(options)}. {question}"
        raise UnusableAnswer(
            f"I asked {MAX_QUESTIONS} times and got none of these: {format_options(options)}."
        )

    def _ask_once(self, question: str, options: Sequence[str], suggestions: Sequence[str]) -> str:
        step = self._journal.next_step("ask", question)
        self._questions.say(question)
        answer = self._journal.recorded_result(step, str)
        if answer is None:
            self._questions.suspend(step, question, options=options, suggestions=suggestions)
        return answer

    async def call_tool(self, name: str, /, **arguments: Any) -> str:  # Any: JSON values
        """Run a registered tool and return its result.

        A tool with ``needs_approval`` runs only after the person has approved the call; so does,
        after the result of an ``untrusted`` tool, any that is not ``read_only``. The turn ends with
        that question, as with `ask`.

        Raises `NotFound` for an unknown tool, `InvalidInput` for arguments that do not validate or
        are too long to be shown to the person, `Denied` when the person does not approve,
        `OutcomeUnknown` when the server died while a tool ran that must not run twice.
        """
        tool = self._tool_calls.find(name)
        requests = self._tool_calls.obtain_approvals([request_call(tool, arguments)])
        (call,) = map(self._tool_calls.prepare, requests)
        return await self._tool_calls.perform(call, person=self.person)

    def _open_call_services(self) -> CallServices:
        resources = self._services.tool_resources
        return CallServices(
            resources, self.message, self.history, self.record, self._writer.interruption
        )

    async def search(
        self, query: str, limit: int = 4, collections: Sequence[str] = ()
    ) -> tuple[Passage, ...]:
        """Return the knowledge base's best passages for ``query``, best first: those of these
        ``collections``, or of all. A visitor of a site gets passages of the site's collections.

        Raises `TooLarge` when the search would take too long.
        """

        async def look_up(step: Step) -> tuple[Passage, ...]:
            resources = self._services.tool_resources
            return await resources.search(self.message, query, limit, collections)

        return await self._journal.run_once(
            tuple[Passage, ...], look_up, "search", query, str(limit), *collections
        )

    # Attachments

    async def read_attachment(self, attachment: Attachment) -> bytes:
        """Return the content of a file of a message, also of an earlier one in the history.

        It is not journaled: the content of a file never changes. Raises `NotFound` when the file
        was deleted.
        """
        return await self._services.attachments.read(self.message.conversation, attachment)

    async def read_document(self, attachment: Attachment) -> Document:
        """Return the text of a file of a message: of text, Markdown, HTML, PDF and Word files.

        Raises `InvalidInput` with a sentence for the person when it has none, or cannot be read,
        and `NotFound` when the file was deleted.
        """
        conversation = self.message.conversation
        return await self._services.attachments.read_document(conversation, attachment)

    async def search_in(
        self, documents: Sequence[Document], query: str, limit: int = 4
    ) -> tuple[Passage, ...]:
        """Return the best passages of these documents for ``query``, best first, to `cite` them.

        Raises `TooLarge` when the search would take too long.
        """

        async def look_up(step: Step) -> tuple[Passage, ...]:
            return await self._services.attachments.search(documents, query, limit)

        names = [document.id for document in documents]
        return await self._journal.run_once(
            tuple[Passage, ...], look_up, "search_in", query, str(limit), *names
        )

    async def remember(self, key: str, value: str | None) -> None:
        """Store a value about the person for all conversations; None removes it.

        The value is stored when this returns. Raises `SkillError` when it is larger than
        `MAX_MEMORY_BYTES`, or a further one of `MAX_MEMORIES` about the person.
        """
        memory = MemoryWrite(person=self.person, key=f"{self.skill}.{key}", value=value)
        step = self._journal.next_step("remember", memory.key, msgspec.json.encode(value).decode())
        if self._journal.recorded_result(step, bool) is not None:
            return
        await self._check_limits(memory)
        self._writer.write(memory)
        self._journal.record_result(step, True)  # in the same write: no replay repeats it
        await self._writer.flush()
        self._known_memories.add(memory.key)

    async def _check_limits(self, memory: MemoryWrite) -> None:
        if memory.value is None:
            return
        if len(memory.value.encode()) > MAX_MEMORY_BYTES:
            self._services.metrics.memory_refused("bytes")
            raise SkillError(f"memory {memory.key!r} is larger than {MAX_MEMORY_BYTES} bytes")
        if memory.key in self._known_memories:
            return
        tenant, ledger = self.message.conversation.tenant, self._services.ledger
        if (
            await ledger.count_memories(tenant, memory.person) >= MAX_MEMORIES
            and await ledger.recall(tenant, memory.person, memory.key) is None
        ):
            self._services.metrics.memory_refused("count")
            raise SkillError(
                f"memory {memory.key!r} would be one of more than {MAX_MEMORIES} about a person; "
                "remove others with `remember(key, None)`"
            )

    async def recall(self, key: str) -> str | None:
        """Return the value that this skill has stored about the person, or None."""

        async def look_up(step: Step) -> list[str]:
            value = await self._services.ledger.recall(
                self.message.conversation.tenant, self.person, f"{self.skill}.{key}"
            )
            return [] if value is None else [value]

        found = await self._journal.run_once(list[str], look_up, "recall", key)
        if not found:
            return None
        self._known_memories.add(f"{self.skill}.{key}")
        return found[0]


def _make_record(caller: Turn[Any] | None) -> ReplyRecord:  # Any: the Arguments of another skill
    return SkillRecord(caller.record) if caller else ReplyRecord()


def _check_names(tools: Mapping[str, Tool], client_tools: Sequence[ToolDefinition]) -> None:
    names = set(tools)
    for tool in client_tools:
        if tool.name in names:
            raise InvalidInput(
                f"The tool {tool.name!r} of the program has the name of another tool that the "
                "model may call here; give it another name."
            )
        names.add(tool.name)


def client_calls(calls: Sequence[ToolCall]) -> tuple[ClientCall, ...]:
    """Return the calls of a generation as those of a reply."""
    return tuple(ClientCall(id=it.id, name=it.name, arguments=it.arguments) for it in calls)


def _fingerprint(message: ChatMessage) -> str:
    """Return what identifies a message of a step. Of images only the sizes: they are large."""
    sizes = [len(image.data) for image in message.images]
    calls = f":{message.tool_calls}" if message.tool_calls else ""
    return f"{message.role}:{message.content}{calls}" + (f":{sizes}" if sizes else "")


def _ignore_text(text: str) -> None:
    """Drop a piece of text that only counts as a whole."""


def _describe_faults(error: pydantic.ValidationError) -> str:
    """Name the kinds of the faults, and nothing of what was written."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    return ", ".join(sorted({fault["type"] for fault in faults}))
