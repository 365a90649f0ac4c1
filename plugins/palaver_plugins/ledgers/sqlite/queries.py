"""Reading the SQLite ledger, and what is remembered about people."""

from palaver import Cursor, Page, PendingTurn, QueueDepth, Snapshot
from palaver_plugins.ledgers.sqlite.open_turns import read_open_turns, read_steering
from palaver_plugins.ledgers.sqlite.results import OperationResult
from palaver_plugins.ledgers.sqlite.rows import (
    HOUR,
    ConversationRow,
    Database,
    decode_events,
    load_reply,
    next_epoch,
    read_history,
    read_row,
    stored_events,
)


def read(store: Database, name: str, after: int, limit: int) -> OperationResult[Page]:
    row = read_row(store.connection, name)
    if row is None:
        return OperationResult(Page(next_epoch(store.connection), 1, 0, ()))
    start = max(after + 1, row.first_offset)
    blocks = store.connection.execute(
        "SELECT place, data FROM events WHERE place >= ? AND place < ? ORDER BY place LIMIT ?",
        (row.base + start, row.end, max(limit, 0)),  # a block holds at least one event
    ).fetchall()
    if not blocks:
        return OperationResult(Page(row.epoch, row.first_offset, row.last_offset, ()))
    events = [event for _, data in blocks for event in decode_events(data)]
    offset = blocks[-1][0] - row.base - len(events) + 1
    recorded = stored_events(start, events[start - offset : start - offset + limit])
    return OperationResult(Page(row.epoch, row.first_offset, row.last_offset, recorded))


def snapshot(store: Database, name: str, lines: int) -> OperationResult[Snapshot]:
    row = read_row(store.connection, name)
    if row is None:
        cursor = Cursor(next_epoch(store.connection), 0)
        return OperationResult(Snapshot(cursor=cursor, history=(), pending=()))
    return OperationResult(
        Snapshot(
            cursor=Cursor(row.epoch, row.last_offset),
            history=read_history(store.connection, row, lines),
            pending=_pending(store, row) if row.open_turns else (),
        )
    )


def _pending(store: Database, row: ConversationRow) -> tuple[PendingTurn, ...]:
    turns = read_open_turns(store.connection, row)
    steered = tuple(post.message for post in read_steering(store.connection, row))
    load_reply(store.connection, row)
    reply = "".join(row.reply_parts or ())
    return tuple(
        PendingTurn(
            turn=turn.id,
            messages=(*turn.messages, *(() if position else steered)),
            running=turn.id == row.running_turn,
            reply="" if position else reply,
            skill="" if position else row.skill,
        )
        for position, turn in enumerate(turns)
    )


def members(store: Database, name: str) -> OperationResult[frozenset[str]]:
    people = store.connection.execute(
        "SELECT person FROM members m JOIN conversations c ON c.id = m.conversation "
        "WHERE c.name = ?",
        (name,),
    )
    return OperationResult(frozenset(person for (person,) in people))


def depth(store: Database) -> OperationResult[QueueDepth]:
    unsettled, running = store.connection.execute(
        "SELECT coalesce(sum(open), 0), coalesce(sum(running <> ''), 0) "
        "FROM conversations WHERE due IS NOT NULL"
    ).fetchone()
    return OperationResult(QueueDepth(queued=unsettled - running, running=running))


def remember(
    store: Database, tenant: str, person: str, key: str, value: str | None
) -> OperationResult[None]:
    if value is None:
        store.connection.execute(
            "DELETE FROM memories WHERE tenant = ? AND person = ? AND key = ?",
            (tenant, person, key),
        )
    else:
        store.connection.execute(
            "INSERT OR REPLACE INTO memories (tenant, person, key, value, at) "
            "VALUES (?, ?, ?, ?, ?)",
            (tenant, person, key, value, store.clock()),
        )
    return OperationResult(None)


def recall(store: Database, tenant: str, person: str, key: str) -> OperationResult[str | None]:
    found = store.connection.execute(
        "SELECT value, at FROM memories WHERE tenant = ? AND person = ? AND key = ?",
        (tenant, person, key),
    ).fetchone()
    if found is None:
        return OperationResult(None)
    value, at = found
    if (now := store.clock()) - at >= HOUR:
        store.connection.execute(
            "UPDATE memories SET at = ? WHERE tenant = ? AND person = ? AND key = ?",
            (now, tenant, person, key),
        )
    return OperationResult(value)
