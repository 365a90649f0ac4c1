"""Lists of conversations, titles and shared snapshots in the SQLite ledger."""

from palaver import (
    Conversation,
    ConversationChange,
    ConversationFilter,
    ConversationList,
    ConversationSummary,
    InvalidInput,
    Share,
    check_share,
    list_position,
    not_in_list,
    parse_list_position,
)
from palaver_plugins.ledgers.sqlite.history import MAX_NUMBER
from palaver_plugins.ledgers.sqlite.results import OperationResult
from palaver_plugins.ledgers.sqlite.rows import Database

MAX_ROWS = 1_000
"""Conversations that one operation reads at most."""

_LIST = """
SELECT c.name, m.active_at, coalesce(t.title, ''), m.pinned, m.archived, m.conversation
FROM members m JOIN conversations c ON c.id = m.conversation
LEFT JOIN titles t ON t.conversation = m.conversation
WHERE m.tenant = ? AND m.person = ? AND (m.active_at, m.conversation) < (?, ?)
ORDER BY m.active_at DESC, m.conversation DESC LIMIT ?
"""
_FIND = """
SELECT c.id, c.epoch, m.active_at, coalesce(t.title, ''), m.pinned, m.archived
FROM conversations c JOIN members m ON m.conversation = c.id AND m.person = ?
LEFT JOIN titles t ON t.conversation = c.id WHERE c.name = ?
"""
_SET_FLAGS = "UPDATE members SET pinned = ?, archived = ? WHERE conversation = ? AND person = ?"
_SHARES = "SELECT s.id, s.at FROM shares s WHERE s.conversation = ? ORDER BY s.number"
_ADD_SHARE = "INSERT OR IGNORE INTO shares (id, conversation, at, content) VALUES (?, ?, ?, ?)"
_REVOKE = """
DELETE FROM shares WHERE id = ? AND conversation = (SELECT id FROM conversations WHERE name = ?)
"""


def list_conversations(
    database: Database,
    tenant: str,
    person: str,
    filter: ConversationFilter,
    before: str,
    limit: int,
) -> OperationResult[ConversationList]:
    active_at, key = parse_list_position(before)
    if key and not (key.isascii() and key.isdigit() and int(key[:20]) <= MAX_NUMBER):
        raise InvalidInput(f"position {before[:60]!r} is not one that a list has named as its next")
    position = (active_at, int(key) if key else MAX_NUMBER)
    rows = database.execute(_LIST, (tenant, person, *position, MAX_ROWS + 1))
    found: list[ConversationSummary] = []
    following = ""
    for number, (name, active_at, title, pinned, archived, id) in enumerate(rows):
        if len(found) == limit or number == MAX_ROWS:
            break
        summary = ConversationSummary(
            conversation=Conversation.parse(name),
            active_at=active_at,
            title=title,
            pinned=bool(pinned),
            archived=bool(archived),
        )
        if filter.selects(summary):
            found.append(summary)
        following = list_position(active_at, str(id))
    else:
        following = ""
    return OperationResult(ConversationList(conversations=tuple(found), next=following))


def change_conversation(
    database: Database, conversation: Conversation, person: str, change: ConversationChange
) -> OperationResult[ConversationSummary]:
    id, _, active_at, title, pinned, archived = _find(database, conversation, person)
    if change.title is not None and not (change.only_untitled and title):
        title = change.title
        if title:
            database.execute("INSERT OR REPLACE INTO titles VALUES (?, ?)", (id, title))
        else:
            database.execute("DELETE FROM titles WHERE conversation = ?", (id,))
    wanted = (
        pinned if change.pinned is None else change.pinned,
        archived if change.archived is None else change.archived,
    )
    if wanted != (pinned, archived):
        database.execute(_SET_FLAGS, (*map(int, wanted), id, person))
    return OperationResult(
        ConversationSummary(
            conversation=conversation,
            active_at=active_at,
            title=title,
            pinned=bool(wanted[0]),
            archived=bool(wanted[1]),
        )
    )


def share(
    database: Database,
    conversation: Conversation,
    person: str,
    share: Share,
    content: bytes,
    epoch: str,
) -> OperationResult[None]:
    id, current_epoch, *_ = _find(database, conversation, person)
    existing = tuple(name for name, _ in database.execute(_SHARES, (id,)))
    check_share(epoch, current_epoch, share, existing)
    database.execute(_ADD_SHARE, (share.id, id, share.at, content))
    return OperationResult(None)


def shares(database: Database, name: str) -> OperationResult[tuple[Share, ...]]:
    found = database.execute("SELECT id FROM conversations WHERE name = ?", (name,)).fetchone()
    rows = database.execute(_SHARES, found).fetchall() if found else []
    return OperationResult(tuple(Share(id=id, at=at) for id, at in rows))


def shared_content(database: Database, share: str) -> OperationResult[bytes | None]:
    found = database.execute("SELECT content FROM shares WHERE id = ?", (share,)).fetchone()
    return OperationResult(found[0] if found else None)


def revoke_share(database: Database, name: str, share: str) -> OperationResult[bool]:
    deleted = database.execute(_REVOKE, (share, name)).rowcount
    return OperationResult(deleted > 0, scrub=deleted > 0)


def _find(
    database: Database, conversation: Conversation, person: str
) -> tuple[int, str, float, str, int, int]:
    found = database.execute(_FIND, (person, str(conversation))).fetchone()
    if found is None:
        raise not_in_list(conversation, person)
    row: tuple[int, str, float, str, int, int] = found
    return row
