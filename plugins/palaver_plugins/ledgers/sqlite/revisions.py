"""Revisions in the SQLite ledger: another text of a message in the history."""

from palaver import (
    ConcurrencyPolicies,
    Conversation,
    LedgerUnavailable,
    StorageUsage,
    check_storage,
    no_message_to_revise,
    not_settled,
    revise_entries,
)
from palaver_plugins.ledgers.sqlite.branches import begin_stream
from palaver_plugins.ledgers.sqlite.history import decode_history, encode_history
from palaver_plugins.ledgers.sqlite.queries import read_usage
from palaver_plugins.ledgers.sqlite.results import OperationResult
from palaver_plugins.ledgers.sqlite.rows import Database, Row
from palaver_plugins.ledgers.sqlite.unsettled_turns import parse_number

_READ = """
SELECT history FROM turns WHERE conversation = ? AND number = ? AND id = ? AND superseded_by = 0
    AND history IS NOT NULL
"""
_WRITE = "UPDATE turns SET history = ? WHERE conversation = ? AND number = ?"
_CHARGE = "UPDATE members SET bytes = bytes + ? WHERE conversation = ? AND person = ?"


def revise(
    database: Database,
    conversation: Conversation,
    person: str,
    turn: str,
    text: str,
    policies: ConcurrencyPolicies,
) -> OperationResult[bool]:
    """Replace the text of a message; return False when it has it."""
    row, number = database.row(str(conversation)), parse_number(turn)
    if row is None:
        raise no_message_to_revise(turn)
    if row.unsettled_turns:
        raise not_settled()
    found = database.execute(_READ, (row.id, number, turn)).fetchone()
    if found is None:
        raise no_message_to_revise(turn)
    entries = decode_history((found[0],))
    revised, growth = revise_entries(entries, person, turn, text)
    if revised == entries:
        return OperationResult(False)
    if growth > 0:
        check_room(database, conversation.tenant, person, growth, policies)
    database.execute(_WRITE, (encode_history(revised), row.id, number))
    charge(database, row, person, growth)
    begin_stream(database, row, has_alternatives=row.has_alternatives)
    return OperationResult(True, row.name)


def check_room(
    database: Database, tenant: str, person: str, growth: int, policies: ConcurrencyPolicies
) -> None:
    """Raise an error when a person's messages may not take so many bytes more."""
    if database.room_problem:
        raise LedgerUnavailable(f"the ledger is full: {database.room_problem}")
    usage = read_usage(database, tenant, person)
    nothing = StorageUsage()
    check_storage(
        growth,
        policies,
        usage.get(person, nothing),
        usage.get("", nothing),
        is_new=False,
        is_member=True,
    )


def charge(database: Database, row: Row, person: str, growth: int) -> None:
    """Count bytes for a member of the conversation."""
    database.execute(_CHARGE, (growth, row.id, person))
