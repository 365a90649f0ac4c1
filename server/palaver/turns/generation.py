"""Generations: builds the prompts of one turn, and asks the engine."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Sequence

from palaver.engine import (
    ChatMessage,
    Generation,
    GenerationRequest,
    OnText,
    Sampling,
    ToolChoice,
    ToolDefinition,
)
from palaver.engines.models import Model
from palaver.ledger import Claim, HistoryEntry, Step
from palaver.messages import Attachment, Message, Queued, Usage
from palaver.turns.attachments import AttachmentReader
from palaver.turns.image_memory import ImageMemory
from palaver.turns.prompt import fit_prompt
from palaver.turns.prompt_images import (
    NO_IMAGES,
    PromptImages,
    read_prompt_images,
    size_of_images,
    without_damaged,
)
from palaver.turns.writer import TurnWriter


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Prompt that a skill gives. ``history`` is cut from its old end until the prompt fits.
    ``images``: the engine sees those of the message and the newest of the history. ``following``
    are the messages after ``text``, such as calls of tools with their results."""

    text: str
    system: str = ""
    history: Sequence[HistoryEntry] = ()
    images: bool = False
    following: tuple[ChatMessage, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OfferedTools:
    """Tools that the model may call in a generation."""

    definitions: tuple[ToolDefinition, ...] = ()
    choice: ToolChoice = "auto"
    parallel: bool = True
    """Whether the model may call several at once."""


NO_TOOLS = OfferedTools()


@dataclasses.dataclass(slots=True)
class _Spent:
    """The tokens of all generations of one turn."""

    usage: Usage = dataclasses.field(default_factory=Usage)


class Generations:
    """The generations of one turn by one model. ``usage`` is that of all models of the turn."""

    def __init__(
        self,
        claim: Claim,
        writer: TurnWriter,
        *,
        model: Model,
        attachments: AttachmentReader,
        image_memory: ImageMemory,
        timeout: float,
        deadline: float,
        spent: "_Spent | None" = None,
    ) -> None:
        self._spent = spent or _Spent()
        self._claim = claim
        self._writer = writer
        self._model = model
        self._attachments = attachments
        self._image_memory = image_memory
        self._timeout = timeout
        self._deadline = deadline

    @property
    def usage(self) -> Usage:
        return self._spent.usage

    def with_model(self, model: Model) -> "Generations":
        """Return the generations of the same turn by another model."""
        return Generations(
            self._claim,
            self._writer,
            model=model,
            attachments=self._attachments,
            image_memory=self._image_memory,
            timeout=self._timeout,
            deadline=self._deadline,
            spent=self._spent,
        )

    async def generate(
        self,
        step: Step,
        message: Message,
        prompt: Prompt,
        sampling: Sampling,
        *,
        on_text: OnText,
        partial: str = "",
        tools: OfferedTools = NO_TOOLS,
    ) -> Generation:
        """Generate the answer to a prompt about ``message``, with as much of the history as fits.

        The history and the images are not part of a step's fingerprint: they are the same for
        every run.
        """

        async def count_tokens(messages: Sequence[ChatMessage]) -> int:
            return await self._model.engine.count_tokens(messages, tools.definitions)

        async def generate(seen: PromptImages) -> Generation:
            messages = await fit_prompt(
                prompt.system,
                prompt.history,
                prompt.text,
                budget=self._model.info.context_window - sampling.max_tokens,
                count_tokens=count_tokens,
                images=seen,
                following=prompt.following,
                tool_bytes=sum(len(repr(each).encode()) for each in tools.definitions),
            )
            return await self.request(
                step, message, messages, sampling, on_text=on_text, partial=partial, tools=tools
            )

        async with self._reading_images(message, prompt) as seen:
            return await without_damaged(seen, generate)

    @contextlib.asynccontextmanager
    async def _reading_images(
        self, message: Message, prompt: Prompt
    ) -> AsyncGenerator[PromptImages, None]:
        """Yield the images that the engine sees. Their memory is reserved during the block."""
        size = 0
        if prompt.images and "vision" in self._model.info.capabilities:
            size = size_of_images(message.attachments, prompt.history)
        if not size:
            yield NO_IMAGES
            return

        async def read(attachment: Attachment) -> bytes:
            return await self._attachments.read(message.conversation, attachment)

        async with self._image_memory.hold(size):
            yield await read_prompt_images(message.attachments, prompt.history, read)

    async def request(
        self,
        step: Step,
        message: Message,
        messages: Sequence[ChatMessage],
        sampling: Sampling,
        *,
        on_text: OnText,
        partial: str = "",
        tools: OfferedTools = NO_TOOLS,
    ) -> Generation:
        """Generate the answer to exactly these messages."""
        request = GenerationRequest(
            id=f"{self._claim.turn}-{step.number}-{self._claim.fence}",
            messages=tuple(messages),
            tenant=message.conversation.tenant,
            person=message.person,
            channel=message.conversation.channel,
            sampling=sampling,
            partial=partial,
            timeout=self._time_left(),
            on_queued=self._write_queued,
            tools=tools.definitions,
            tool_choice=tools.choice,
            parallel_tool_calls=tools.parallel,
        )
        generation = await self._model.engine.generate(request, on_text)
        self._spent.usage += generation.usage
        return generation

    def _write_queued(self, ahead: int) -> None:
        self._writer.write(Queued(turn=self._claim.turn, ahead=ahead))

    def _time_left(self) -> float:
        left = self._deadline - asyncio.get_running_loop().time()
        return max(0.1, min(left, self._timeout))
