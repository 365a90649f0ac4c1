"""HistoryChecker: compares the accepted messages with the ledger and with what clients received."""

import asyncio
from collections import Counter
from collections.abc import Callable

from tests.chaos.findings import Findings
from tests.chaos.stream import TurnMessages, assemble_stream

from palaver.ledger import Ledger
from palaver.messages import Conversation, Finished, Message, merge_messages
from palaver.testing import RecordingSubscriber

UNLIMITED_HISTORY, UNLIMITED_BYTES = 1_000_000, 1_000_000_000
POLL_SECONDS = 0.05


class HistoryChecker:
    """Record of every accepted message, and comparison of a ledger or a client with it.

    ``expected`` returns the reply that a message should have, or None when it is not known. The
    messages of one turn are passed merged into one.
    """

    def __init__(self, expected: Callable[[Message], str | None] = lambda message: None) -> None:
        self._expected = expected
        self._turns: dict[Conversation, TurnMessages] = {}
        self._stopped: set[str] = set()

    def record_accepted(self, message: Message, turn: str) -> None:
        """Record that ``message`` was accepted as ``turn``, as a new one or as a duplicate."""
        turns = self._turns.setdefault(message.conversation, {})
        turns.setdefault(turn, {}).setdefault(message.id, message)

    def record_stopped(self, turn: str) -> None:
        """Record that a stop was requested: a prefix of the expected reply is correct as well."""
        self._stopped.add(turn)

    @property
    def turn_count(self) -> int:
        return sum(map(len, self._turns.values()))

    async def wait_settled(self, ledger: Ledger, *, timeout_seconds: float) -> None:
        """Wait until every accepted turn is closed. Raises `TimeoutError`."""
        async with asyncio.timeout(timeout_seconds):
            for conversation in self._turns:
                while (await ledger.snapshot(conversation, 0)).pending:  # noqa: ASYNC110
                    await asyncio.sleep(POLL_SECONDS)

    async def check(self, ledger: Ledger) -> Findings:
        """Compare the accepted messages with the ledger's streams and histories."""
        findings = Findings()
        for conversation in self._turns:
            stream = await assemble_stream(ledger, conversation, findings)
            turns = stream.with_moves(self._turns[conversation])
            await self._check_history(ledger, conversation, turns, stream.replies, findings)
            for turn, messages in turns.items():
                message = merge_messages(tuple(messages.values()))
                self._check_reply(message, turn, stream.replies, findings)
        return findings

    async def _check_history(
        self,
        ledger: Ledger,
        conversation: Conversation,
        turns: TurnMessages,
        replies: dict[str, str],
        findings: Findings,
    ) -> None:
        entries = (await ledger.snapshot(conversation, UNLIMITED_HISTORY, UNLIMITED_BYTES)).history
        for role in ("user", "assistant"):
            order = [entry.turn for entry in entries if entry.role == role]
            for turn, count in Counter(order).items():
                if count > (len(turns.get(turn, ())) if role == "user" else 1):
                    findings.record(
                        "duplicated", f"{conversation}: {count} {role} entries of {turn}"
                    )
            expected = [turn for turn in turns if turn in order]
            if list(dict.fromkeys(order)) != expected:
                findings.record(
                    "reordered", f"{conversation}: {role} entries {order}, not {expected}"
                )
        for entry in entries:
            if entry.role == "assistant" and entry.text != replies.get(entry.turn):
                findings.record("wrong", f"{conversation}: history has {entry.text[:40]!r}")

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
        """Compare what a client received with the ledger's stream."""
        findings = Findings()
        replies = (await assemble_stream(ledger, conversation, findings)).replies
        for turn, text in replies.items():
            received = recorder.texts.get(turn)
            if received is None:
                findings.record("lost", f"the client has no reply of {turn}")
            elif received != text:
                findings.record("wrong", f"the client has {received[:60]!r} for {text[:60]!r}")
            if len(recorder.events_of(turn, Finished)) > 1:
                findings.record("duplicated", f"the client received the end of {turn} twice")
        return findings
