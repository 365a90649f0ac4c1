"""Dead letters of the SQLite ledger."""

from collections.abc import Iterable, Sequence

import msgspec

from palaver import MAX_DEAD_LETTERS, DeadLetter, HistoryEntry, Message
from palaver_plugins.ledgers.sqlite.results import OperationResult
from palaver_plugins.ledgers.sqlite.rows import Database, OpenTurn, encode

_decode = msgspec.json.Decoder(DeadLetter).decode
_ADD = "INSERT INTO letters (turn, tenant, person, at, data) VALUES (?, ?, ?, ?, ?)"
_TRIM = """
DELETE FROM letters
WHERE number IN (SELECT number FROM letters ORDER BY number DESC LIMIT -1 OFFSET ?)
"""


def store_dead_letter(
    store: Database,
    turn: OpenTurn,
    steered: Sequence[Message],
    answer: HistoryEntry,
    attempt: int,
    why: str,
) -> None:
    letter = DeadLetter(
        turn=turn.id,
        messages=(*turn.interrupted, *turn.messages, *steered),
        attempt=attempt,
        reply=answer.text,
        skill=answer.skill,
        reason=why,
        at=answer.at,
    )
    tenant = letter.messages[0].conversation.tenant
    values = (letter.turn, tenant, turn.person, letter.at, encode(letter))
    store.connection.execute(_ADD, values)
    store.connection.execute(_TRIM, (MAX_DEAD_LETTERS,))


def list_newest(store: Database, limit: int) -> OperationResult[tuple[DeadLetter, ...]]:
    found = store.connection.execute(
        "SELECT data FROM letters ORDER BY number DESC LIMIT ?", (max(limit, 0),)
    )
    return OperationResult(tuple(_decode(data) for (data,) in found))


def discard(store: Database, turn: str) -> OperationResult[bool]:
    gone = store.connection.execute("DELETE FROM letters WHERE turn = ?", (turn,)).rowcount
    return OperationResult(gone > 0, scrub=gone > 0)


def messages_of(store: Database, tenant: str, person: str) -> Iterable[Message]:
    for _, letter in _letters_of(store, tenant):
        yield from (message for message in letter.messages if message.person == person)


def erase(store: Database, tenant: str, person: str) -> int:
    """Remove a person's letters, and their messages from those of others; returns how many held
    some."""
    execute = store.connection.execute
    touched = 0
    for author, letter in _letters_of(store, tenant):
        left = tuple(message for message in letter.messages if message.person != person)
        touched += len(left) < len(letter.messages)
        if author == person:
            execute("DELETE FROM letters WHERE turn = ?", (letter.turn,))
        elif len(left) < len(letter.messages):
            kept = encode(msgspec.structs.replace(letter, messages=left))
            execute("UPDATE letters SET data = ? WHERE turn = ?", (kept, letter.turn))
    return touched


def _letters_of(store: Database, tenant: str) -> list[tuple[str, DeadLetter]]:
    found = store.connection.execute("SELECT person, data FROM letters WHERE tenant = ?", (tenant,))
    return [(author, _decode(data)) for author, data in found]
