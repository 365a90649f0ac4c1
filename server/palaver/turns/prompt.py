"""Prompt: messages for the engine, stable prefix first, for its prefix cache."""

import zlib
from collections.abc import Awaitable, Callable, Sequence

from palaver.engine import (
    MAX_CHARACTERS_PER_TOKEN,
    ChatMessage,
    EngineInfo,
    ToolCall,
    ToolDefinition,
    count_characters,
    estimate_image_tokens,
)
from palaver.errors import PromptTooLong
from palaver.ledger import HistoryEntry
from palaver.messages import SentMessage
from palaver.turns.prompt_images import NO_IMAGES, PromptImages

HISTORY_CUT_CHOICES = 8
"""Messages of the user among which the history begins, so that it rarely begins anew: each cut
changes the prefix of the prompt, and so invalidates the engine's cache of the conversation."""
TEMPLATE_BYTES_PER_MESSAGE = 16
"""Room per message for the tokens of the chat template."""

CountTokens = Callable[[Sequence[ChatMessage]], Awaitable[int]]


def build_messages(
    system: str,
    history: Sequence[HistoryEntry],
    prompt: str,
    images: PromptImages = NO_IMAGES,
    *,
    start: int = 0,
) -> list[ChatMessage]:
    """Return system text, history and prompt: what changes least comes first. Of the history before
    ``start`` there are only the instructions."""
    messages = [ChatMessage("system", system)] if system else []
    for position, entry in enumerate(history):
        if position >= start or entry.role in ("system", "developer"):
            seen = images.earlier.get(position, ())
            text = shown_text(entry)
            if text or seen:
                messages.append(ChatMessage(entry.role, text, seen))
    messages.append(ChatMessage("user", prompt, images.own))
    return messages


def build_transcript(
    history: Sequence[HistoryEntry], images: PromptImages = NO_IMAGES, *, native_calls: bool
) -> list[ChatMessage]:
    """Return a message for each entry of the history. ``native_calls``: the engine has the
    capability ``tools``; for others, calls are part of the text. A result whose call is not there,
    as it was cut off, is a text of the user."""
    messages: list[ChatMessage] = []
    called: set[str] = set()
    for position, entry in enumerate(history):
        seen = images.earlier.get(position, ())
        if not native_calls:
            messages.append(ChatMessage(entry.role, shown_text(entry), seen))
            continue
        calls = tuple(ToolCall(it.id, it.name, it.arguments) for it in entry.client_calls or ())
        called |= {call.id for call in calls}
        if entry.role == "tool" and entry.call in called:
            messages.append(ChatMessage("tool", entry.text, tool_call_id=entry.call))
        else:
            role = "user" if entry.role == "tool" else entry.role
            messages.append(ChatMessage(role, entry.text, seen, tool_calls=calls))
    return messages


def shown_text(entry: HistoryEntry) -> str:
    """Return the text of an entry, with the tools that it calls: for a model that calls none."""
    return SentMessage(entry.role, entry.text, calls=entry.client_calls or ()).shown


async def fit_prompt(
    system: str,
    history: Sequence[HistoryEntry],
    prompt: str,
    *,
    budget: int,
    count_tokens: CountTokens,
    images: PromptImages = NO_IMAGES,
    following: Sequence[ChatMessage] = (),
    tool_bytes: int = 0,
) -> list[ChatMessage]:
    """Return the prompt with as much of the newest history as fits into ``budget`` tokens, with all
    system messages of the history, and with the messages ``following`` the prompt. The images of
    the history give way to its texts. ``tool_bytes``: the size of the tools that belong to it.

    Counts the tokens of few candidates, and of none that is certainly too long. Raises
    `PromptTooLong` when it does not fit without any history.
    """

    def build(start: int, images: PromptImages) -> list[ChatMessage]:
        return [*build_messages(system, history, prompt, images, start=start), *following]

    async def fits(start: int, images: PromptImages) -> bool:
        messages = build(start, images)
        characters = count_characters(messages)
        if characters > budget * MAX_CHARACTERS_PER_TOKEN:
            return False
        return _certainly_fits(messages, characters, budget - tool_bytes) or (
            await count_tokens(messages) <= budget
        )

    for shown in (images, images.newest_earlier(), images.without_earlier()):
        if shown is not None and await fits(0, shown):
            return build(0, shown)
    images = images.without_earlier() or images
    starts = [at for at, entry in enumerate(history) if at and entry.role == "user"]
    starts.append(len(history))
    first, last = 0, len(starts)  # the first start that fits is among starts[first:last]
    while first < last:
        middle = (first + last) // 2
        if await fits(starts[middle], images):
            last = middle
        else:
            first = middle + 1
    if first == len(starts):
        raise PromptTooLong(f"the prompt takes more than the {budget} tokens that are left for it")
    return build(_choose_start(history, starts[first:]), images)


async def fit_exactly(
    messages: Sequence[ChatMessage],
    engine_info: EngineInfo,
    count_tokens: Callable[[Sequence[ChatMessage], Sequence[ToolDefinition]], Awaitable[int]],
    tools: Sequence[ToolDefinition] = (),
) -> None:
    """Raise `PromptTooLong` when the messages, with tools, leave no room for a reply of one
    token."""
    budget = engine_info.context_window - 1
    characters = count_characters(messages, tools)
    if not tools and _certainly_fits(messages, characters, budget):
        return
    if (
        characters > budget * MAX_CHARACTERS_PER_TOKEN
        or await count_tokens(messages, tools) > budget
    ):
        raise PromptTooLong(f"the messages take more than {budget} tokens")


def _certainly_fits(messages: Sequence[ChatMessage], characters: int, budget: int) -> bool:
    """Return True for most short prompts without counting: a token is at least one byte."""
    room = budget - TEMPLATE_BYTES_PER_MESSAGE * len(messages) - estimate_image_tokens(messages)
    if room < characters:
        return False
    return room >= 4 * characters or room >= sum(
        len(text.encode()) for message in messages for text in message.texts
    )


def _choose_start(history: Sequence[HistoryEntry], starts: Sequence[int]) -> int:
    """Return one of the starts that fit, of which the last one is the end of the history.

    It is the one with the smallest hash among the first: while the conversation grows and these
    fall away one by one, it usually stays the smallest. At least half of what fits is kept.
    """
    choices = starts[: min(HISTORY_CUT_CHOICES, len(starts) // 2)]
    return min(choices, key=lambda at: zlib.crc32(history[at].turn.encode()), default=starts[0])
