"""ExpectedStream: a conversation as the ledger has it, with which clients are compared."""

import difflib
from collections import Counter
from dataclasses import dataclass, field

from tests.chaos.findings import Findings
from tests.proofs.protocol_clients import ProtocolClient

from palaver.ledger import Ledger
from palaver.messages import Conversation, Event, Received, StoredEvent, Text, encode

PAGE = 1_000


def conversation_of(thread: str) -> Conversation:
    return Conversation("default", "web", thread)


@dataclass
class ExpectedStream:
    """Texts by turn, and the other events, encoded."""

    texts: dict[str, str] = field(default_factory=dict)
    events: Counter[bytes] = field(default_factory=Counter)

    @classmethod
    async def read(cls, ledger: Ledger, thread: str, findings: Findings) -> "ExpectedStream":
        """Read a conversation; messages that were stored twice go to ``findings``."""
        stream, messages = cls(), Counter[str]()
        stored: list[StoredEvent] = []
        while True:
            page = await ledger.read(conversation_of(thread), len(stored), PAGE)
            stored += page.events
            if len(stored) >= page.last:
                break
        for item in stored:
            stream._add(item.event)
            if isinstance(item.event, Received):
                messages[item.event.text] += 1
        for text, count in messages.items():
            if count > 1:
                findings.record("duplicated", f"message {text!r} was stored {count} times")
        return stream

    def _add(self, event: Event) -> None:
        if isinstance(event, Text):
            self.texts[event.turn] = self.texts.get(event.turn, "") + event.text
        else:
            self.texts.setdefault(event.turn, "")
            self.events[encode(event)] += 1

    def compare(self, client: ProtocolClient, findings: Findings) -> int:
        """Compare a client with this stream; return how many bytes of text it should have."""
        for error in client.protocol_errors:
            findings.record("gaps", f"{client.thread}: {error}")
        if client.snapshot_count:
            findings.record("gaps", f"{client.thread}: snapshots, though no event was lost")
        for turn, text in self.texts.items():
            received = client.recorder.texts.get(turn, "")
            compare_text(text, received, f"reply of {turn}", findings)
        if client.has_every_event:
            self._compare_events(client, findings)
        return sum(len(text.encode()) for text in self.texts.values())

    def _compare_events(self, client: ProtocolClient, findings: Findings) -> None:
        received = Counter(
            encode(event) for events in client.recorder.events.values() for event in events
        )
        for kind, events in (
            ("lost", self.events - received),
            ("duplicated", received - self.events),
        ):
            for event in events:
                findings.record(kind, f"{client.thread}: {event[:80]!r}")


def compare_text(expected: str, received: str, label: str, findings: Findings) -> None:
    """Count the bytes of ``expected`` that are missing in ``received``, and those too many."""
    if expected == received:
        return
    matcher = difflib.SequenceMatcher(None, expected, received, autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind != "equal":
            findings.lost += len(expected[a:b].encode())
            findings.duplicated += len(received[c:d].encode())
    findings.examples.append(f"{label}: {received[:60]!r} for {expected[:60]!r}")
