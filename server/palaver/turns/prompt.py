"""Lays a prompt out stable-prefix-first, so that the engine's prefix cache keeps hitting."""

import zlib
from collections.abc import Awaitable, Callable, Sequence

from palaver.engine import ChatMessage
from palaver.errors import PromptTooLong
from palaver.ledger import HistoryEntry

HISTORY_CUT_STEP = 8
"""History is cut in steps of about this many lines, not slid by one each turn: a cut changes the
prefix of the prompt, and with it everything that the engine has cached for the conversation."""
TEMPLATE_BYTES_PER_MESSAGE = 16
"""Room per message for the chat template's own tokens."""

CountTokens = Callable[[Sequence[ChatMessage]], Awaitable[int]]


def lay_out(system: str, history: Sequence[HistoryEntry], prompt: str) -> list[ChatMessage]:
    """System text, then history, then the prompt: what changes least comes first."""
    messages = [ChatMessage("system", system)] if system else []
    messages += [ChatMessage(line.role, line.text) for line in history if line.text]
    messages.append(ChatMessage("user", prompt))
    return messages


async def fit(
    system: str,
    history: Sequence[HistoryEntry],
    prompt: str,
    *,
    budget: int,
    count_tokens: CountTokens,
) -> list[ChatMessage]:
    """The prompt with as much of the newest history as fits into ``budget`` tokens.

    Raises `PromptTooLong` when it does not fit without any history.
    """
    starts = [0, *_cuts(history), len(history)]
    for start in sorted(set(starts)):
        messages = lay_out(system, history[start:], prompt)
        if _surely_fits(messages, budget) or await count_tokens(messages) <= budget:
            return messages
    raise PromptTooLong(f"the prompt takes more than the {budget} tokens that are left for it")


def _surely_fits(messages: Sequence[ChatMessage], budget: int) -> bool:
    """A token is at least one byte of UTF-8, so that most prompts need not be counted."""
    return budget >= sum(len(m.content.encode()) + TEMPLATE_BYTES_PER_MESSAGE for m in messages)


def _cuts(history: Sequence[HistoryEntry]) -> list[int]:
    """Where the history may begin: places that depend on the lines themselves, not on how many
    lines there are, so that they stay where they are while the conversation grows."""
    return [
        index
        for index, line in enumerate(history)
        if line.role == "user" and zlib.crc32(line.turn.encode()) % (HISTORY_CUT_STEP // 2) == 0
    ]
