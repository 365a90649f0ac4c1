"""Operations that read."""

from palaver import (
    PAGE_BYTES,
    Cursor,
    Page,
    PendingTurn,
    QueueDepth,
    Snapshot,
    StorageUsage,
    UnsettledCount,
)
from palaver_plugins.ledgers.sqlite.branches import read_alternatives
from palaver_plugins.ledgers.sqlite.history import read_history
from palaver_plugins.ledgers.sqlite.results import OperationResult
from palaver_plugins.ledgers.sqlite.rows import (
    HOUR,
    Database,
    Row,
    decode_events,
    load_reply,
    next_epoch,
    read_row,
    stored_events,
)
from palaver_plugins.ledgers.sqlite.unsettled_turns import read_steering, read_unsettled_turns


def read(database: Database, name: str, after: int, limit: int) -> OperationResult[Page]:
    row = read_row(database.connection, name)
    if row is None:
        return OperationResult(Page(next_epoch(database.connection), 1, 0, ()))
    start = max(after + 1, row.first_offset)
    blocks = _read_blocks(database, row, start, limit)
    if not blocks:
        return OperationResult(Page(row.epoch, row.first_offset, row.last_offset, ()))
    events = [event for _, data in blocks for event in decode_events(data)]
    offset = blocks[-1][0] - len(events) + 1
    page = stored_events(start, events[start - offset : start - offset + limit])
    return OperationResult(Page(row.epoch, row.first_offset, row.last_offset, page))


def _read_blocks(database: Database, row: Row, start: int, limit: int) -> list[tuple[int, bytes]]:
    """Return the blocks of a page from offset ``start`` on."""
    cursor = database.execute(
        "SELECT last_offset, data FROM events WHERE conversation = ? AND last_offset >= ? "
        "ORDER BY last_offset LIMIT ?",
        (row.id, start, max(limit, 0)),  # a block has at least one event
    )
    blocks: list[tuple[int, bytes]] = []
    size = 0
    for block in cursor:
        size += len(block[1])
        if size > PAGE_BYTES and blocks:
            break
        blocks.append(block)
    cursor.close()
    return blocks


def snapshot(
    database: Database, name: str, history: int, history_bytes: int
) -> OperationResult[Snapshot]:
    row = read_row(database.connection, name)
    if row is None:
        cursor = Cursor(next_epoch(database.connection), 0)
        return OperationResult(Snapshot(cursor=cursor, history=(), pending=()))
    selection = read_history(database.connection, row, history, history_bytes, last=row.newest_turn)
    return OperationResult(
        Snapshot(
            cursor=Cursor(row.epoch, row.last_offset),
            history=selection.entries,
            pending=_pending_turns(database, row) if row.unsettled_turns else (),
            earlier=selection.earlier,
            alternatives=read_alternatives(database, row),
        )
    )


def _pending_turns(database: Database, row: Row) -> tuple[PendingTurn, ...]:
    oldest, *others = read_unsettled_turns(database.connection, row)
    steering = read_steering(database.connection, row)
    load_reply(database.connection, row)
    return (
        PendingTurn(
            turn=oldest.id,
            messages=(*oldest.messages, *(each.message for each in steering)),
            running=oldest.id == row.running_turn,
            reply=row.reply,
            skill=row.skill,
            at=oldest.inbox_messages[0].accepted_at,
        ),
        *(
            PendingTurn(
                turn=turn.id,
                messages=turn.messages,
                running=False,
                reply="",
                at=turn.inbox_messages[0].accepted_at,
            )
            for turn in others
        ),
    )


def members(database: Database, name: str) -> OperationResult[frozenset[str]]:
    people = database.execute(
        "SELECT person FROM members m JOIN conversations c ON c.id = m.conversation "
        "WHERE c.name = ?",
        (name,),
    )
    return OperationResult(frozenset(person for (person,) in people))


def read_usage(database: Database, tenant: str, person: str) -> dict[str, StorageUsage]:
    """Return what a person and, under the empty name, the tenant have stored."""
    found = database.execute(
        "SELECT person, bytes, conversations FROM usage WHERE tenant = ? AND person IN (?, '')",
        (tenant, person),
    )
    return {
        owner: StorageUsage(bytes=size, conversations=conversations)
        for owner, size, conversations in found.fetchall()
    }


def storage_usage(database: Database, tenant: str, person: str) -> OperationResult[StorageUsage]:
    usage = read_usage(database, tenant, person)
    return OperationResult(usage.get(person, StorageUsage()))


def queue_depth(database: Database) -> OperationResult[QueueDepth]:
    unsettled_turns, running = database.execute(
        "SELECT coalesce(sum(unsettled_turns), 0), coalesce(sum(running_turn <> ''), 0) "
        "FROM conversations WHERE due_at IS NOT NULL"
    ).fetchone()
    return OperationResult(QueueDepth(queued=unsettled_turns - running, running=running))


_UNSETTLED = """
SELECT c.name, t.person, count(*), sum(length(t.inbox_messages)) FROM conversations c
JOIN turns t ON t.conversation = c.id AND t.number >= c.oldest_turn
WHERE c.due_at IS NOT NULL AND t.history IS NULL GROUP BY c.id, t.person
"""


def count_unsettled(database: Database) -> OperationResult[tuple[UnsettledCount, ...]]:
    rows = database.execute(_UNSETTLED).fetchall()
    return OperationResult(
        tuple(
            UnsettledCount(tenant=name.split("/")[0], person=person, turns=turns, bytes=size)
            for name, person, turns, size in rows
        )
    )


def recall(database: Database, tenant: str, person: str, key: str) -> OperationResult[str | None]:
    found = database.execute(
        "SELECT value, used_at FROM memories WHERE tenant = ? AND person = ? AND key = ?",
        (tenant, person, key),
    ).fetchone()
    if found is None:
        return OperationResult(None)
    value, used_at = found
    if abs((now := database.retention_clock()) - used_at) >= HOUR:
        database.execute(
            "UPDATE memories SET used_at = ? WHERE tenant = ? AND person = ? AND key = ?",
            (now, tenant, person, key),
        )
    return OperationResult(value)


def count_memories(database: Database, tenant: str, person: str) -> OperationResult[int]:
    (count,) = database.execute(
        "SELECT count(*) FROM memories WHERE tenant = ? AND person = ?", (tenant, person)
    ).fetchone()
    return OperationResult(int(count))
