"""What a turn's writes look like to the scripts, and what the scripts' refusals mean."""

from collections.abc import Sequence

import msgspec

from palaver import (
    Claim,
    ConcurrencyPolicies,
    Conflict,
    Fenced,
    Finished,
    IndexConflict,
    LedgerError,
    LedgerUnavailable,
    LogEntry,
    Message,
    PalaverError,
    PendingQuestion,
    Received,
    Routed,
    Step,
    Text,
    TextReset,
    TooMany,
    encode,
)

Packed = tuple[str | int, ...]

_msgpack = msgspec.msgpack.Encoder()


def pack_entries(entries: Sequence[LogEntry]) -> bytes:
    """Entries for ``entries.lua``: opaque JSON, beside it the little that the script must know."""
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
    return "e", body


def pack_policies(policies: ConcurrencyPolicies) -> bytes:
    """The same for `policies.lua`, with milliseconds."""
    return _msgpack.encode(
        {
            "otherwise": policies.default,
            "skills": policies.skills,
            "window": round(policies.merge_window * 1000),
            "inbox": policies.inbox_limit,
        }
    )


def received_event_suffix(message: Message) -> bytes:
    """Of the event that tells of a message, what stands between its turn and whether it moved."""
    event = encode(Received(turn="", id=message.id, person=message.person, text=message.text))
    return event.removeprefix(b'{"type":"message","turn":"').removesuffix(b'false,"ahead":0}')


def pack_closing(
    claim: Claim,
    finished: Finished,
    waiting: PendingQuestion | None,
    steered: Sequence[Message],
    dead: str,
    **more: str | int,
) -> bytes:
    """How a turn ends, for `settle.lua`."""
    asked = (*claim.messages, *steered)
    people = {message.person for message in asked}
    closing: dict[str, object] = {
        "outcome": finished.outcome,
        "asked": [(message.person, encode(message.text).decode()) for message in asked],
        "taken": [message.id for message in steered],
        "waiting": "",
        **more,
    }
    if waiting is not None:
        people.add(waiting.message.person)
        closing["waiting"] = encode(waiting).decode()
        closing["people"] = f":{':'.join(sorted(people))}:"
    if dead:
        letter = (*claim.interrupted, *asked)
        closing["dead"] = (
            dead, [(message.person, encode(message).decode()) for message in letter]
        )  # fmt: skip
    return _msgpack.encode(closing)


def error_from_reply(reply: str, what: str) -> PalaverError:
    """The error that an error reply to ``what`` stands for."""
    code, _, detail = reply.partition(" ")
    match code:
        case "FENCED":
            return Fenced(f"{what}: the claim is over")
        case "INDEX":
            return IndexConflict(f"{what}: the turn is at index {detail}")
        case "TEXT":
            return IndexConflict(f"{what}: a text does not continue the reply")
        case "CONFLICT":
            return Conflict()
        case "TOOMANY":
            return TooMany("too many messages wait in this conversation", retry_after=1.0)
        case "ERR" | "WRONGTYPE":
            return LedgerError(f"{what}: {reply}")
        case _:  # LOADING, OOM, MISCONF, READONLY, NOPERM, …: the server cannot do it now
            return LedgerUnavailable(f"{what}: {reply}", retry_after=1.0)
