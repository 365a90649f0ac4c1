"""Turn: the interface between a skill and the server."""

import asyncio
import dataclasses
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar, cast

import msgspec
import pydantic
from typing_extensions import TypeVar as DefaultTypeVar

from palaver.engine import (
    Capability,
    ChatMessage,
    Choice,
    Engine,
    EngineInfo,
    GenerationRequest,
    JsonSchema,
    OnText,
    Sampling,
)
from palaver.errors import (
    LedgerUnavailable,
    NotFound,
    OutcomeUnknown,
    SkillError,
    TooLarge,
    Unsupported,
    UnusableAnswer,
)
from palaver.knowledge import KnowledgeBase, Passage
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
    Asked,
    Attached,
    Attachment,
    Citation,
    Cited,
    Message,
    Queued,
    ToolCalled,
    ToolState,
    Usage,
)
from palaver.metrics import Metrics
from palaver.tools import Tool
from palaver.turns.answers import MAX_QUESTIONS, find_option, format_options
from palaver.turns.journal import Journal
from palaver.turns.prompt import build_messages, fit_prompt
from palaver.turns.replay import Replay
from palaver.turns.writer import TurnWriter

MAX_EVENT_RESULT = 1_000
"""Characters of a tool's result that its event carries; the skill gets all of it."""


ArgumentsT = DefaultTypeVar("ArgumentsT", bound=pydantic.BaseModel, default=Any)
ModelT = TypeVar("ModelT", bound=pydantic.BaseModel)
ResultT = TypeVar("ResultT")


class Filter(Protocol):
    """Filter of a reply while it is written; it may keep text back until more has come."""

    def feed(self, text: str) -> str:
        """Return the text to say now that ``text`` has come."""

    def end(self) -> str:
        """Return the text that is left at the end."""


class _Filtered:
    """Receives text for a filter, and passes on what the filter lets through."""

    def __init__(self, filter_: Filter, on_text: OnText) -> None:
        self._filter = filter_
        self._on_text = on_text

    def __call__(self, text: str) -> None:
        self._on_text(self._filter.feed(text))


class UnvalidatedArguments(pydantic.BaseModel):
    """The arguments that the router found in the message, as they are, one attribute for each."""

    model_config = pydantic.ConfigDict(extra="allow", frozen=True)


class Suspended(BaseException):
    """Ends a skill that has asked a question with ``options``; the answer runs the skill again.

    A BaseException, so that a skill's ``except Exception`` does not swallow it.
    """

    def __init__(self, options: Sequence[str]) -> None:
        super().__init__()
        self.options = tuple(options)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TurnServices:
    """Services of the server for every Turn."""

    ledger: Ledger
    engine: Engine
    engine_info: EngineInfo
    knowledge: KnowledgeBase
    tools: Mapping[str, Tool]
    metrics: Metrics
    generation_timeout: float
    """Seconds that one generation may take."""


