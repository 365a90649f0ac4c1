"""Visible replies: compares what people see on a chat platform with the ledger.

Each message has a mark of its own, such as ``m17``. Its reply has a mark in every sentence, so that
a text that is missing, shown twice or out of order can be told.
"""

import asyncio
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from tests.chaos.findings import Findings

from palaver import Skill, Turn
from palaver.ledger import HistoryEntry
from palaver.messages import Conversation

WORDS = (
    "Licht río día naïf 雨 夜 😀 ombre lantern quay gull tide harbour fog bell rope mast".split()
)
PIECE_SECONDS = 0.02
LONG_REPLY = 5
"""One of so many replies needs several posts."""
_MARK = re.compile(r"m\d+\.\d+")
_NOT_TEXT = re.compile(r"\s|\u200b|```\w*|\\")
"""What a platform may show in another way: spaces, fences, escapes."""


def reply_to(text: str) -> str:
    """Return the reply to a message, which depends on its text alone: Markdown of one to sixty
    sentences, in paragraphs, with a block of code in a long one."""
    mark = text.split()[0]
    rng = random.Random(text)
    is_long = rng.randrange(LONG_REPLY) == 0
    count = rng.randint(30, 60) if is_long else rng.randint(1, 8)
    sentences = [_sentence(f"{mark}.{number}", rng) for number in range(count)]
    code = slice(count // 3, count // 2) if is_long else slice(0)
    sentences[code] = ["```text\n" + "\n".join(sentences[code]) + "\n```"] if is_long else []
    return "\n\n".join(sentences)


def _sentence(mark: str, rng: random.Random) -> str:
    return f"{mark} " + " ".join(rng.choice(WORDS) for _ in range(rng.randint(4, 16)))


def pieces(reply: str) -> list[str]:
    """Return a reply in up to twelve pieces, as a skill writes it."""
    size = max(40, len(reply) // 12)
    return [reply[start : start + size] for start in range(0, len(reply), size)]


class ReferenceSkill(Skill):
    """Say the reply that the message must have, in pieces; note in ``answered`` what is said."""

    name = "reference"

    def __init__(self, answered: set[str]) -> None:
        super().__init__()
        self._answered = answered

    async def answer(self, turn: Turn) -> None:
        for piece in pieces(reply_to(turn.message.text)):
            await turn.say(piece)
            await asyncio.sleep(PIECE_SECONDS)
        self._answered.add(turn.message.text)


def check_conversation(
    conversation: Conversation,
    asked: Sequence[str],
    history: Sequence[HistoryEntry],
    shown: Sequence[str],
    *,
    is_over: bool = True,
) -> Findings:
    """Return what is wrong with a conversation.

    ``asked`` are the messages that are for the bot, in their order, ``shown`` the texts of the
    bot's messages as people see them. Unless it ``is_over``, the end may be missing.
    """
    findings = Findings()
    replies = [entry.text for entry in history if entry.role == "assistant"]
    check = _Comparison(conversation, findings, is_over=is_over)
    check.compare("messages", asked, [entry.text for entry in history if entry.role == "user"])
    check.check_replies(history)
    marks = [_MARK.findall("\n".join(texts)) for texts in (replies, shown)]
    is_complete = check.compare("sentences", *marks)
    if is_complete and is_over and _text("\n".join(shown)) != _text("\n".join(replies)):
        findings.record("wrong", f"{conversation}: people see another text than the ledger has")
    return findings


class _Comparison:
    """Comparison of what is in a conversation with what has to be in it."""

    def __init__(self, conversation: Conversation, findings: Findings, *, is_over: bool) -> None:
        self._conversation = conversation
        self._findings = findings
        self._is_over = is_over

    def _record(self, kind: str, detail: str) -> None:
        self._findings.record(kind, f"{self._conversation}: {detail}")

    def check_replies(self, history: Sequence[HistoryEntry]) -> None:
        """Compare the ledger's replies with those that the messages must have."""
        texts = {entry.turn: entry.text for entry in history if entry.role == "user"}
        for entry in history:
            if entry.role == "assistant" and entry.text != reply_to(texts[entry.turn]):
                self._record("wrong", f"the ledger has the reply {entry.text[-40:]!r}")

    def compare(self, what: str, expected: Sequence[str], found: Sequence[str]) -> bool:
        """Record what is missing, there twice or in another order; return whether nothing is."""
        known = dict.fromkeys(expected)
        present = dict.fromkeys(each for each in found if each in known)
        if not self._is_over:
            known = dict.fromkeys(self._without_end(list(known), present))
        missing = [each for each in known if each not in present]
        twice = [each for each, count in Counter(found).items() if count > 1]
        unknown = [each for each in found if each not in set(expected)]
        moved = [
            each
            for each, other in zip(
                present, (each for each in known if each in present), strict=True
            )
            if each != other
        ]
        kinds = {"lost": missing, "duplicated": twice, "wrong": unknown, "reordered": moved}
        for kind, names in kinds.items():
            if names:
                self._record(kind, f"{what}: {len(names)}, such as {names[0]!r}")
        return not any(kinds.values())

    def _without_end(self, expected: list[str], present: Mapping[str, None]) -> list[str]:
        """Return what is expected up to the last that is present."""
        while expected and expected[-1] not in present:
            expected.pop()
        return expected


def _text(text: str) -> str:
    return _NOT_TEXT.sub("", text)
