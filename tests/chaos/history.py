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
    merge_messages,
)
from palaver.testing.recorder import RecordingSubscriber

EVERYTHING = 1_000_000
EXAMPLES = 20
KINDS = ("lost", "duplicated", "reordered", "gaps", "wrong")


@dataclass(slots=True)
class Findings:
    """Counts of what must not be; ``examples`` has a line for each of the first few.

    ``lost``: an accepted message without a reply. ``doubled``: recorded, answered or closed twice.
    ``reordered``: replies in another order than their messages. ``gapped``: offsets or text
    positions that do not continue. ``wrong``: a text that is not what it should be.
    """

    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    gaps: int = 0
    wrong: int = 0
    examples: list[str] = field(default_factory=list)

    def record(self, kind: str, what: str) -> None:
        setattr(self, kind, getattr(self, kind) + 1)
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{kind}: {what}")

    def merge(self, other: "Findings") -> None:
        """Count what ``other`` has counted, too."""
        for kind in KINDS:
            setattr(self, kind, getattr(self, kind) + getattr(other, kind))
        self.examples = [*self.examples, *other.examples][:EXAMPLES]

    @property
    def is_clean(self) -> bool:
        return not any(getattr(self, kind) for kind in KINDS)


class HistoryChecker:
    """Told of every message that was accepted, it finds what a ledger or a reader got wrong.

    ``expected`` gives the reply that a message should have, or None when it cannot be known. The
    messages of one turn are asked for as one.
    """

    def __init__(self, expected: Callable[[Message], str | None] = lambda message: None) -> None:
        self._expected = expected
        self._turns: dict[Conversation, dict[str, dict[str, Message]]] = {}
        self._stopped: set[str] = set()

    def record_accepted(self, message: Message, turn: str) -> None:
        """A message was accepted as ``turn``, for the first time or as a duplicate."""
        turns = self._turns.setdefault(message.conversation, {})
        turns.setdefault(turn, {}).setdefault(message.id, message)

    def record_stopped(self, turn: str) -> None:
        """A stop was asked for: the beginning of the reply is right as well."""
        self._stopped.add(turn)

    @property
    def turn_count(self) -> int:
        return sum(map(len, self._turns.values()))

    async def wait_settled(self, ledger: Ledger, *, timeout_seconds: float) -> None:
        """Wait until every accepted turn is closed; `TimeoutError` after ``within`` seconds."""
        async with asyncio.timeout(timeout_seconds):
            for conversation in self._turns:
                while (await ledger.snapshot(conversation, 0)).pending:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)

    async def check(self, ledger: Ledger) -> Findings:
        """Compare with the ledger's streams and histories."""
        findings = Findings()
        for conversation in self._turns:
            replay = await self._replay(ledger, conversation, findings)
            turns = replay.follow(self._turns[conversation])
            await self._check_history(ledger, conversation, turns, replay.closed, findings)
            for turn, messages in turns.items():
                self._check_reply(
                    merge_messages(tuple(messages.values())), turn, replay.closed, findings
                )
        return findings

    async def _replay(
        self, ledger: Ledger, conversation: Conversation, findings: Findings
    ) -> "_Replay":
        """Replay the whole stream."""
        replay = _Replay(str(conversation), findings)
        offset = 0
        while True:
            page = await ledger.read(conversation, offset, 1000)
            for item in page.events:
                if item.offset != offset + 1:
                    findings.record("gaps", f"{conversation}: {item.offset} after {offset}")
                offset = item.offset
                replay.take(item.event)
            if offset >= page.last or not page.events:
                return replay

    async def _check_history(
        self,
        ledger: Ledger,
        conversation: Conversation,
        turns: dict[str, dict[str, Message]],
        replies: dict[str, str],
        findings: Findings,
    ) -> None:
        lines = (await ledger.snapshot(conversation, EVERYTHING)).history
        for role in ("user", "assistant"):
            order = [line.turn for line in lines if line.role == role]
            for turn, count in Counter(order).items():
                if count > (len(turns.get(turn, ())) if role == "user" else 1):
                    findings.record("duplicated", f"{conversation}: {count} {role} lines of {turn}")
            wanted = [turn for turn in turns if turn in order]
            if list(dict.fromkeys(order)) != wanted:
                findings.record("reordered", f"{conversation}: {role} lines {order} for {wanted}")
        for line in lines:
            if line.role == "assistant" and line.text != replies.get(line.turn):
                findings.record("wrong", f"{conversation}: history has {line.text[:40]!r}")

    def _check_reply(
        self, message: Message, turn: str, replies: dict[str, str], findings: Findings
    ) -> None:
        if turn not in replies:
            findings.record("lost", f"{message.conversation}: {turn} has no reply")
            return
        expected = self._expected(message)
        if expected is None or replies[turn] == expected:
            return
        if not (turn in self._stopped and expected.startswith(replies[turn])):
            findings.record("wrong", f"{turn}: {replies[turn][:60]!r} is not {expected[:60]!r}")

    async def check_recorder(
        self, ledger: Ledger, conversation: Conversation, recorder: RecordingSubscriber
    ) -> Findings:
        """Compare what a reader shows with the ledger."""
        findings = Findings()
        replies = (await self._replay(ledger, conversation, findings)).closed
        for turn, text in replies.items():
            shown = recorder.texts.get(turn)
            if shown is None:
                findings.record("lost", f"the reader misses {turn}")
            elif shown != text:
                findings.record("wrong", f"the reader has {shown[:60]!r} for {text[:60]!r}")
            if len(recorder.events_of(turn, Finished)) > 1:
                findings.record("duplicated", f"the reader saw the end of {turn} twice")
        return findings


