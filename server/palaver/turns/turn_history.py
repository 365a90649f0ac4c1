"""Turn history: the conversation before a turn, as its skill sees it."""

import msgspec

from palaver.ledger import Claim, HistoryEntry
from palaver.messages import Message


def history_before(claim: Claim, message: Message) -> tuple[HistoryEntry, ...]:
    """Return the conversation before the turn: as a program has sent it, else the ledger's."""
    return _remove_interrupted(claim) if message.sent_history is None else sent_entries(message)


def sent_entries(message: Message) -> tuple[HistoryEntry, ...]:
    """Return the conversation that a program has sent with its message."""
    entries: list[HistoryEntry] = []
    exchange = 0
    for sent in message.sent_history or ():
        is_user = sent.role == "user"
        exchange += is_user and bool(entries) and entries[-1].role != "user"
        entry = HistoryEntry(
            role=sent.role,
            text=sent.text,
            turn=f"sent-{exchange}",
            at=0.0,
            attachments=sent.attachments or msgspec.UNSET,
        )
        if is_user:
            entry = msgspec.structs.replace(entry, person=message.person)
        elif sent.role == "assistant":
            entry = msgspec.structs.replace(entry, skill=message.skill or "", outcome="done")
        entries.append(entry)
    return tuple(entries)


def _remove_interrupted(claim: Claim) -> tuple[HistoryEntry, ...]:
    """Return the history without the turns that were stopped for this one, which answers them."""
    if not claim.interrupted:
        return claim.history
    again = {(message.person, message.text) for message in claim.interrupted}
    asked = {entry.turn for entry in claim.history if (entry.person, entry.text) in again}
    stopped = {entry.turn for entry in claim.history if entry.outcome == "stopped"}
    return tuple(entry for entry in claim.history if entry.turn not in asked & stopped)
