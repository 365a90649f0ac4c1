"""Turn history: the conversation before a turn, as its skill sees it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from palaver.ledger import Claim, HistoryEntry
from palaver.messages import Message, ProgramRequest, SentMessage


class Transcript(NamedTuple):
    """What a skill sees: the ``message`` that it answers, and the conversation around it. The last
    ``following`` entries of the history come after the message: calls of a program's tools and
    their results."""

    history: tuple[HistoryEntry, ...]
    message: Message
    following: int = 0


def read_transcript(claim: Claim, message: Message) -> Transcript:
    """Return what the skill sees: as a program has sent it, else with the ledger's history."""
    if message.sent_history is not None:
        return sent_transcript(message)
    return _make_transcript(expand_input(_remove_interrupted(claim)), message)


def sent_transcript(message: Message) -> Transcript:
    """Return what the skill sees of a message whose program keeps the conversation itself."""
    return _make_transcript(_make_entries(message.sent_history or (), message, "sent"), message)


def _make_transcript(before: Iterable[HistoryEntry], message: Message) -> Transcript:
    program = message.program or ProgramRequest()
    entries = [*_instructions(program), *before]
    if program.input:
        return _split([*entries, *_make_entries(program.input, message, message.id)], message)
    return Transcript(tuple(entries), message, program.following)


def _instructions(program: ProgramRequest) -> tuple[HistoryEntry, ...]:
    if not program.instructions:
        return ()
    return (HistoryEntry(role="system", text=program.instructions, turn="", at=0.0),)


def _split(entries: Sequence[HistoryEntry], message: Message) -> Transcript:
    """Split the conversation at the user's last message, which the skill answers."""
    answered = max((at for at, it in enumerate(entries) if it.role == "user"), default=None)
    if answered is None:
        return Transcript(tuple(entries), msgspec.structs.replace(message, text="", attachments=()))
    entry = entries[answered]
    asked = msgspec.structs.replace(message, text=entry.text, attachments=entry.attachments or ())
    history = (*entries[:answered], *entries[answered + 1 :])
    return Transcript(history, asked, len(history) - answered)


def expand_input(entries: Sequence[HistoryEntry]) -> tuple[HistoryEntry, ...]:
    """Return the history with an entry for each message that programs have sent together."""
    has_input = [entry for entry in entries if entry.input]
    return tuple(_expand(entries)) if has_input else tuple(entries)


def _expand(entries: Iterable[HistoryEntry]) -> Iterator[HistoryEntry]:
    for entry in entries:
        if not entry.input:
            yield entry
            continue
        for sent in entry.input:
            yield _make_entry(sent, entry.turn, person=entry.person, at=entry.at)


def _make_entries(
    sent: Iterable[SentMessage], message: Message, name: str
) -> Iterator[HistoryEntry]:
    """Yield entries, with a turn for each exchange."""
    exchange, last = 0, ""
    for each in sent:
        exchange += each.role == "user" and last not in ("", "user")
        last = each.role
        yield _make_entry(
            each, f"{name}-{exchange}", person=message.person, skill=message.skill or ""
        )


def _make_entry(
    sent: SentMessage, turn: str, *, person: str, skill: str = "", at: float = 0.0
) -> HistoryEntry:
    entry = HistoryEntry(
        role=sent.role,
        text=sent.text,
        turn=turn,
        at=at,
        attachments=sent.attachments or msgspec.UNSET,
        client_calls=sent.calls or msgspec.UNSET,
        call=sent.call or msgspec.UNSET,
    )
    if sent.role == "user":
        return msgspec.structs.replace(entry, person=person)
    if sent.role == "assistant":
        return msgspec.structs.replace(entry, skill=skill, outcome="done")
    return entry


def _remove_interrupted(claim: Claim) -> tuple[HistoryEntry, ...]:
    """Return the history without the turns that were stopped for this one, which answers them."""
    if not claim.interrupted:
        return claim.history
    again = {(message.person, message.text) for message in claim.interrupted}
    asked = {entry.turn for entry in claim.history if (entry.person, entry.text) in again}
    stopped = {entry.turn for entry in claim.history if entry.outcome == "stopped"}
    return tuple(entry for entry in claim.history if entry.turn not in asked & stopped)
