"""How a person is taken out of a conversation that others have a part in, as SQL."""

from collections.abc import Sequence

from palaver import Event, Received, new_id
from palaver_plugins.ledgers.sqlite.open_turns import (
    read_open_turns,
    read_steering,
    replace_steering,
)
from palaver_plugins.ledgers.sqlite.rows import (
    ADD_EVENTS,
    ConversationRow,
    Database,
    InboxMessage,
    OpenTurn,
    decode_events,
    decode_history,
    encode,
    encode_history,
)
from palaver_plugins.ledgers.sqlite.settling import move_steering, people_of_question

_ANEW = """
UPDATE conversations SET running = '', steps = 0, began = 0, length = 0, size = 0, expected = -1,
    due = ? WHERE id = ?
"""
_OTHER_HEAD = "UPDATE conversations SET failed = 0, stop = 0, successor = 0 WHERE id = ?"
_COUNT = """
UPDATE conversations SET epoch = ?, first = 1, last = ?, began = 0, reached = ?, newest = ?,
    open = ?, inbox = ?, steers = ?, waits = ? WHERE id = ?
"""


def drop_conversation(store: Database, conversation: int) -> None:
    """Remove all of a conversation."""
    execute = store.connection.execute
    within = (conversation << 32, (conversation + 1) << 32)
    for table, column in (("events", "place"), ("turns", "place"), ("steps", "turn")):
        execute(f"DELETE FROM {table} WHERE {column} > ? AND {column} < ?", within)
    for table in ("marks", "steering"):
        execute(f"DELETE FROM {table} WHERE conversation = ?", (conversation,))
    execute("DELETE FROM conversations WHERE id = ?", (conversation,))  # the rest goes with it


def erase_from(store: Database, row: ConversationRow, person: str) -> int:
    """Remove what was said by and to a person; returns how many events went."""
    turns = read_open_turns(store.connection, row)
    head = turns[0] if turns else None
    steers = read_steering(store.connection, row)
    left = [post for post in steers if post.message.person != person]
    resumed = _forget_waiting(store, row, person) and (row.running_turn or row.next_index)
    anew = head is not None and bool(len(left) < len(steers) or resumed)
    gone = _drop_turns(store, row, person)
    _leave(store, row, person)
    store.connection.execute(
        "DELETE FROM marks WHERE conversation = ? AND person = ?", (row.id, person)
    )
    silent = gone | ({head.number} if head is not None and anew else set())
    before = row.last_offset - row.first_offset + 1
    row.last_offset = _renumber(store, row, person, silent)
    events = before - row.last_offset
    _go_on(store, row, [turn for turn in turns if turn.person != person], head, left, anew)
    return events


def _go_on(
    store: Database,
    row: ConversationRow,
    turns: Sequence[OpenTurn],
    head: OpenTurn | None,
    left: Sequence[InboxMessage],
    anew: bool,
) -> None:
    """Let the conversation go on with the open ``turns`` that are left."""
    now = store.clock()
    execute = store.connection.execute
    other_head = head is not None and (not turns or turns[0] is not head)
    running = 0 if other_head or anew or not row.running_turn else 1
    row.open_turns = len(turns)
    row.waiting_messages = sum(len(turn.inbox_messages) for turn in turns[running:]) + len(left)
    replace_steering(store.connection, row, () if other_head else left)
    due = max(now, turns[0].due_at) if turns else None
    if head is not None and other_head and left:
        number, moved = move_steering(store, row, head.number, left, now)
        row.last_offset += len(moved)
        execute(ADD_EVENTS, (row.base + row.last_offset, number, encode(moved)))
        due = now
    if head is not None and (other_head or anew):
        execute(_ANEW, (due, row.id))
        execute("DELETE FROM steps WHERE turn = ?", (row.base + head.number,))
    if other_head:
        execute(_OTHER_HEAD, (row.id,))
    counts = (
        row.last_offset,
        row.last_offset,
        row.newest_turn,
        row.open_turns,
        row.waiting_messages,
        row.steering_count,
        row.has_question,
        row.id,
    )
    execute(_COUNT, (new_id(), *counts))


def _forget_waiting(store: Database, row: ConversationRow, person: str) -> bool:
    """Forget the skill that asked, if the person's words are in that."""
    if not row.has_question or person not in people_of_question(store, row):
        return False
    store.connection.execute("DELETE FROM waiting WHERE conversation = ?", (row.id,))
    row.has_question = 0
    return True


def _leave(store: Database, row: ConversationRow, person: str) -> None:
    store.connection.execute(
        "DELETE FROM members WHERE conversation = ? AND person = ?", (row.id, person)
    )


def _drop_turns(store: Database, row: ConversationRow, person: str) -> set[int]:
    """Remove the person's turns, and their lines from those of others; returns the numbers of
    the turns."""
    found = store.connection.execute(
        "SELECT place, person, lines FROM turns "
        "WHERE place > ? AND place < ? AND (person = ? OR guests)",
        (row.base, row.end, person),
    ).fetchall()
    for place, author, lines in found:
        _cut(store, place, person, lines, author == person)
    return {place - row.base for place, author, _ in found if author == person}


def _cut(store: Database, place: int, person: str, lines: bytes | None, theirs: bool) -> None:
    """Keep only what others have said in a turn; what was replied goes with its person's."""
    left = [
        line
        for line in (decode_history([lines]) if lines else ())
        if line.person != person and not (theirs and line.role == "assistant")
    ]
    if not left:
        store.connection.execute("DELETE FROM turns WHERE place = ?", (place,))
    elif theirs:
        store.connection.execute(
            "UPDATE turns SET person = '', lines = ?, fence = NULL WHERE place = ?",
            (encode_history(left), place),
        )
    else:
        store.connection.execute(
            "UPDATE turns SET lines = ? WHERE place = ?", (encode_history(left), place)
        )


def _renumber(store: Database, row: ConversationRow, person: str, silent: set[int]) -> int:
    """Write the stream anew without what the person has said and, of the turns ``silent``,
    without what they put out; returns its length."""
    execute = store.connection.execute
    within = (row.base, row.end)
    blocks = execute(
        "SELECT place, turn, data FROM events WHERE place > ? AND place < ? ORDER BY place",
        within,
    ).fetchall()
    execute("DELETE FROM events WHERE place > ? AND place < ?", within)
    last = 0
    for place, turn, data in blocks:
        kept = [
            event
            for event in _held(row, place, decode_events(data))
            if _stays(event, person, turn in silent)
        ]
        if kept:
            last += len(kept)
            execute(ADD_EVENTS, (row.base + last, turn, encode(kept)))
    return last


def _stays(event: Event, person: str, silent: bool) -> bool:
    if isinstance(event, Received):
        return event.person != person
    return not silent


def _held(row: ConversationRow, place: int, events: list[Event]) -> list[Event]:
    """The events of the block at ``place`` that were not trimmed."""
    trimmed = row.first_offset - (place - row.base - len(events) + 1)
    return events[max(trimmed, 0) :]
