"""Turn: all that a skill works with."""

import asyncio
import dataclasses
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Generic, NoReturn, Protocol, TypeVar

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
    InvalidInput,
    LedgerUnavailable,
    NotFound,
    OutcomeUnknown,
    SkillError,
    Unsupported,
)
from palaver.knowledge import KnowledgeBase, Passage
from palaver.ledger import Claim, HistoryEntry, Ledger, Step
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
from palaver.tools import Tool
from palaver.turns.journal import Journal
from palaver.turns.prompt import fit, lay_out
from palaver.turns.replay import Replay
from palaver.turns.writer import TurnWriter

MAX_EVENT_RESULT = 1_000
"""Characters of a tool's result that its event carries; the skill gets all of it."""


ArgumentsT = DefaultTypeVar("ArgumentsT", bound=pydantic.BaseModel, default=Any)
ModelT = TypeVar("ModelT", bound=pydantic.BaseModel)
ResultT = TypeVar("ResultT")


class Filter(Protocol):
    """Changes a reply while it is written; may hold a piece back until it has seen more."""

    def feed(self, text: str) -> str:
        """What may be said now that ``text`` has come."""

    def end(self) -> str:
        """What is still to be said at the end."""


class Suspended(BaseException):
    """Ends a skill that has asked a question; the person's answer runs it again.

    A BaseException, so that a skill's ``except Exception`` does not swallow it.
    """


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TurnServices:
    """What the server lends to every Turn."""

    ledger: Ledger
    engine: Engine
    engine_info: EngineInfo
    knowledge: KnowledgeBase
    tools: Mapping[str, Tool]
    generation_timeout: float
    """Seconds that one generation may take."""


