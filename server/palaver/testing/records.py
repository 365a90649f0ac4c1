"""Records of the in-memory ledger."""

from collections.abc import Callable

import msgspec

from palaver.ledger import ConcurrencyPolicies
from palaver.messages import Conversation
from palaver.records import (
    MAX_RECORDS,
    OUTBOX,
    Record,
    check_record,
    first_version,
    outbox_key,
    record_changed,
)


class Records:
    """All records, by channel and key."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._records: dict[tuple[str, str], Record] = {}
        self._woken: set[tuple[str, str]] = set()

    def read(self, channel: str, key: str) -> Record | None:
        return self._records.get((channel, key))

    def write(
        self, channel: str, key: str, value: bytes, expect: int, due_in: float | None
    ) -> Record:
        check_record(key, value)
        self._check(channel, key, expect)
        if not expect and key.startswith(OUTBOX):
            raise record_changed(key)
        due_at = None if due_in is None else self._clock() + due_in
        if due_at is None and (channel, key) in self._woken:
            due_at = self._clock()
            self._woken.discard((channel, key))
        version = expect + 1 if expect else first_version()
        record = Record(key=key, value=value, version=version, due_at=due_at)
        self._records[channel, key] = record
        return record

    def claim(self, channel: str, lease: float) -> Record | None:
        now = self._clock()
        due = [
            (record.due_at, record)
            for (owner, _), record in self._records.items()
            if owner == channel and record.due_at is not None and record.due_at <= now
        ]
        if not due:
            return None
        _, record = min(due, key=lambda item: (item[0], item[1].key))
        claimed = msgspec.structs.replace(record, version=record.version + 1, due_at=now + lease)
        self._records[channel, record.key] = claimed
        self._woken.discard((channel, record.key))
        return claimed

    def delete(self, channel: str, key: str, expect: int) -> None:
        self._check(channel, key, expect)
        self._remove(channel, key)

    def list(self, channel: str, prefix: str, after: str) -> tuple[Record, ...]:
        keys = sorted(
            key
            for owner, key in self._records
            if owner == channel and key.startswith(prefix) and key > after
        )
        return tuple(self._records[channel, key] for key in keys[:MAX_RECORDS])

    def message_accepted(self, conversation: Conversation, policies: ConcurrencyPolicies) -> None:
        """Make the outbox of the conversation due, unless a process works on it."""
        if not policies.outbox:
            return
        place = conversation.channel, outbox_key(conversation)
        record = self._records.get(place)
        if record is None:
            version = first_version()
            record = Record(key=place[1], value=b"", version=version, due_at=self._clock())
        elif record.due_at is None:
            record = msgspec.structs.replace(
                record, version=record.version + 1, due_at=self._clock()
            )
        else:
            self._woken.add(place)
        self._records[place] = record

    def forget(self, conversation: Conversation) -> None:
        """Delete the outbox of a conversation that is deleted."""
        self._remove(conversation.channel, outbox_key(conversation))

    def _check(self, channel: str, key: str, expect: int) -> None:
        record = self._records.get((channel, key))
        if (record.version if record else 0) != expect:
            raise record_changed(key)

    def _remove(self, channel: str, key: str) -> None:
        self._records.pop((channel, key), None)
        self._woken.discard((channel, key))