class _Replay:
    """Puts the texts of a stream together as a reader would."""

    def __init__(self, label: str, findings: Findings) -> None:
        self.closed: dict[str, str] = {}
        self._label = label
        self._findings = findings
        self._texts: dict[str, str] = {}
        self._messages: dict[str, str] = {}
        self._moved: list[tuple[str, str, str]] = []

    def take(self, event: Event) -> None:
        if isinstance(event, Received):
            self._take_message(event)
        elif isinstance(event, Text):
            self._take_text(event)
        elif isinstance(event, TextReset):
            self._texts[event.turn] = self._texts.get(event.turn, "")[: event.position]
        elif isinstance(event, Started):
            if event.position != len(self._texts.get(event.turn, "")):
                self._findings.record("gaps", f"{self._label}: {event}")
        elif isinstance(event, Finished):
            self._close(event)

    def _take_message(self, event: Received) -> None:
        before = self._messages.get(event.id)
        if event.moved and before is not None:
            self._moved.append((event.id, before, event.turn))
        elif before is not None:
            self._findings.record("duplicated", f"{self._label}: message {event.id} recorded twice")
        self._messages[event.id] = event.turn

    def follow(self, turns: dict[str, dict[str, Message]]) -> dict[str, dict[str, Message]]:
        """The messages of each turn, in the order of the turns, after all that moved did so: each
        from the turn that was told of it to the one after that."""
        followed = {turn: dict(messages) for turn, messages in turns.items()}
        for message, before, after in self._moved:
            followed = _place(followed, after, before)
            for turn, messages in followed.items():
                if turn != after and message in messages:
                    followed[after][message] = messages.pop(message)
        return {turn: messages for turn, messages in followed.items() if messages}

    def _take_text(self, event: Text) -> None:
        text = self._texts.get(event.turn, "")
        if event.position != len(text):
            kind = "duplicated" if event.position < len(text) else "gaps"
            self._findings.record(kind, f"{self._label}: {event} after {len(text)} characters")
        self._texts[event.turn] = text[: event.position] + event.text

    def _close(self, event: Finished) -> None:
        text = self._texts.get(event.turn, "")
        if event.turn in self.closed:
            self._findings.record("duplicated", f"{self._label}: {event.turn} closed twice")
        if event.length != len(text):
            self._findings.record("wrong", f"{self._label}: {event} for {len(text)} characters")
        self.closed[event.turn] = text


def _place(
    turns: dict[str, dict[str, Message]], turn: str, after: str
) -> dict[str, dict[str, Message]]:
    """``turns`` with one of them, which may be new, behind another."""
    moved = turns.get(turn, {})
    placed: dict[str, dict[str, Message]] = {}
    for each, messages in turns.items():
        if each != turn:
            placed[each] = messages
        if each == after:
            placed[turn] = moved
    return placed if turn in placed else {**placed, turn: moved}