class Turn(Generic[ArgumentsT]):
    """The answering of one message: what was sent, and the verbs to answer with.

    The verbs `reply`, `generate`, `choose`, `extract`, `ask`, `call_tool`, `search` and `recall`
    are journaled: when a server dies and another takes the turn over, the skill runs again from
    the top and each finished verb returns its recorded result at once. So a skill must call them
    in an order that follows from the message and from their results alone.
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
        """What is to be answered. Where several messages make one turn, all of them as one."""
        self.messages: tuple[Message, ...] = (*claim.interrupted, *claim.messages)
        """The same one by one, as they were written."""
        self.history: tuple[HistoryEntry, ...] = _without_interrupted(claim)
        self.arguments: ArgumentsT
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
        self._steering = claim.steering_messages
        self.taken: tuple[Message, ...] = ()
        """What `steering` has returned of the messages that were handed to this turn."""

    # What the turn is

    @property
    def person(self) -> str:
        """The id of whoever sent the message."""
        return self.message.person

    @property
    def engine(self) -> EngineInfo:
        """What the engine is and can do; ``context`` is its window in tokens."""
        return self._services.engine_info

    @property
    def text(self) -> str:
        """What the skill has said so far."""
        return self._replay.text

    # Saying

    async def say(self, text: str) -> None:
        """Add ``text`` to the reply."""
        self._replay.say(text)

    def cite(self, passage: Passage, *, number: int | None = None) -> int:
        """Name a source; returns the number to write as ``[n]``. ``number``: the one that is
        written already; without it, the next free one."""
        number = number or self._citations + 1
        self._citations = max(self._citations, number)
        citation = Citation(
            number=number,
            document=passage.document,
            title=passage.title,
            section=passage.section,
            passage=passage.text,
        )
        self._put_once("cite", Cited(turn=self.id, citation=citation))
        return number

    def attach(self, attachment: Attachment) -> None:
        """Add a file to the reply."""
        self._put_once("attach", Attached(turn=self.id, attachment=attachment))

    def _put_once(self, verb: str, event: Cited | Attached) -> None:
        step = self._journal.begin(verb, repr(event))
        if self._journal.result(step, bool) is None:
            self._writer.write(event)
            self._journal.finish(step, True)

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
        """Generate an answer to ``prompt`` and say it as it is written. Returns what was said.

        ``history`` is cut from its old end so that everything fits. ``through`` may change the
        text on its way. ``steerable``: it breaks off when `steering` has something to return.
        After a takeover the text goes on from the last stored character.
        """
        step = self._journal.begin("stream", system, prompt)
        recorded = self._journal.result(step, str)
        if recorded is not None:
            self._replay.say(recorded)
            return recorded
        # The part of this reply that an earlier attempt has stored.
        stored = self._replay.replay_rest() if "continuation" in self.engine.capabilities else ""
        said = [stored]
        if through is not None:
            through.feed(stored)

        def say(text: str) -> None:
            said.append(text)
            self._replay.say(text)

        def say_filtered(text: str) -> None:
            assert through is not None
            say(through.feed(text))

        on_text = say if through is None else say_filtered
        generating = self._generate(
            step, prompt, system, history, sampling, partial=stored, on_text=on_text
        )
        await (self._until_steered(generating) if steerable else generating)
        if through is not None:
            say(through.end())
        text = "".join(said)
        self._journal.finish(step, text)
        return text

    async def generate(
        self,
        prompt: str,
        *,
        system: str = "",
        history: Sequence[HistoryEntry] = (),
        sampling: Sampling | None = None,
    ) -> str:
        """Like `reply`, without saying it."""

        async def perform(step: Step) -> str:
            return await self._generate(step, prompt, system, history, sampling, on_text=_drop)

        return await self._journal.once(str, perform, "generate", system, prompt)

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

        The history is not part of the step's fingerprint: it is the ledger's, the same for every
        run.
        """
        sampling = sampling or Sampling()
        messages = await fit(
            system,
            history,
            prompt,
            budget=self.engine.context_window - sampling.max_tokens,
            count_tokens=self._services.engine.count_tokens,
        )
        return await self._run(step, messages, sampling, partial=partial, on_text=on_text)

    async def _run(
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
        self._require("choice")

        async def pick(step: Step) -> str:
            sampling = Sampling(structure=Choice(tuple(options)), max_tokens=64)
            return await self._run(step, lay_out(system, (), prompt), sampling, on_text=_drop)

        return await self._journal.once(str, pick, "choose", system, prompt, *options)

    async def extract(self, model: type[ModelT], prompt: str, *, system: str = "") -> ModelT:
        """Let the engine fill ``model`` from ``prompt``.

        Raises `SkillError` when what it writes does not validate.
        """
        self._require("json_schema")
        schema = model.model_json_schema()

        async def fill(step: Step) -> str:
            sampling = Sampling(structure=JsonSchema(schema), max_tokens=512)
            return await self._run(step, lay_out(system, (), prompt), sampling, on_text=_drop)

        written = await self._journal.once(str, fill, "extract", system, prompt, repr(schema))
        try:
            return model.model_validate_json(written)
        except pydantic.ValidationError as error:
            raise SkillError(
                f"the engine filled {model.__name__} with {written[:200]!r}: {error}"
            ) from error

    def _require(self, ability: Capability) -> None:
        if ability not in self._services.engine_info.capabilities:
            raise Unsupported(
                f"the engine {self._services.engine_info.model!r} has no ability {ability!r}; "
                f"declare it in the skill's `needs` to learn this at start-up"
            )

    async def count_tokens(self, text: str) -> int:
        """Tokens that ``text`` takes as a message of its own."""
        return await self._services.engine.count_tokens([ChatMessage("user", text)])

    # Being steered

    async def steering(self) -> tuple[Message, ...]:
        """The messages that were handed to this turn since this was last asked, oldest first.

        There are some where the policy is ``steer``, see `Skill.concurrency_policy`. What a skill
        does not take becomes the next turn.
        """

        async def look(step: Step) -> tuple[Message, ...]:
            self._steering = await self._services.ledger.read_steering(self._claim)
            return self._steering[len(self.taken) :]

        messages = await self._journal.once(tuple[Message, ...], look, "steering")
        ids = {message.id for message in messages}  # a turn that asked may have been steered, too
        self.taken += tuple(message for message in self._steering if message.id in ids)
        self._writer.steering_taken(len(self.taken))
        return messages

    async def _until_steered(self, generating: Coroutine[Any, Any, str]) -> None:
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

    # Asking, acting, looking up

    async def ask(self, question: str, options: Sequence[str] = ()) -> str:
        """Ask the person and return their answer.

        The turn ends with the question. The next message of the conversation continues the skill
        here, on whatever server gets it, a minute or a month later.
        """
        step = self._journal.begin("ask", question)
        self._replay.say_question(question)
        answer = self._journal.result(step, str)
        if answer is None:
            self._suspend(step, question, options)
        return answer

    def _suspend(self, step: Step, question: str, options: Sequence[str]) -> NoReturn:
        self._replay.withdraw_rest()
        self._writer.write(Asked(turn=self.id, question=question, options=tuple(options)))
        self._journal.hold(step)
        raise Suspended

    async def call_tool(self, name: str, **arguments: Any) -> str:  # Any: JSON values
        """Run a registered tool and return its result.

        Raises `NotFound` for an unknown tool, `InvalidInput` for arguments that do not validate,
        `OutcomeUnknown` when the server died while a tool ran that must not run twice.
        """
        tool = self._services.tools.get(name)
        if tool is None:
            raise NotFound(f"there is no tool {name!r}; there are: {sorted(self._services.tools)}")
        try:
            validated = tool.arguments.model_validate(arguments)
        except pydantic.ValidationError as error:
            raise InvalidInput(f"tool {name!r}: {error}") from error
        step = self._journal.begin("call_tool", name, repr(sorted(arguments.items())))
        recorded = self._journal.result(step, str)
        if recorded is not None:
            return recorded
        if self._journal.was_started(step) and not tool.idempotent:
            self._put_tool(name, arguments, "unknown")
            raise OutcomeUnknown(f"tool {name!r} was started before a takeover; it may have run")
        self._put_tool(name, arguments, "started")
        self._journal.start(step)
        try:
            await self._writer.flush()  # the intent is stored before the effect
        except LedgerUnavailable:
            self._journal.withdraw(step)
            raise
        try:
            result = await tool.run(validated)
        except Exception as error:
            self._put_tool(name, arguments, "failed", str(error))
            raise
        self._put_tool(name, arguments, "done", result)
        self._journal.finish(step, result)
        return result

    def _put_tool(
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
        """The knowledge base's best passages for ``query``, best first."""

        async def look_up(step: Step) -> tuple[Passage, ...]:
            return await self._services.knowledge.search(
                self.message.conversation.tenant, query, limit
            )

        return await self._journal.once(tuple[Passage, ...], look_up, "search", query, str(limit))

    async def remember(self, key: str, value: str | None) -> None:
        """Keep a value about the person across conversations; None forgets it."""
        await self._services.ledger.remember(
            self.message.conversation.tenant, self.person, f"{self.skill}.{key}", value
        )

    async def recall(self, key: str) -> str | None:
        """What this skill has remembered about the person."""

        async def look_up(step: Step) -> list[str]:
            value = await self._services.ledger.recall(
                self.message.conversation.tenant, self.person, f"{self.skill}.{key}"
            )
            return [] if value is None else [value]

        found = await self._journal.once(list[str], look_up, "recall", key)
        return found[0] if found else None


def _without_interrupted(claim: Claim) -> tuple[HistoryEntry, ...]:
    """Return the history without the turns that were stopped for this one, which answers them."""
    if not claim.interrupted:
        return claim.history
    again = {(message.person, message.text) for message in claim.interrupted}
    asked = {line.turn for line in claim.history if (line.person, line.text) in again}
    stopped = {line.turn for line in claim.history if line.outcome == "stopped"}
    return tuple(line for line in claim.history if line.turn not in asked & stopped)


def _drop(text: str) -> None:
    """Text that nobody listens to while it is written."""