class Turn(Generic[ArgumentsT]):
    """The answering of one message: the message, and the methods to answer it with.

    The methods `stream`, `generate`, `choose`, `extract`, `ask`, `call_tool`, `search`, `remember`,
    `recall` and `take_steering` are journaled: when a server dies and another takes the turn over,
    the skill runs again from the top, and each finished method returns its recorded result at once.
    So a skill must call them in an order that follows from the message and from their results
    alone.
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
    ) -> None:
        self.id = claim.turn
        self.attempt = claim.attempt
        self.message: Message = claim.message
        """The message to answer. Where several messages make one turn, all of them as one."""
        self.messages: tuple[Message, ...] = (*claim.interrupted, *claim.messages)
        """The same as single messages, as they were written."""
        self.history: tuple[HistoryEntry, ...] = _remove_interrupted(claim)
        self.arguments: ArgumentsT = cast(ArgumentsT, UnvalidatedArguments())
        """The skill's validated Arguments. Before the skill runs, for interceptors, they are
        `UnvalidatedArguments`."""
        self.skill = ""
        self.deadline = deadline
        """Event loop time at which the turn is ended."""
        self.usage = Usage()
        self._claim = claim
        self._writer = writer
        self._journal = journal
        self._replay = replay
        self._services = services
        self._citations = 0
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
        return self._services.engine_info

    @property
    def text(self) -> str:
        """Return the reply so far."""
        return self._replay.text

    # Saying

    async def say(self, text: str) -> None:
        """Add ``text`` to the reply."""
        self._replay.say(text)

    def cite(self, passage: Passage, *, number: int | None = None) -> int:
        """Cite a source, and return its number, to be written as ``[n]``. ``number``: the number in
        the reply; without it, the next free one."""
        number = number or self._citations + 1
        self._citations = max(self._citations, number)
        citation = Citation(
            number=number,
            document=passage.document,
            title=passage.title,
            section=passage.section,
            passage=passage.text,
        )
        self._write_once("cite", Cited(turn=self.id, citation=citation))
        return number

    def attach(self, attachment: Attachment) -> None:
        """Add a file to the reply."""
        self._write_once("attach", Attached(turn=self.id, attachment=attachment))

    def _write_once(self, verb: str, event: Cited | Attached) -> None:
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
        through: Filter | None = None,
        steerable: bool = False,
    ) -> str:
        """Generate an answer to ``prompt``, say it as it is written, and return it.

        ``history`` is cut from its old end until the prompt fits. ``through`` may change the text
        before it is said. ``steerable``: end early when `take_steering` has something to return.
        After a takeover the text continues after the last stored character.
        """
        step = self._journal.next_step("stream", system, prompt)
        recorded = self._journal.recorded_result(step, str)
        if recorded is not None:
            self._replay.say(recorded)
            return recorded
        start = self._replay.pieces
        # The part of this reply that an earlier attempt has stored.
        stored = self._replay.replay_rest() if "continuation" in self.engine.capabilities else ""
        on_text: OnText = self._replay.say
        if through is not None:
            through.feed(stored)
            on_text = _Filtered(through, on_text)
        generating = self._generate(
            step, prompt, system, history, sampling, partial=stored, on_text=on_text
        )
        await (self._run_until_steered(generating) if steerable else generating)
        if through is not None:
            self._replay.say(through.end())
        text = self._replay.text_since(start)
        self._journal.record_result(step, text)
        return text

    async def generate(
        self,
        prompt: str,
        *,
        system: str = "",
        history: Sequence[HistoryEntry] = (),
        sampling: Sampling | None = None,
    ) -> str:
        """Generate an answer to ``prompt`` and return it; the person does not see it."""

        async def perform(step: Step) -> str:
            return await self._generate(
                step, prompt, system, history, sampling, on_text=_ignore_text
            )

        return await self._journal.run_once(str, perform, "generate", system, prompt)

    async def _generate(
        self,
        step: Step,
        prompt: str,
        system: str,
        history: Sequence[HistoryEntry],
        sampling: Sampling | None,
        *,
        on_text: OnText,
        partial: str = "",
    ) -> str:
        """Generate with as much of the history as fits.

        The history is not part of the step's fingerprint: it is the same for every run.
        """
        sampling = sampling or Sampling()
        messages = await fit_prompt(
            system,
            history,
            prompt,
            budget=self.engine.context_window - sampling.max_tokens,
            count_tokens=self._services.engine.count_tokens,
        )
        return await self._request_generation(
            step, messages, sampling, partial=partial, on_text=on_text
        )

    async def _request_generation(
        self,
        step: Step,
        messages: Sequence[ChatMessage],
        sampling: Sampling,
        *,
        on_text: OnText,
        partial: str = "",
    ) -> str:
        request = GenerationRequest(
            id=f"{self.id}-{step.number}-{self._claim.fence}",
            messages=tuple(messages),
            tenant=self.message.conversation.tenant,
            person=self.person,
            channel=self.message.conversation.channel,
            sampling=sampling,
            partial=partial,
            timeout=self._time_left(),
            on_queued=self._write_queued,
        )
        generation = await self._services.engine.generate(request, on_text)
        self.usage += generation.usage
        return generation.text

    def _write_queued(self, ahead: int) -> None:
        self._writer.write(Queued(turn=self.id, ahead=ahead))

    def _time_left(self) -> float:
        left = self.deadline - asyncio.get_running_loop().time()
        return max(0.1, min(left, self._services.generation_timeout))

    async def choose(self, prompt: str, options: Sequence[str], *, system: str = "") -> str:
        """Let the engine pick exactly one of ``options``."""
        self._require_capability("choice")

        async def pick(step: Step) -> str:
            sampling = Sampling(structure=Choice(tuple(options)), max_tokens=64)
            return await self._request_generation(
                step, build_messages(system, (), prompt), sampling, on_text=_ignore_text
            )

        return await self._journal.run_once(str, pick, "choose", system, prompt, *options)

    async def extract(self, model: type[ModelT], prompt: str, *, system: str = "") -> ModelT:
        """Let the engine fill ``model`` from ``prompt``.

        Raises `SkillError` when what it writes does not validate.
        """
        self._require_capability("json_schema")
        schema = model.model_json_schema()

        async def fill(step: Step) -> str:
            sampling = Sampling(structure=JsonSchema(schema), max_tokens=512)
            return await self._request_generation(
                step, build_messages(system, (), prompt), sampling, on_text=_ignore_text
            )

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
        return await self._services.engine.count_tokens([ChatMessage("user", text)])

    # Steering

    async def take_steering(self) -> tuple[Message, ...]:
        """Return the messages that steer this turn and came since the last call, oldest first.

        Messages steer a turn where the policy is ``steer``, see `Skill.concurrency_policy`. Those
        that a skill does not take become the next turn.
        """

        async def read_ledger(step: Step) -> tuple[Message, ...]:
            self._steering = await self._services.ledger.read_steering(self._claim)
            return self._steering[len(self.taken_steering) :]

        messages = await self._journal.run_once(tuple[Message, ...], read_ledger, "steering")
        ids = {message.id for message in messages}  # a turn that asked may have been steered, too
        self.taken_steering += tuple(message for message in self._steering if message.id in ids)
        self._writer.record_taken_steering(len(self.taken_steering))
        return messages

    async def _run_until_steered(self, generating: Coroutine[Any, Any, str]) -> None:
        generation = asyncio.create_task(generating)
        steered = asyncio.create_task(self._writer.steered.wait())
        try:
            await asyncio.wait({generation, steered}, return_when=asyncio.FIRST_COMPLETED)
            if generation.done():
                generation.result()
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
        self._replay.say_question(question)
        answer = self._journal.recorded_result(step, str)
        if answer is not None:
            return answer
        self._replay.withdraw_rest()
        shown = (*options, *suggestions)
        self._writer.write(Asked(turn=self.id, question=question, options=shown))
        self._journal.keep_open(step)
        raise Suspended(options)

    async def call_tool(self, name: str, /, **arguments: Any) -> str:  # Any: JSON values
        """Run a registered tool and return its result.

        Raises `NotFound` for an unknown tool, `InvalidInput` for arguments that do not validate,
        `OutcomeUnknown` when the server died while a tool ran that must not run twice.
        """
        tool = self._services.tools.get(name)
        if tool is None:
            raise NotFound(f"there is no tool {name!r}; there are: {sorted(self._services.tools)}")
        validated = tool.validate(arguments)
        step = self._journal.next_step("call_tool", name, repr(sorted(arguments.items())))
        recorded = self._journal.recorded_result(step, str)
        if recorded is not None:
            return recorded
        if self._journal.was_started(step) and not tool.idempotent:
            self._write_tool_event(name, arguments, "unknown")
            raise OutcomeUnknown(f"tool {name!r} was started before a takeover; it may have run")
        self._write_tool_event(name, arguments, "started")
        self._journal.record_start(step)
        try:
            await self._writer.flush()  # the intent is stored before the effect
        except LedgerUnavailable:
            self._journal.withdraw(step)
            raise
        try:
            result = await tool.run(validated)
        except Exception as error:
            self._write_tool_event(name, arguments, "failed", str(error))
            raise
        self._write_tool_event(name, arguments, "done", result)
        self._journal.record_result(step, result)
        return result

    def _write_tool_event(
        self, name: str, arguments: dict[str, Any], state: ToolState, result: str = ""
    ) -> None:
        self._writer.write(
            ToolCalled(
                turn=self.id,
                name=name,
                arguments=arguments,
                state=state,
                result=result[:MAX_EVENT_RESULT],
            )
        )

    async def search(self, query: str, limit: int = 4) -> tuple[Passage, ...]:
        """Return the knowledge base's best passages for ``query``, best first.

        Raises `TooLarge` when the search would take too long.
        """

        async def look_up(step: Step) -> tuple[Passage, ...]:
            tenant = self.message.conversation.tenant
            try:
                return await self._services.knowledge.search(tenant, query, limit)
            except TooLarge:
                self._services.metrics.limit_reached("search_timeout")
                raise

        return await self._journal.run_once(
            tuple[Passage, ...], look_up, "search", query, str(limit)
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


def _remove_interrupted(claim: Claim) -> tuple[HistoryEntry, ...]:
    """Return the history without the turns that were stopped for this one, which answers them."""
    if not claim.interrupted:
        return claim.history
    again = {(message.person, message.text) for message in claim.interrupted}
    asked = {entry.turn for entry in claim.history if (entry.person, entry.text) in again}
    stopped = {entry.turn for entry in claim.history if entry.outcome == "stopped"}
    return tuple(entry for entry in claim.history if entry.turn not in asked & stopped)


def _ignore_text(text: str) -> None:
    """Drop a piece of text that only counts as a whole."""


def _describe_faults(error: pydantic.ValidationError) -> str:
    """Name the kinds of the faults, and nothing of what was written."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    return ", ".join(sorted({fault["type"] for fault in faults}))
