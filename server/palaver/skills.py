"""Skill: the base class of everything that answers turns."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pydantic

from palaver.config.settings import PluginSettings
from palaver.engine import Capability, ChatMessage, Task, TokenLogprob
from palaver.messages import Attachment, ConcurrencyPolicy, ProgramRequest, encode
from palaver.turns.prompt import build_transcript
from palaver.turns.prompt_images import (
    NO_IMAGES,
    ReadAttachment,
    read_prompt_images,
    says_something,
)
from palaver.turns.turn import Turn
from palaver.turns.turn_history import Transcript


class NoArguments(pydantic.BaseModel):
    """The arguments of a skill that takes none."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class Skill:
    """Base of a skill, which answers turns. A subclass has a name, examples and ``answer``.

    The docstring's first line is the description for people and the router. One instance answers
    all turns at once: keep nothing about a turn on ``self``.
    """

    name: ClassVar[str]
    """1 to 40 characters of ``a-z0-9_-``; people type it as ``/name``."""
    aliases: ClassVar[Sequence[str]] = ()
    """Other words that people may type as ``/word``."""
    examples: ClassVar[Sequence[str]] = ()
    """Messages for this skill, as people would write them."""
    prompts: ClassVar[Sequence[str]] = ()
    """Messages that a person may begin with; the page offers them as they stand."""
    task: ClassVar[Task | None] = None
    """Task that the model must have been made for, where its card says for which; else the page
    offers no ``prompts``."""
    patterns: ClassVar[Sequence[str]] = ()
    """Regular expressions that match whole messages, in any case. A match chooses the skill, and
    named groups fill its arguments."""
    needs: ClassVar[frozenset[Capability]] = frozenset({"generate"})
    """Capabilities that the engine must have; without them the server does not start."""
    sees_images: ClassVar[bool] = False
    """Whether it answers messages with images, which then go to no skill that does not, unless a
    person names it."""
    answers_from_documents: ClassVar[bool] = False
    """Whether its requests are questions that the knowledge base answers. The router prefers it
    where a passage matches the question, and the default skill where none does."""
    calls_client_tools: ClassVar[bool] = False
    """Whether it lets the model call the tools that a program offers, see `Turn.client_tools`, and
    ends the reply with these calls (`Turn.call_client`)."""
    concurrency_policy: ClassVar[ConcurrencyPolicy | None] = None
    """Policy for messages that come while this skill runs; None: as the settings say. With
    ``steer``, `Turn.take_steering` returns them."""

    class Settings(PluginSettings):
        """Settings under ``[skills.NAME]``; override with fields of your own."""

    Arguments: ClassVar[type[pydantic.BaseModel]] = NoArguments
    """Arguments of the skill, as a pydantic model; nest a class of this name."""

    def __init__(self, settings: PluginSettings | None = None) -> None:
        self.settings: Any = settings or self.Settings()  # Any: the subclass's own Settings

    @property
    def collections(self) -> Sequence[str]:
        """Return the collections of the knowledge base that it answers from, empty for all: the
        router looks for passages there."""
        return ()

    @classmethod
    def description(cls) -> str:
        return (cls.__doc__ or "").strip().partition("\n")[0]

    async def answer(self, turn: Turn[Any]) -> None:
        """Answer the turn: everything that it says, cites and attaches is the reply.

        It may run again from the top after a crash of the server: the Turn's methods then return
        their recorded results. Put anything else that has an effect into a tool.
        """
        raise NotImplementedError


LOGPROBS_TYPE = "application/vnd.palaver.logprobs+json"
"""Media type of attachments with the log-probabilities of a reply: JSON arrays of `TokenLogprob`,
in the order of the attachments."""
LOGPROBS_PER_ATTACHMENT = 200
LEAST_LOGPROB = -9999.0
"""What stands for the log-probability of an impossible token, as in OpenAI's API: JSON has no
infinity."""


class EngineSkill(Skill):
    """Let the model answer a program's messages as they are.

    No router chooses it and no command names it: only a channel that passes on what programs ask of
    the model, see `palaver.messages.ProgramRequest`.
    """

    name = "@engine"
    sees_images = True

    async def answer(self, turn: Turn[Any]) -> None:
        transcript = Transcript(turn.history, turn.message, turn.following)
        messages = await self.messages_of(
            transcript, turn.engine.capabilities, turn.read_attachment
        )
        generation = await turn.complete(messages)
        turn.call_client(generation.tool_calls)
        for start in range(0, len(generation.logprobs), LOGPROBS_PER_ATTACHMENT):
            turn.attach(_pack(generation.logprobs[start : start + LOGPROBS_PER_ATTACHMENT]))

    @staticmethod
    async def messages_of(
        transcript: Transcript, capabilities: frozenset[Capability], read: ReadAttachment
    ) -> list[ChatMessage]:
        """Return what the engine gets. A history that the program has sent holds everything.

        ``read`` reads the images, where the engine sees some.
        """
        history, message, following = transcript
        program = message.program or ProgramRequest()
        is_complete = (
            program.history is not None and not program.input and any(map(says_something, history))
        )
        images = NO_IMAGES
        if "vision" in capabilities:
            own = () if is_complete else message.attachments
            images = await read_prompt_images(own, history, read)
        messages = build_transcript(history, images, native_calls="tools" in capabilities)
        if not is_complete and (message.text or images.own):
            at = len(messages) - following
            messages.insert(at, ChatMessage("user", message.text, images.own))
        return messages


class ToolSkill(Skill):
    """Run one tool with the arguments that a program gives, and reply with its result.

    As with `EngineSkill`, only a channel names it, for the tools that an operator allows there.
    """

    name = "@tool"
    needs = frozenset()

    class Arguments(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
        tool: str
        arguments: dict[str, Any] = {}  # JSON values, validated by the tool's arguments model

    async def answer(self, turn: Turn[Arguments]) -> None:
        await turn.say(await turn.call_tool(turn.arguments.tool, **turn.arguments.arguments))


PROGRAM_SKILLS: Mapping[str, type[Skill]] = {
    skill.name: skill for skill in (EngineSkill, ToolSkill)
}
"""Skills that a message names only where a program sends it."""


def _pack(logprobs: Sequence[TokenLogprob]) -> Attachment:
    content = base64.b64encode(encode(list(map(_make_finite, logprobs)))).decode()
    return Attachment(
        name="logprobs.json",
        media_type=LOGPROBS_TYPE,
        url=f"data:{LOGPROBS_TYPE};base64,{content}",
    )


def _make_finite(token: TokenLogprob) -> TokenLogprob:
    alternatives = tuple((text, max(value, LEAST_LOGPROB)) for text, value in token.alternatives)
    return TokenLogprob(token.token, max(token.logprob, LEAST_LOGPROB), alternatives)
