"""Follow-up questions: what they mean without the conversation before them."""

import re
from typing import Any

from palaver import HistoryEntry, Sampling, Turn, is_unspaced

REWRITE = (
    "Rewrite the last question so that it can be understood without the conversation: put in what "
    "it refers to, change nothing else, and keep its language. If it needs nothing of the "
    "conversation, repeat it. Write the question and nothing else."
)
_WORD = re.compile(r"[^\W_]+")
_FEW_WORDS, _FEW_CHARACTERS = 4, 10
"""A question of so few words, or characters of a script without spaces, may lack its subject."""
_REFERENCE = re.compile(
    r"\b(?:it|its|that|this|those|these|they|them|their|theirs|he|him|his|she|her|hers|there|ones?"
    r"|sie|ihn|ihm|ihr|ihnen|dies\w{0,2}|jene\w?|dort|damit|davon|dafür|dazu"
    r"|elles?|ils|lui|leurs?|ça|cela|celui|celle|ceux|ell[ao]s?|es[oa]s?|est[oa]s?|allí)\b"
    r"|[它这這那他她们們]",
    re.IGNORECASE,
)
"""Words that refer to something that was said."""
_MOST_CHARACTERS = 120
"""A longer question says by itself what it is about."""
_EXCHANGES = 2
"""Questions before the last one that are shown, with their replies."""
_SHOWN_CHARACTERS = 400
"""Characters of each of their texts."""
_LONGEST, _TOKENS = 300, 96
"""Characters and tokens of the longest question that is written."""


async def rewrite_follow_up(turn: Turn[Any], question: str) -> str:
    """Return a question that follows a reply of the same skill with what it refers to; empty for a
    question that refers to nothing, and where the engine writes none."""
    if _own_reply(turn) is None:
        return ""
    if turn.engine.demonstration or not _needs_context(question):
        return ""
    before = "\n".join(
        f"{'Person' if entry.role == 'user' else 'Assistant'}: {entry.text[:_SHOWN_CHARACTERS]}"
        for entry in turn.history[-2 * _EXCHANGES :]
    )
    written = await turn.generate(
        f"{before}\n\nLast question: {question}",
        system=REWRITE,
        sampling=Sampling(max_tokens=_TOKENS, temperature=0.0),
    )
    rewritten = written.strip().removeprefix("Last question:").strip()
    return rewritten if len(rewritten) <= _LONGEST and "\n" not in rewritten else ""


def add_last_question(turn: Turn[Any], question: str) -> str:
    """Return a search query: a short question with the one before it ("and on Sundays?")."""
    last = _own_reply(turn)
    if last is None or not question.isascii() or len(_WORD.findall(question)) > _FEW_WORDS:
        return question
    asked = next((x.text for x in turn.history if x.turn == last.turn and x.role == "user"), "")
    return f"{asked}\n{question}".strip()


def _own_reply(turn: Turn[Any]) -> HistoryEntry | None:
    """Return the last reply, if it is of the same skill."""
    last = turn.history[-1] if turn.history else None
    is_own = last is not None and last.role == "assistant" and last.skill == turn.skill
    return last if is_own else None


def _needs_context(question: str) -> bool:
    if len(question) > _MOST_CHARACTERS:
        return False
    if any(map(is_unspaced, question)):
        is_short = len(question) <= _FEW_CHARACTERS
    else:
        is_short = len(_WORD.findall(question)) <= _FEW_WORDS
    return is_short or _REFERENCE.search(question) is not None
