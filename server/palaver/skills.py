"""Skill, what an author writes; and Turn, all that a skill works with."""

import asyncio
import dataclasses
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, NoReturn, TypeVar

import msgspec
import pydantic
from typing_extensions import TypeVar as DefaultTypeVar

from palaver.engine import (
    Abilities,
    Ability,
    ChatMessage,
    Choice,
    Engine,
    Generation,
    GenerationRequest,
    JsonSchema,
    Sampling,
)
from palaver.errors import InvalidInput, NotFound, OutcomeUnknown, SkillError, Unsupported
from palaver.hooks import PluginSettings, Tool
from palaver.knowledge import KnowledgeBase, Passage
from palaver.ledger import Claim, Exchange, Ledger, Step, Waiting
from palaver.messages import (
    Asked,
    Attached,
    Attachment,
    Citation,
    Cited,
    Message,
    Routed,
    ToolCalled,
    ToolState,
    Usage,
)
from palaver.prompting import fit
from palaver.transcript import Transcript

SHOWN_RESULT = 1_000
"""Characters of a tool's result that its event carries; the skill gets all of it."""


class NoArguments(pydantic.BaseModel):
    """The arguments of a skill that takes none."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


ArgumentsT = DefaultTypeVar("ArgumentsT", bound=pydantic.BaseModel, default=Any)
ModelT = TypeVar("ModelT", bound=pydantic.BaseModel)
ResultT = TypeVar("ResultT")


class Skill:
    """Answers turns. Subclass it, name it, give examples, write ``answer``.

    The docstring's first line is the description that people and the router read. One instance
    serves all turns at once: keep nothing about a turn on ``self``.
    """

    name: ClassVar[str]
    """1 to 40 characters of ``a-z0-9_-``; people type it as ``/name``."""
    aliases: ClassVar[Sequence[str]] = ()
    """Other words that people may type as ``/word``."""
    examples: ClassVar[Sequence[str]] = ()
    """Messages that this skill should get, as people would write them."""
    patterns: ClassVar[Sequence[str]] = ()
    """Regular expressions, matched without regard to case against the whole message. A match
    chooses the skill, and named groups fill its arguments."""
    needs: ClassVar[frozenset[Ability]] = frozenset({"generate"})
    """What the engine must be able to do; a server whose engine cannot refuses the skill."""

    class Settings(PluginSettings):
        """Settings under ``[skills.NAME]``; override with fields of your own."""

    Arguments: ClassVar[type[pydantic.BaseModel]] = NoArguments
    """What the skill needs to know, as a pydantic model; nest a class of this name."""

    def __init__(self, settings: PluginSettings | None = None) -> None:
        self.settings: Any = settings or self.Settings()  # Any: the subclass's own Settings

    @classmethod
    def description(cls) -> str:
        return (cls.__doc__ or "").strip().partition("\n")[0]

    async def answer(self, turn: "Turn[Any]") -> None:
        """Answer the turn. Whatever it says, cites and attaches is the reply.

        May run again from the top after a crash of the server: the Turn's verbs then return what
        they returned before. Anything else with an effect belongs into a tool.
        """
        raise NotImplementedError


class Suspended(BaseException):
    """Ends a skill that has asked a question; the person's answer runs it again.

    A BaseException, so that a skill's ``except Exception`` does not swallow it.
    """

    def __init__(self, waiting: Waiting) -> None:
        super().__init__()
        self.waiting = waiting


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the server lends to every Turn."""

    ledger: Ledger
    engine: Engine
    abilities: Abilities
    knowledge: KnowledgeBase
    tools: Mapping[str, Tool]
    generation_deadline: float


