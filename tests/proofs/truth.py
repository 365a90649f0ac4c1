"""What the ledger has, to hold against what readers show."""

import difflib
from collections import Counter
from dataclasses import dataclass, field

from tests.chaos.history import Findings
from tests.proofs.readers import Reader

from palaver.ledger import Ledger
from palaver.messages import Conversation, Event, Received, StoredEvent, Text, encode


def conversation_of(thread: str) -> Conversation:
    return Conversation("default", "web", thread)


@dataclass
class Truth:
    """A conversation as the ledger has it: texts by turn, and the other events."""

    texts: dict[str, str] = field(default_factory=dict)
    events: Counter[bytes] = field(default_factory=Counter)

    @classmethod
    async def of(cls, ledger: Ledger, thread: str, findings: Findings) -> "Truth":
        truth, messages = cls(), Counter[str]()
        recorded: list[StoredEvent] = []
        while True:
            page = await ledger.read(conversation_of(thread), len(recorded), 1_000)
            recorded += page.events
            if len(recorded) >= page.last:
                break
        for item in recorded:
            truth._take(item.event)
            if isinstance(item.event, Received):
                messages[item.event.text] += 1
        for text, count in messages.items():
            if count > 1:
                findings.record("duplicated", f"message {text!r} was stored {count} times")
        return truth

    def _take(self, event: Event) -> None:
        if isinstance(event, Text):
            self.texts[event.turn] = self.texts.get(event.turn, "") + event.text
        else:
            self.texts.setdefault(event.turn, "")
            self.events[encode(event)] += 1

    def compare(self, reader: Reader, findings: Findings) -> int:
        """Count what the reader lacks or has twice; returns how many bytes it should show."""
        for fault in reader.faults:
            findings.record("gaps", f"{reader.thread}: {fault}")
        if reader.snapshots:
            findings.record("gaps", f"{reader.thread}: snapshots, though everything is held")
        for turn, text in self.texts.items():
            compare_text(text, reader.recorder.texts.get(turn, ""), f"reply of {turn}", findings)
        if reader.whole:
            shown = Counter(encode(e) for seen in reader.recorder.events.values() for e in seen)
            for kind, events in (("lost", self.events - shown), ("duplicated", shown - self.events)):
                for event in events:
                    findings.record(kind, f"{reader.thread}: {event[:80]!r}")
        return sum(len(text.encode()) for text in self.texts.values())


def compare_text(text: str, shown: str, what: str, findings: Findings) -> None:
    """Count the bytes of ``text`` that are not shown, and those that are shown beyond it."""
    if text == shown:
        return
    matcher = difflib.SequenceMatcher(None, text, shown, autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind != "equal":
            findings.lost += len(text[a:b].encode())
            findings.duplicated += len(shown[c:d].encode())
    findings.examples.append(f"{what}: {shown[:60]!r} for {text[:60]!r}")
