"""Token budgets: how much text fits into the engine's context window."""

from palaver import Turn, run_on_text
from palaver_skills.text_splitting import split_to_size

TEMPLATE = 16
"""Tokens that a chat template may add around the messages."""


def limit_reply_tokens(turn: Turn, wanted: int) -> int:
    """Return ``wanted``, but at most half of the context window."""
    return min(wanted, turn.engine.context_window // 2)


async def count_prompt_room(turn: Turn, system: str, reply: int) -> int:
    """Return the tokens left for the prompt beside ``system`` and a reply of ``reply`` tokens."""
    return turn.engine.context_window - reply - await turn.count_tokens(system) - TEMPLATE


async def split_to_tokens(turn: Turn, text: str, limit: int) -> list[str]:
    """Split ``text`` into parts of at most ``limit`` tokens, at paragraphs, sentences or words."""
    if _certainly_fits(text, limit):
        return [text]
    tokens = await turn.count_tokens(text)
    if tokens <= limit:
        return [text]
    found: list[str] = []
    bytes_per_token = len(text.encode()) / tokens
    size = max(4.0, 0.9 * limit * bytes_per_token)
    for part in await run_on_text(split_to_size, text, _count_bytes, size):
        found += await _split_again(turn, part, limit)
    return found


async def _split_again(turn: Turn, part: str, limit: int) -> list[str]:
    """Split a part again that has more tokens per byte than the text on average."""
    while not _certainly_fits(part, limit) and await turn.count_tokens(part) > limit:
        smaller = await run_on_text(split_to_size, part, _count_bytes, len(part.encode()) / 2)
        if len(smaller) < 2:
            break
        return [cut for half in smaller for cut in await _split_again(turn, half, limit)]
    return [part]


def _certainly_fits(text: str, limit: int) -> bool:
    """Return True for most short texts without counting: a token is at least one byte."""
    return len(text.encode()) + TEMPLATE <= limit


def _count_bytes(text: str) -> float:
    return len(text.encode())
