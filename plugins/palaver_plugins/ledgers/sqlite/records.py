"""Reading the SQLite ledger, and everything about one person: memories, export, erasure."""

from palaver.ledger import (
    Depth,
    Erasure,
    Exchange,
    Export,
    Page,
    PendingTurn,
    Snapshot,
)
from palaver.messages import Cursor, Event, Message, decode_message, new_id
from palaver_plugins.ledgers.sqlite.rows import (
    COLUMNS,
    Row,
    Store,
    decode_events,
    encode,
    epoch_to_come,
    find,
    history,
    join_lines,
    number_from,
    recite,
)
from palaver_plugins.ledgers.sqlite.writer import Applied

_THEIR_CONVERSATIONS = f"""
SELECT {COLUMNS} FROM members m JOIN conversations c ON c.id = m.conversation
WHERE m.tenant = ? AND m.person = ? ORDER BY c.id
"""
_DUE_ANEW = """
UPDATE conversations SET due = ?, running = '', failed = 0, steps = 0, stop = 0, length = 0,
    size = 0, expected = -1 WHERE id = ?
"""


def read(store: Store, name: str, after: int, limit: int) -> Applied[Page]:
    row = find(store.database, name)
    if row is None:
        return Applied(Page(epoch_to_come(store.database), 1, 0, ()))
    start = max(after + 1, row.first)
    blocks = store.database.execute(
        "SELECT place, data FROM events WHERE place >= ? AND place < ? ORDER BY place LIMIT ?",
        (row.base + start, row.end, max(limit, 0)),  # a block holds at least one event
    ).fetchall()
    if not blocks:
        return Applied(Page(row.epoch, row.first, row.last, ()))
    events = [event for _, data in blocks for event in decode_events(data)]
    offset = blocks[-1][0] - row.base - len(events) + 1
    recorded = number_from(start, events[start - offset : start - offset + limit])
    return Applied(Page(row.epoch, row.first, row.last, recorded))


def snapshot(store: Store, name: str, lines: int) -> Applied[Snapshot]:
    row = find(store.database, name)
    if row is None:
        cursor = Cursor(epoch_to_come(store.database), 0)
        return Applied(Snapshot(cursor=cursor, history=(), pending=()))
    return Applied(
        Snapshot(
            cursor=Cursor(row.epoch, row.last),
            history=history(store.database, row, lines),
            pending=_pending(store, row) if row.open else (),
        )
    )


def _pending(store: Store, row: Row) -> tuple[PendingTurn, ...]:
    turns = store.database.execute(
        "SELECT place, id, message FROM turns "
        "WHERE place >= ? AND place < ? AND lines IS NULL ORDER BY place",
        (row.base + row.head, row.end),
    ).fetchall()
    recite(store.database, row)
    reply = "".join(row.parts or ())
    return tuple(
        PendingTurn(
            turn=turn,
            messages=(decode_message(message),),
            running=turn == row.running,
            reply=reply if position == 0 else "",
            skill=row.skill if position == 0 else "",
        )
        for position, (_, turn, message) in enumerate(turns)
    )


def members(store: Store, name: str) -> Applied[frozenset[str]]:
    people = store.database.execute(
        "SELECT person FROM members m JOIN conversations c ON c.id = m.conversation "
        "WHERE c.name = ?",
        (name,),
    )
    return Applied(frozenset(person for (person,) in people))


def depth(store: Store) -> Applied[Depth]:
    unsettled, running = store.database.execute(
        "SELECT coalesce(sum(open), 0), coalesce(sum(running <> ''), 0) "
        "FROM conversations WHERE due IS NOT NULL"
    ).fetchone()
    return Applied(Depth(queued=unsettled - running, running=running))


def remember(store: Store, tenant: str, person: str, key: str, value: str | None) -> Applied[None]:
    if value is None:
        store.database.execute(
            "DELETE FROM memories WHERE tenant = ? AND person = ? AND key = ?",
            (tenant, person, key),
        )
    else:
        store.database.execute(
            "INSERT OR REPLACE INTO memories (tenant, person, key, value) VALUES (?, ?, ?, ?)",
            (tenant, person, key, value),
        )
    return Applied(None)


def recall(store: Store, tenant: str, person: str, key: str) -> Applied[str | None]:
    found = store.database.execute(
        "SELECT value FROM memories WHERE tenant = ? AND person = ? AND key = ?",
        (tenant, person, key),
    ).fetchone()
    return Applied(None if found is None else found[0])


def export(store: Store, tenant: str, person: str) -> Applied[Export]:
    conversations: dict[str, tuple[Exchange, ...]] = {}
    pending: list[Message] = []
    for row in _rows_of(store, tenant, person):
        turns = store.database.execute(
            "SELECT lines, message FROM turns "
            "WHERE place > ? AND place < ? AND sender = ? ORDER BY place",
            (row.base, row.end, person),
        ).fetchall()
        if lines := [pair for pair, _ in turns if pair is not None]:
            conversations[row.name] = join_lines(lines)
        pending += [decode_message(message) for pair, message in turns if pair is None]
    memories = store.database.execute(
        "SELECT key, value FROM memories WHERE tenant = ? AND person = ? ORDER BY key",
        (tenant, person),
    )
    return Applied(
        Export(
            tenant=tenant,
            person=person,
            conversations=conversations,
            pending=tuple(pending),
            memories=dict(memories.fetchall()),
            at=store.clock(),
        )
    )


