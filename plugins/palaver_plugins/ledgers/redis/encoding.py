"""Arguments of the scripts, and the errors that their error replies stand for."""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from palaver import (
    CUT_MARK,
    DEAD_LETTER_REPLY,
    Claim,
    ConcurrencyPolicies,
    Conflict,
    Fenced,
    Finished,
    Forbidden,
    InboxMessage,
    IndexConflict,
    LedgerError,
    LedgerUnavailable,
    LogEntry,
    MemoryWrite,
    Message,
    NotFound,
    PalaverError,
    PendingQuestion,
    Routed,
    Step,
    StorageQuota,
    Text,
    TextReset,
    TooMany,
    encode,
    first_version,
    message_parts,
    not_in_history,
    not_settled,
    received_event,
    storage_exceeded,
    too_many_alternatives,
)

Packed = tuple[str | int | None, ...]

_msgpack = msgspec.msgpack.Encoder()


def pack_entries(entries: Sequence[LogEntry]) -> bytes:
    """Encode entries for ``entries.lua``: their JSON, and the fields that the script reads."""
    return _msgpack.encode([_packed(entry) for entry in entries])


def _packed(entry: LogEntry) -> Packed:
    body = encode(entry).decode()  # Redis unpacks no binary type
    if isinstance(entry, Text):
        return "t", body, entry.position, len(entry.text), entry.text
    if isinstance(entry, TextReset):
        return "r", body, entry.position
    if isinstance(entry, Step):
        return "s", body, entry.number
    if isinstance(entry, Routed):
        return "k", body, entry.skill
    if isinstance(entry, MemoryWrite):
        return "m", "", entry.person, entry.key, entry.value
    return "e", body


def pack_policies(policies: ConcurrencyPolicies) -> bytes:
    """Encode policies for ``concurrency.lua``, with milliseconds."""
    return _msgpack.encode(
        {
            "default": policies.default,
            "skills": policies.skills,
            "merge_window": round(policies.merge_window * 1000),
            "start_delay": round(policies.start_delay * 1000),
            "inbox_limit": policies.inbox_limit,
            "members_only": policies.members_only,
            "inbox_bytes": policies.inbox_bytes,
            "person_storage": _pack_quota(policies.person_storage),
            "tenant_storage": _pack_quota(policies.tenant_storage),
            "outbox": policies.outbox and first_version(),
            "retention": -1 if policies.retention is None else round(policies.retention * 1000),
        }
    )


def _pack_quota(quota: StorageQuota) -> tuple[int, int]:
    return (
        -1 if quota.bytes is None else quota.bytes,
        -1 if quota.conversations is None else quota.conversations,
    )


def received_event_suffix(message: Message) -> bytes:
    """Return the part of a message's event between the turn and the value of ``moved``."""
    event = encode(received_event("", InboxMessage(0.0, message)))
    start, end = b'{"type":"message","turn":"', b'false,"ahead":0,"at":0.0}'
    return event.removeprefix(start).removesuffix(end)


def encode_parts(parts: Mapping[str, object]) -> str:
    """Return fields of a history entry as the end of its JSON."""
    encoded = encode(parts).decode()
    return f",{encoded[1:-1]}" if encoded != "{}" else ""


def pack_closing(
    claim: Claim,
    finished: Finished,
    question: PendingQuestion | None,
    taken: Sequence[Message],
    dead_letter_reason: str,
    dead_letter_indexes: str,
    **more: str | int,
) -> bytes:
    """Encode the end of a turn for ``settle.lua``."""
    messages = (*claim.messages, *taken)
    people = {message.person for message in messages}
    closing: dict[str, object] = {
        "outcome": finished.outcome,
        "messages": [
            (
                message.person,
                encode(message.text).decode(),
                encode_parts(message_parts(message)),
            )
            for message in messages
        ],
        "taken": [message.id for message in taken],
        "question": "",
        **more,
    }
    if question is not None:
        people.add(question.message.person)
        closing["question"] = encode(question).decode()
        closing["people"] = f":{':'.join(sorted(people))}:"
    if dead_letter_reason:
        closing["dead_letter"] = (
            dead_letter_reason,
            [
                (message.person, encode(message).decode())
                for message in (*claim.interrupted, *messages)
            ],
            DEAD_LETTER_REPLY,
            CUT_MARK,
            dead_letter_indexes,
        )
    return _msgpack.encode(closing)


_ERRORS: dict[str, Callable[[str, str], PalaverError]] = {
    "FENCED": lambda what, detail: Fenced(f"{what}: the claim is over"),
    "INDEX": lambda what, detail: IndexConflict(f"{what}: the turn is at index {detail}"),
    "TEXT": lambda what, detail: IndexConflict(f"{what}: a text does not continue the reply"),
    "FORBIDDEN": lambda what, detail: Forbidden(detail),
    "NOTFOUND": lambda what, detail: NotFound(
        "the dead letter has no message of the person: it was replayed or discarded, or the person "
        "was erased"
    ),
    "CONFLICT": lambda what, detail: Conflict(),
    "TOOMANY": lambda what, detail: TooMany(
        f"too many {detail} wait in this conversation", retry_after=1.0
    ),
    "STORAGE": lambda what, detail: storage_exceeded(*detail.split(" ", 1)),
    "UNSETTLED": lambda what, detail: not_settled(),
    "NOTINHISTORY": lambda what, detail: not_in_history(detail),
    "ALTERNATIVES": lambda what, detail: too_many_alternatives(int(detail)),
    "ERR": lambda what, detail: LedgerError(f"{what}: ERR {detail}"),
    "WRONGTYPE": lambda what, detail: LedgerError(f"{what}: WRONGTYPE {detail}"),
}
"""Makes the exception for an error reply to a script or command, from what follows its code."""


def error_from_reply(reply: str, what: str) -> PalaverError:
    """Return the exception for an error reply to the script or command ``what``."""
    code, _, detail = reply.partition(" ")
    if make_error := _ERRORS.get(code):
        return make_error(what, detail)
    # LOADING, OOM, MISCONF, READONLY, NOPERM, …: the server's present state
    return LedgerUnavailable(f"{what}: {reply}", retry_after=1.0)