class Turn(Generic[ArgumentsT]):
    """The answering of one message: what was sent, and the verbs to answer with.

    The verbs `reply`, `generate`, `choose`, `extract`, `ask`, `call_tool`, `search` and `recall`
    are journaled: when a server dies and another takes the turn over, the skill runs again from
    the top and each finished verb returns its recorded result at once. So a skill must call them
    in an order that follows from the message and from their results alone.
    """

    def __init__(
        self, claim: Claim, transcript: Transcript, services: Services, *, deadline: float
    ) -> None:
        self.id = claim.turn
        self.attempt = claim.attempt
        self.message: Message = claim.message
        self.history: tuple[Exchange, ...] = claim.history
        self.arguments: ArgumentsT
        self.skill = ""
        self.deadline = deadline
        """Event loop time at which the turn is ended."""
        self.usage = Usage()
        self._received = claim.message
        self._asked_in: tuple[str, ...] = ()
        self._claim = claim
        self._transcript = transcript
        self._services = services
        self._journal = {step.number: step for step in claim.journal}
        self._next_step = 0
        self._said: list[str] = []
        self._length = 0
        self._before = 0
        """Characters that earlier turns said, in a turn that continues after a question."""
        self._unsaid = claim.reply
        """What the ledger holds of the reply beyond what this run has said."""
        self._citations = 0

    # What the turn is

    def rephrase(self, text: str) -> None:
        """Show the skill ``text`` as the message's. Called by the server, which has taken a
        command off its front."""
        if text != self.message.text:
            self.message = msgspec.structs.replace(self.message, text=text)

    def say_routed(self, reason: str, score: float | None) -> None:
        """Tell which skill answers and why. Called by the server."""
        self._transcript.put(Routed(turn=self.id, skill=self.skill, reason=reason, score=score))

    @property
    def person(self) -> str:
        """The id of whoever sent the message."""
        return self.message.sender

    @property
    def engine(self) -> Abilities:
        """What the engine is and can do; ``context`` is its window in tokens."""
        return self._services.abilities

    @property
    def text(self) -> str:
        """What the skill has said so far."""
        return "".join(self._said)

    # Saying

    async def say(self, text: str) -> None:
        """Add ``text`` to the reply."""
        self._say(text)

    def _say(self, text: str) -> None:
        self._said.append(text)
        if self._unsaid:
            text = self._beyond_stored(text)
        self._length += len(text)
        if text:
            self._transcript.say(text)

    def _beyond_stored(self, text: str) -> str:
        """The part of ``text`` that the ledger does not hold yet. Text that differs from what is
        held withdraws it."""
        held = self._unsaid[: len(text)]
        if not text.startswith(held):
            self.withdraw_unsaid()
            return text
        self._unsaid = self._unsaid[len(held) :]
        self._length += len(held)
        return text[len(held) :]

    def withdraw_unsaid(self) -> None:
        """Withdraw what an earlier attempt said and this one does not. Called by the server."""
        position = max(0, self._length - self._before)
        if self._unsaid and position < self._transcript.length:
            self._transcript.reset(position)
        self._unsaid = ""

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
        number, fingerprint = self._step(verb, repr(event))
        if self._recall_step(number, verb, fingerprint, bool) is None:
            self._transcript.put(event)
            self._record_step(number, verb, fingerprint, True)

    # Generating

    async def reply(
        self,
        prompt: str,
        *,
        system: str = "",
        history: Sequence[Exchange] = (),
        sampling: Sampling | None = None,
    ) -> str:
        """Generate an answer to ``prompt`` and say it as it is written. Returns its text.

        ``history`` is cut from its old end so that everything fits. After a takeover the text goes
        on from the last stored character.
        """
        return await self._generate("reply", prompt, system, history, sampling, aloud=True)

    async def generate(
        self,
        prompt: str,
        *,
        system: str = "",
        history: Sequence[Exchange] = (),
        sampling: Sampling | None = None,
    ) -> str:
        """Like `reply`, without saying it."""
        return await self._generate("generate", prompt, system, history, sampling, aloud=False)

    async def _generate(
        self,
        verb: str,
        prompt: str,
        system: str,
        history: Sequence[Exchange],
        sampling: Sampling | None,
        *,
        aloud: bool,
    ) -> str:
        sampling = sampling or Sampling()
        # The history is not part of the fingerprint: it is the ledger's, the same for every run.
        number, fingerprint = self._step(verb, system, prompt)
        recorded = self._recall_step(number, verb, fingerprint, str)
        if recorded is not None:
            if aloud:
                self._say(recorded)
            return recorded
        budget = self._services.abilities.context - sampling.max_tokens
        messages = await fit(
            system,
            history,
            prompt,
            budget=budget,
            count_tokens=self._services.engine.count_tokens,
        )
        partial = self._stored_beginning() if aloud else ""
        text = partial + await self._run(number, messages, sampling, partial=partial, aloud=aloud)
        self._record_step(number, verb, fingerprint, text)
        return text

    def _stored_beginning(self) -> str:
        """What an earlier attempt wrote of this reply before its server died."""
        if "continuation" not in self._services.abilities.can:
            return ""
        beginning = self._unsaid
        self._say(beginning)
        return beginning

    async def _run(
        self,
        number: int,
        messages: Sequence[ChatMessage],
        sampling: Sampling,
        *,
        partial: str = "",
        aloud: bool = False,
    ) -> str:
        request = GenerationRequest(
            id=f"{self.id}-{number}-{self._claim.fence}",
            messages=tuple(messages),
            tenant=self.message.conversation.tenant,
            sampling=sampling,
            partial=partial,
            deadline=self._time_left(),
        )
        generation = await self._services.engine.generate(request, self._say if aloud else _drop)
        self._count(generation)
        return generation.text

    def _time_left(self) -> float:
        left = self.deadline - asyncio.get_running_loop().time()
        return max(0.1, min(left, self._services.generation_deadline))

    def _count(self, generation: Generation) -> None:
        self.usage += generation.usage

    async def choose(self, prompt: str, options: Sequence[str], *, system: str = "") -> str:
        """Let the engine pick exactly one of ``options``."""
        self._require("choice")

        async def pick(number: int) -> str:
            sampling = Sampling(structure=Choice(tuple(options)), max_tokens=64)
            return await self._run(number, _messages(system, prompt), sampling)

        return await self.journaled(str, pick, "choose", system, prompt, *options)

    async def extract(self, model: type[ModelT], prompt: str, *, system: str = "") -> ModelT:
        """Let the engine fill ``model`` from ``prompt``.

        Raises `SkillError` when what it writes does not validate.
        """
        self._require("json_schema")
        schema = model.model_json_schema()

        async def fill(number: int) -> str:
            sampling = Sampling(structure=JsonSchema(schema), max_tokens=512)
            return await self._run(number, _messages(system, prompt), sampling)

        written = await self.journaled(str, fill, "extract", system, prompt, repr(schema))
        try:
            return model.model_validate_json(written)
        except pydantic.ValidationError as error:
            raise SkillError(
                f"the engine filled {model.__name__} with {written[:200]!r}: {error}"
            ) from error

    def _require(self, ability: Ability) -> None:
        if ability not in self._services.abilities.can:
            raise Unsupported(
                f"the engine {self._services.abilities.model!r} has no ability {ability!r}; "
                f"declare it in the skill's `needs` to learn this at start-up"
            )

    async def count_tokens(self, text: str) -> int:
        """Tokens that ``text`` takes as a message of its own."""
        return await self._services.engine.count_tokens([ChatMessage("user", text)])

    # Asking, acting, looking up

    async def ask(self, question: str, options: Sequence[str] = ()) -> str:
        """Ask the person and return their answer.

        The turn ends with the question. The next message of the conversation continues the skill
        here, on whatever server gets it, a minute or a month later.
        """
        number, fingerprint = self._step("ask", question)
        # What is stored tells how the question was set apart when it was asked.
        apart = self._unsaid.startswith("\n\n") or (
            not self._unsaid and self._length > self._before
        )
        self._say("\n\n" + question if apart else question)
        answer = self._recall_step(number, "ask", fingerprint, str)
        if answer is None:
            self._suspend(number, fingerprint, question, options)
        return answer

    def _suspend(
        self, number: int, fingerprint: str, question: str, options: Sequence[str]
    ) -> NoReturn:
        self.withdraw_unsaid()
        self._transcript.put(Asked(turn=self.id, question=question, options=tuple(options)))
        step = Step(number=number, verb="ask", fingerprint=fingerprint, done=False)
        self._journal[number] = step
        raise Suspended(
            Waiting(
                skill=self.skill,
                message=self._received,
                journal=tuple(self._journal[n] for n in sorted(self._journal)),
                said=self.text,
                turns=(*self._asked_in, self.id),
            )
        )

    def resume(self, waiting: Waiting) -> None:
        """Go on with a skill that asked: this message is the answer. Called by the server."""
        answer = self.message.text
        self.message = self._received = waiting.message
        # The skill sees the history that it saw when it asked, not its own question.
        self._asked_in = waiting.turns
        self.history = tuple(line for line in self.history if line.turn not in waiting.turns)
        self._before = len(waiting.said)
        self._unsaid = waiting.said + self._unsaid
        asked = waiting.journal[-1]
        earlier = {step.number: step for step in waiting.journal}
        earlier[asked.number] = msgspec.structs.replace(
            asked, done=True, result=msgspec.Raw(msgspec.json.encode(answer))
        )
        self._journal = earlier | self._journal

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
        number, fingerprint = self._step("call_tool", name, repr(sorted(arguments.items())))
        recorded = self._recall_step(number, "call_tool", fingerprint, str)
        if recorded is not None:
            return recorded
        if number in self._journal and not tool.idempotent:
            self._put_tool(name, arguments, "unknown")
            raise OutcomeUnknown(f"tool {name!r} was started before a takeover; it may have run")
        self._put_tool(name, arguments, "started")
        self._transcript.put(
            Step(number=number, verb="call_tool", fingerprint=fingerprint, done=False)
        )
        await self._transcript.flush()  # the intent is stored before the effect
        try:
            result = await tool.run(validated)
        except Exception as error:
            self._put_tool(name, arguments, "failed", str(error))
            raise
        self._put_tool(name, arguments, "done", result)
        self._record_step(number, "call_tool", fingerprint, result)
        return result

    def _put_tool(
        self, name: str, arguments: dict[str, Any], state: ToolState, result: str = ""
    ) -> None:
        self._transcript.put(
            ToolCalled(
                turn=self.id,
                name=name,
                arguments=arguments,
                state=state,
                result=result[:SHOWN_RESULT],
            )
        )

    async def search(self, query: str, limit: int = 4) -> tuple[Passage, ...]:
        """The knowledge base's best passages for ``query``, best first."""

        async def look_up(number: int) -> tuple[Passage, ...]:
            return await self._services.knowledge.search(
                self.message.conversation.tenant, query, limit
            )

        return await self.journaled(tuple[Passage, ...], look_up, "search", query, str(limit))

    async def remember(self, key: str, value: str | None) -> None:
        """Keep a value about the person across conversations; None forgets it."""
        await self._services.ledger.remember(
            self.message.conversation.tenant, self.person, f"{self.skill}.{key}", value
        )

    async def recall(self, key: str) -> str | None:
        """What this skill has remembered about the person."""

        async def look_up(number: int) -> list[str]:
            value = await self._services.ledger.recall(
                self.message.conversation.tenant, self.person, f"{self.skill}.{key}"
            )
            return [] if value is None else [value]

        found = await self.journaled(list[str], look_up, "recall", key)
        return found[0] if found else None

    # The journal

    def _step(self, verb: str, *inputs: str) -> tuple[int, str]:
        number = self._next_step
        self._next_step += 1
        digest = hashlib.blake2b("\0".join((verb, *inputs)).encode(), digest_size=8)
        return number, digest.hexdigest()

    def _recall_step(
        self, number: int, verb: str, fingerprint: str, kind: type[ResultT]
    ) -> ResultT | None:
        """The recorded result, or None when the step has to be done.

        A step that was recorded with another input means that the skill took another way this
        time: the journal from there on does not apply.
        """
        step = self._journal.get(number)
        if step is None:
            return None
        if (step.verb, step.fingerprint) != (verb, fingerprint):
            for later in [n for n in self._journal if n >= number]:
                del self._journal[later]
            return None
        return msgspec.json.decode(step.result, type=kind) if step.done else None

    def _record_step(self, number: int, verb: str, fingerprint: str, result: object) -> None:
        step = Step(
            number=number,
            verb=verb,
            fingerprint=fingerprint,
            done=True,
            result=msgspec.Raw(msgspec.json.encode(result)),
        )
        self._journal[number] = step
        self._transcript.put(step)

    async def journaled(
        self,
        kind: type[ResultT],
        perform: Callable[[int], Awaitable[ResultT]],
        verb: str,
        *inputs: str,
    ) -> ResultT:
        """The recorded result of this step, else that of ``perform(step number)``, recorded.

        ``kind`` is the result's type, one that msgspec encodes and decodes. Steps are told apart
        by their order, ``verb`` and ``inputs``.
        """
        number, fingerprint = self._step(verb, *inputs)
        recorded = self._recall_step(number, verb, fingerprint, kind)
        if recorded is None:
            recorded = await perform(number)
            self._record_step(number, verb, fingerprint, recorded)
        return recorded


def _messages(system: str, prompt: str) -> list[ChatMessage]:
    messages = [ChatMessage("system", system)] if system else []
    return [*messages, ChatMessage("user", prompt)]


def _drop(text: str) -> None:
    """Text that nobody listens to while it is written."""
