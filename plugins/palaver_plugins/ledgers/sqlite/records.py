"""Reading the SQLite ledger, and what is remembered about people."""

from palaver import Cursor, Page, PendingTurn, QueueDepth, Snapshot, UnsettledTurns
from palaver_plugins.ledgers.sqlite.applied import Applied
from palaver_plugins.ledgers.sqlite.rows import (
    HOUR,
    Row,
    Store,
    decode_events,
    epoch_to_come,
    find,
    history,
    number_from,
    recite,
)
from palaver_plugins.ledgers.sqlite.unsettled import open_turns, steering


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
    turns = open_turns(store.database, row)
    steered = tuple(post.message for post in steering(store.database, row))
    recite(store.database, row)
    reply = "".join(row.parts or ())
    return tuple(
        PendingTurn(
            turn=turn.id,
            messages=(*turn.messages, *(() if position else steered)),
            running=turn.id == row.running,
            reply="" if position else reply,
            skill="" if position else row.skill,
        )
        for position, turn in enumerate(turns)
    )


def members(store: Store, name: str) -> Applied[frozenset[str]]:
    people = store.database.execute(
        "SELECT person FROM members m JOIN conversations c ON c.id = m.conversation "
        "WHERE c.name = ?",
        (name,),
    )
    return Applied(frozenset(person for (person,) in people))


def depth(store: Store) -> Applied[QueueDepth]:
    unsettled, running = store.database.execute(
        "SELECT coalesce(sum(open), 0), coalesce(sum(running <> ''), 0) "
        "FROM conversations WHERE due IS NOT NULL"
    ).fetchone()
    return Applied(QueueDepth(queued=unsettled - running, running=running))


_UNSETTLED = """
SELECT c.name, t.person, count(*), sum(length(t.posts)) FROM conversations c
JOIN turns t ON t.place >= (c.id << 32) + c.head AND t.place < (c.id + 1) << 32
WHERE c.due IS NOT NULL AND t.lines IS NULL GROUP BY c.id, t.person
"""


def unsettled(store: Store) -> Applied[tuple[UnsettledTurns, ...]]:
    rows = store.database.execute(_UNSETTLED).fetchall()
    return Applied(
        tuple(
            UnsettledTurns(tenant=name.split("/")[0], person=person, turns=turns, bytes=size)
            for name, person, turns, size in rows
        )
    )


def remember(store: Store, tenant: str, person: str, key: str, value: str | None) -> Applied[None]:
    if value is None:
        store.database.execute(
            "DELETE FROM memories WHERE tenant = ? AND person = ? AND key = ?",
            (tenant, person, key),
        )
    else:
        store.database.execute(
            "INSERT OR REPLACE INTO memories (tenant, person, key, value, at) "
            "VALUES (?, ?, ?, ?, ?)",
            (tenant, person, key, value, store.clock()),
        )
    return Applied(None)


def recall(store: Store, tenant: str, person: str, key: str) -> Applied[str | None]:
    found = store.database.execute(
        "SELECT value, at FROM memories WHERE tenant = ? AND person = ? AND key = ?",
        (tenant, person, key),
    ).fetchone()
    if found is None:
        return Applied(None)
    value, at = found
    if (now := store.clock()) - at >= HOUR:
        store.database.execute(
            "UPDATE memories SET at = ? WHERE tenant = ? AND person = ? AND key = ?",
            (now, tenant, person, key),
        )
    return Applied(value)
