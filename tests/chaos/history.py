"""HistoryChecker: compares the accepted messages with the ledger and with what clients received."""

import asyncio
from collections import Counter
from collections.abc import Callable

from tests.chaos.findings import Findings
from tests.chaos.stream import TurnMessages, assemble_stream
from tests.plugins.ledgers.reference_model import Branches

from palaver.errors import NotFound
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
        self._branches: dict[Conversation, Branches] = {}

    def record_accepted(self, message: Message, turn: str) -> None:
        """Record that ``message`` was accepted as ``turn``, as a new one or as a duplicate."""
        turns = self._turns.setdefault(message.conversation, {})
        turns.setdefault(turn, {}).setdefault(message.id, message)

    def branches_of(self, conversation: Conversation) -> Branches:
        """Return the branches of a conversation, which has some from now on. The caller changes
        them as the ledger acknowledges."""
        return self._branches.setdefault(conversation, Branches())

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
        for conversation, branches in self._branches.items():
            await self._check_branches(ledger, conversation, branches, findings)
        for conversation in self._turns.keys() - self._branches.keys():
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

    async def _check_branches(
        self, ledger: Ledger, conversation: Conversation, branches: Branches, findings: Findings
    ) -> None:
        """Compare the history and the alternatives; select each superseded one in turn."""
        turns = self._turns.get(conversation, {})
        known = {turn for line in (branches.path, *branches.lines) for turn in line}
        if accepted_twice := turns.keys() - known:
            findings.record("duplicated", f"{conversation}: {accepted_twice} beside the others")
        for turn in branches.path[-1:] + [line[0] for line in branches.lines]:
            if turn not in branches.path:
                try:
                    await ledger.select(conversation, turn)
                except NotFound:
                    findings.record("lost", f"{conversation}: the alternative {turn}")
                    continue
                branches.select(turn)
            snapshot = await ledger.snapshot(conversation, UNLIMITED_HISTORY, UNLIMITED_BYTES)
            replies = {e.turn: e.text for e in snapshot.history if e.role == "assistant"}
            order = [entry.turn for entry in snapshot.history if entry.role == "user"]
            if order != branches.path or list(replies) != branches.path:
                findings.record("reordered", f"{conversation}: {order}, not {branches.path}")
            groups = branches.groups(list(turns))
            if sorted(map(sorted, snapshot.alternatives)) != sorted(map(sorted, groups)):
                findings.record("wrong", f"{conversation}: alternatives {snapshot.alternatives}")
            for each in branches.path:
                (message,) = turns[each].values()
                self._check_reply(message, each, replies, findings)

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
