"""The history checker: holds what was accepted against what the ledger and the readers have."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from palaver.ledger import Ledger
from palaver.messages import (
    Conversation,
    Event,
    Finished,
    Message,
    Received,
    Started,
    Text,
    TextReset,
)
from palaver.testing.screen import Screen

EVERYTHING = 1_000_000
EXAMPLES = 20
KINDS = ("lost", "doubled", "reordered", "gapped", "wrong")


@dataclass(slots=True)
class Findings:
    """Counts of what must not be; ``examples`` has a line for each of the first few.

    ``lost``: an accepted message without a reply. ``doubled``: recorded, answered or closed twice.
    ``reordered``: replies in another order than their messages. ``gapped``: offsets or text
    positions that do not continue. ``wrong``: a text that is not what it should be.
    """

    lost: int = 0
    doubled: int = 0
    reordered: int = 0
    gapped: int = 0
    wrong: int = 0
    examples: list[str] = field(default_factory=list)

    def note(self, kind: str, what: str) -> None:
        setattr(self, kind, getattr(self, kind) + 1)
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{kind}: {what}")

    def add(self, other: "Findings") -> None:
        """Count what ``other`` has counted, too."""
        for kind in KINDS:
            setattr(self, kind, getattr(self, kind) + getattr(other, kind))
        self.examples = [*self.examples, *other.examples][:EXAMPLES]

    @property
    def clean(self) -> bool:
        return not any(getattr(self, kind) for kind in KINDS)


class HistoryChecker:
    """Told of every message that was accepted, it finds what a ledger or a reader got wrong.

    ``expected`` gives the reply that a message should have, or None when it cannot be known.
    """

    def __init__(self, expected: Callable[[Message], str | None] = lambda message: None) -> None:
        self._expected = expected
        self._turns: dict[Conversation, dict[str, Message]] = {}
        self._stopped: set[str] = set()

    def accepted(self, message: Message, turn: str) -> None:
        """A message was accepted as ``turn``, for the first time or as a duplicate."""
        self._turns.setdefault(message.conversation, {}).setdefault(turn, message)

    def stopped(self, turn: str) -> None:
        """A stop was asked for: the beginning of the reply is right as well."""
        self._stopped.add(turn)

    @property
    def turns(self) -> int:
        return sum(map(len, self._turns.values()))

    async def settled(self, ledger: Ledger, *, within: float) -> None:
        """Wait until every accepted turn is closed; `TimeoutError` after ``within`` seconds."""
        async with asyncio.timeout(within):
            for conversation in self._turns:
                while (await ledger.snapshot(conversation, 0)).pending:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)

    async def check(self, ledger: Ledger) -> Findings:
        """Compare with the ledger's streams and histories."""
        findings = Findings()
        for conversation, turns in self._turns.items():
            replies = await self._check_stream(ledger, conversation, findings)
            await self._check_history(ledger, conversation, replies, findings)
            for turn, message in turns.items():
                self._check_reply(message, turn, replies, findings)
        return findings

    async def _check_stream(
        self, ledger: Ledger, conversation: Conversation, findings: Findings
    ) -> dict[str, str]:
        """Replay the stream; returns the text of each closed turn."""
        replay = _Replay(str(conversation), findings)
        offset = 0
        while True:
            page = await ledger.read(conversation, offset, 1000)
            for item in page.events:
                if item.offset != offset + 1:
                    findings.note("gapped", f"{conversation}: {item.offset} after {offset}")
                offset = item.offset
                replay.take(item.event)
            if offset >= page.last or not page.events:
                return replay.closed

    async def _check_history(
        self,
        ledger: Ledger,
        conversation: Conversation,
        replies: dict[str, str],
        findings: Findings,
    ) -> None:
        lines = (await ledger.snapshot(conversation, EVERYTHING)).history
        for role in ("user", "assistant"):
            order = [line.turn for line in lines if line.role == role]
            for turn, count in Counter(order).items():
                if count > 1:
                    findings.note("doubled", f"{conversation}: {count} {role} lines of {turn}")
            wanted = [turn for turn in self._turns[conversation] if turn in order]
            if list(dict.fromkeys(order)) != wanted:
                findings.note("reordered", f"{conversation}: {role} lines {order} for {wanted}")
        for line in lines:
            if line.role == "assistant" and line.text != replies.get(line.turn):
                findings.note("wrong", f"{conversation}: history has {line.text[:40]!r}")

    def _check_reply(
        self, message: Message, turn: str, replies: dict[str, str], findings: Findings
    ) -> None:
        if turn not in replies:
            findings.note("lost", f"{message.conversation}: {turn} has no reply")
            return
        expected = self._expected(message)
        if expected is None or replies[turn] == expected:
            return
        if not (turn in self._stopped and expected.startswith(replies[turn])):
            findings.note("wrong", f"{turn}: {replies[turn][:60]!r} is not {expected[:60]!r}")

    async def check_screen(
        self, ledger: Ledger, conversation: Conversation, screen: Screen
    ) -> Findings:
        """Compare what a reader shows with the ledger."""
        findings = Findings()
        replies = await self._check_stream(ledger, conversation, findings)
        for turn, text in replies.items():
            shown = screen.texts.get(turn)
            if shown is None:
                findings.note("lost", f"the reader misses {turn}")
            elif shown != text:
                findings.note("wrong", f"the reader has {shown[:60]!r} for {text[:60]!r}")
            if len(screen.of(turn, Finished)) > 1:
                findings.note("doubled", f"the reader saw the end of {turn} twice")
        return findings


class _Replay:
    """Puts the texts of a stream together as a reader would."""

    def __init__(self, label: str, findings: Findings) -> None:
        self.closed: dict[str, str] = {}
        self._label = label
        self._findings = findings
        self._texts: dict[str, str] = {}
        self._messages: set[str] = set()

    def take(self, event: Event) -> None:
        if isinstance(event, Received):
            if event.id in self._messages:
                self._findings.note("doubled", f"{self._label}: message {event.id} recorded twice")
            self._messages.add(event.id)
        elif isinstance(event, Text):
            self._take_text(event)
        elif isinstance(event, TextReset):
            self._texts[event.turn] = self._texts.get(event.turn, "")[: event.position]
        elif isinstance(event, Started):
            if event.position != len(self._texts.get(event.turn, "")):
                self._findings.note("gapped", f"{self._label}: {event}")
        elif isinstance(event, Finished):
            self._close(event)

    def _take_text(self, event: Text) -> None:
        text = self._texts.get(event.turn, "")
        if event.position != len(text):
            kind = "doubled" if event.position < len(text) else "gapped"
            self._findings.note(kind, f"{self._label}: {event} after {len(text)} characters")
        self._texts[event.turn] = text[: event.position] + event.text

    def _close(self, event: Finished) -> None:
        text = self._texts.get(event.turn, "")
        if event.turn in self.closed:
            self._findings.note("doubled", f"{self._label}: {event.turn} closed twice")
        if event.length != len(text):
            self._findings.note("wrong", f"{self._label}: {event} for {len(text)} characters")
        self.closed[event.turn] = text