def erase(store: Store, tenant: str, person: str) -> Applied[Erasure]:
    execute = store.database.execute
    rows = _rows_of(store, tenant, person)
    counts = [_erase_from(store, row, person) for row in rows]
    store.live.clear()
    memories = execute(
        "DELETE FROM memories WHERE tenant = ? AND person = ?", (tenant, person)
    ).rowcount
    # A conversation that begins anew must not be taken for the erased one.
    execute("UPDATE meta SET value = ? WHERE key = 'epoch'", (new_id(),))
    erasure = Erasure(
        tenant=tenant,
        person=person,
        conversations=len(rows),
        messages=sum(messages for messages, _ in counts),
        events=sum(events for _, events in counts),
        dead_letters=0,
        memories=memories,
        at=store.clock(),
    )
    return Applied(erasure, wake=True, scrub=True)


def _rows_of(store: Store, tenant: str, person: str) -> list[Row]:
    found = store.database.execute(_THEIR_CONVERSATIONS, (tenant, person)).fetchall()
    return [Row(*row) for row in found]


def _erase_from(store: Store, row: Row, person: str) -> tuple[int, int]:
    """Remove a person's turns; returns the messages and the events that went."""
    execute = store.database.execute
    within = (row.base, row.end)
    others = execute(
        "SELECT 1 FROM members WHERE conversation = ? AND person <> ? LIMIT 1", (row.id, person)
    ).fetchone()
    theirs = {
        place - row.base
        for (place,) in execute(
            "SELECT place FROM turns WHERE place > ? AND place < ? AND sender = ?",
            (*within, person),
        )
    }
    if others is None:
        for table, column in (("events", "place"), ("turns", "place"), ("steps", "turn")):
            execute(f"DELETE FROM {table} WHERE {column} > ? AND {column} < ?", within)
        execute("DELETE FROM conversations WHERE id = ?", (row.id,))
        return len(theirs), row.last - row.first + 1
    execute("DELETE FROM turns WHERE place > ? AND place < ? AND sender = ?", (*within, person))
    for number in theirs:
        execute("DELETE FROM steps WHERE turn = ?", (row.base + number,))
    _leave(store, row, person)
    _close_gap(store, row)
    return len(theirs), _renumber(store, row, theirs)


def _leave(store: Store, row: Row, person: str) -> None:
    """Take the person out of a conversation that others have a part in."""
    execute = store.database.execute
    execute("DELETE FROM members WHERE conversation = ? AND person = ?", (row.id, person))
    gone = execute(
        "DELETE FROM waiting WHERE conversation = ? AND sender = ?", (row.id, person)
    ).rowcount
    if gone:
        execute("UPDATE conversations SET waits = 0 WHERE id = ?", (row.id,))


def _close_gap(store: Store, row: Row) -> None:
    """Count the open turns again; when the oldest one is gone, its claim ends."""
    execute = store.database.execute
    left = execute(
        "SELECT place FROM turns WHERE place >= ? AND place < ? AND lines IS NULL ORDER BY place",
        (row.base + row.head, row.end),
    ).fetchall()
    execute("UPDATE conversations SET open = ? WHERE id = ?", (len(left), row.id))
    if row.open and (not left or _head_is_gone(store, row)):
        execute(_DUE_ANEW, (store.clock() if left else None, row.id))


def _head_is_gone(store: Store, row: Row) -> bool:
    found = store.database.execute(
        "SELECT 1 FROM turns WHERE place = ? AND lines IS NULL", (row.base + row.head,)
    ).fetchone()
    return found is None


def _renumber(store: Store, row: Row, gone: set[int]) -> int:
    """Write the stream anew without the events of the turns ``gone``; returns how many went."""
    execute = store.database.execute
    within = (row.base, row.end)
    blocks = execute(
        "SELECT place, turn, data FROM events WHERE place > ? AND place < ? ORDER BY place",
        within,
    ).fetchall()
    execute("DELETE FROM events WHERE place > ? AND place < ?", within)
    last = 0
    for place, turn, data in blocks:
        if turn not in gone:
            events = _held(row, place, decode_events(data))
            last += len(events)
            execute(
                "INSERT INTO events (place, turn, data) VALUES (?, ?, ?)",
                (row.base + last, turn, encode(events)),
            )
    execute(
        "UPDATE conversations SET epoch = ?, first = 1, last = ?, began = 0, reached = ? "
        "WHERE id = ?",
        (new_id(), last, last, row.id),
    )
    return row.last - row.first + 1 - last


def _held(row: Row, place: int, events: list[Event]) -> list[Event]:
    """The events of the block at ``place`` that were not trimmed."""
    trimmed = row.first - (place - row.base - len(events) + 1)
    return events[max(trimmed, 0) :]
