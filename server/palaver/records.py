"""Records: durable state that a channel keeps in the ledger: outboxes, installations, leases.

A record has a version, and a write names the one that it replaces: of two processes that change a
record, one gets `Conflict`. A record may be due at some time; `RecordStore.claim_record` returns
the oldest one that is due and postpones it, so that one process at a time works on it, and another
one does when that process dies.

The **outbox** of a conversation is the record in which a channel notes what it has posted. A
message that is accepted with ``outbox`` wakes it in the same step, so that no reply is forgotten.
"""

import re
import secrets
from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from palaver.errors import Conflict, InvalidInput, TooLarge
from palaver.messages import Conversation

MAX_RECORD_BYTES = 262_144
"""Bytes of a record's value."""
MAX_RECORDS = 100
"""Records in one part of a list."""
_KEY = re.compile(r"[\w.:/@-]{1,700}", re.ASCII)
OUTBOX = "outbox:"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Record of a channel. ``version`` grows by 1 with every change, from `first_version`;
    ``due_at`` is in seconds since the epoch, None while nobody has to work on it."""

    key: str
    value: bytes
    version: int
    due_at: float | None = None


def first_version() -> int:
    """Return the version of a new record. It is random: a process that still knows a deleted record
    must not change the next one with the same key."""
    return secrets.randbelow(1 << 40) + 1


def outbox_key(conversation: Conversation) -> str:
    """Return the key of a conversation's outbox."""
    return f"{OUTBOX}{conversation}"


def outbox_conversation(key: str) -> Conversation:
    """Return the conversation of an outbox. Raises `InvalidInput` for another record."""
    if not key.startswith(OUTBOX):
        raise InvalidInput(f"the record {key[:60]!r} is no outbox")
    return Conversation.parse(key.removeprefix(OUTBOX))


def check_record(key: str, value: bytes) -> None:
    """Refuse a record that cannot be stored. Raises `InvalidInput` and `TooLarge`."""
    if not key.startswith(OUTBOX) and not _KEY.fullmatch(key):
        raise InvalidInput(
            f"the key of a record {key[:60]!r} is not usable: 1 to 700 letters, digits and "
            "one of _ . : / @ -"
        )
    if len(value) > MAX_RECORD_BYTES:
        raise TooLarge(f"the record {key[:60]!r} is larger than {MAX_RECORD_BYTES} bytes")


def record_changed(key: str) -> Conflict:
    return Conflict(f"another process has changed the record {key[:60]!r}, or it is deleted")


class RecordStore(Protocol):
    """Records of channels. Every method is one atomic, durable step."""

    async def read_record(self, channel: str, key: str) -> Record | None:
        """Return a record, None when there is none."""

    async def write_record(
        self, channel: str, key: str, value: bytes, *, expect: int, due_in: float | None = None
    ) -> Record:
        """Store a record whose version is ``expect``, 0 for a new one, due in that many seconds.

        One that was woken since it was claimed is due at once if ``due_in`` is None, as the process
        may not have seen why. Raises `Conflict` when the version is another one, or the
        conversation of the outbox is deleted; `InvalidInput` and `TooLarge`, see `check_record`.
        """

    async def claim_record(self, channel: str, lease: float) -> Record | None:
        """Return the record that has been due for the longest time, and make it due again in
        ``lease`` seconds; None when none is due. Write it with ``due_in`` to keep it for longer."""

    async def delete_record(self, channel: str, key: str, *, expect: int) -> None:
        """Delete a record whose version is ``expect``. Raises `Conflict`."""

    async def list_records(
        self, channel: str, prefix: str = "", *, after: str = ""
    ) -> tuple[Record, ...]:
        """Return up to `MAX_RECORDS` records whose key begins with ``prefix`` and comes after
        ``after``, in the order of their keys."""


async def all_records(records: RecordStore, channel: str, prefix: str) -> AsyncIterator[Record]:
    """Yield every record whose key begins with ``prefix``, in the order of their keys."""
    after = ""
    while True:
        part = await records.list_records(channel, prefix, after=after)
        for record in part:
            yield record
        if len(part) < MAX_RECORDS:
            return
        after = part[-1].key
