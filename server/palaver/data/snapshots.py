"""Snapshots: what people have said who have consented, and documents, as raw rows in files.

They are taken when a preparation begins: it reads the same rows when it is resumed, and the ledger
is free for the server meanwhile.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable

from palaver.data.recipe import SourceTable
from palaver.errors import InvalidInput
from palaver.feedback import FeedbackFilter, RatedReply
from palaver.jobs.folder import Json
from palaver.jobs.people import PeopleNames
from palaver.knowledge import DocumentStore, KnowledgeBase
from palaver.ledger import HISTORY_BYTES, Ledger
from palaver.messages import Conversation, HistoryEntry
from palaver.platforms.consents import EVERYONE, Consents

DOCUMENT_FIELDS = ("id", "title", "text", "collection")
HISTORY_ENTRIES = 1_000
"""Newest entries of a conversation that are read."""
Write = Callable[[Json], object]
Entries = Iterable[HistoryEntry]


async def write_ledger_rows(
    ledger: Ledger, source: SourceTable, names: PeopleNames, write: Write
) -> int:
    """Write the rows of a source of the ledger; return their number."""
    snapshot = LedgerSnapshot(ledger, source, names)
    rows = snapshot.conversations() if source.ledger == "conversations" else snapshot.feedback()
    count = 0
    async with contextlib.aclosing(rows):
        async for row in rows:
            await asyncio.to_thread(write, row)
            count += 1
    return count


class LedgerSnapshot:
    """Reads what people have said who have consented. A row with words of anyone else is left
    out."""

    def __init__(self, ledger: Ledger, source: SourceTable, names: PeopleNames) -> None:
        self._ledger = ledger
        self._source = source
        self._tenant = source.tenant
        self._names = names
        self._consents = Consents(ledger)
        self._known: dict[str, bool] = {}

    async def feedback(self) -> AsyncGenerator[Json, None]:
        """Yield a row for each rated reply, with a better one where there is one."""
        source = self._source
        chosen = FeedbackFilter(rating=source.rating, skill=source.skill or None)
        replies = self._ledger.rated_replies(self._tenant, chosen, history_bytes=HISTORY_BYTES)
        async with contextlib.aclosing(replies):
            async for rated in replies:
                entries = (*rated.history, *rated.entries)
                if await self._may_use(entries, rated.person):
                    yield self._feedback_row(rated) | await self._alternative(rated)

    def _feedback_row(self, rated: RatedReply) -> Json:
        reply = _reply(rated.entries)
        message = _message(rated.entries)
        history = _messages(rated.history)
        about = {
            "message": message,
            "reply": reply.text,
            "messages": [*history, *_messages(rated.entries)],
            "prompt": [*history, {"role": "user", "content": message}],
            "rating": rated.feedback.rating,
            "reason": rated.feedback.reason or "",
            "comment": rated.feedback.comment,
            "skill": reply.skill,
            "passages": _passages(reply),
        }
        entries = (*rated.history, *rated.entries)
        return about | self._whose(rated.conversation, entries, rated.person)

    async def _alternative(self, rated: RatedReply) -> Json:
        """Return a chosen and a rejected reply, where the person has rated one down and asked for
        another: the one that is in the history now is chosen."""
        if rated.feedback.rating == "up":
            return {}
        snapshot = await self._ledger.snapshot(rated.conversation, HISTORY_ENTRIES, HISTORY_BYTES)
        turn = rated.feedback.turn
        group = next((group for group in snapshot.alternatives if turn in group), ())
        other = [each for each in snapshot.history if each.turn in group and each.turn != turn]
        if not other or _message(other) != _message(rated.entries):
            return {}
        return {"chosen": _reply(other).text, "rejected": _reply(rated.entries).text}

    async def conversations(self) -> AsyncGenerator[Json, None]:
        """Yield a row for each conversation of the people who have consented by name, or have
        given feedback where everyone has."""
        seen: set[str] = set()
        for person in await self._people():
            async for conversation in self._conversations_of(person):
                if str(conversation) not in seen:
                    seen.add(str(conversation))
                    if row := await self._conversation_row(conversation):
                        yield row

    async def _people(self) -> list[str]:
        given = [each.person for each in await self._consents.given(self._tenant)]
        found = set(given) - {EVERYONE}
        if EVERYONE in given:
            replies = self._ledger.rated_replies(self._tenant, FeedbackFilter(), history_bytes=0)
            async with contextlib.aclosing(replies):
                found |= {rated.person async for rated in replies}
        return sorted(found)

    async def _conversations_of(self, person: str) -> AsyncGenerator[Conversation, None]:
        last = ""
        async with contextlib.aclosing(self._ledger.export(self._tenant, person)) as parts:
            async for part in parts:
                for name in part.conversations:
                    if name != last:
                        last = name
                        yield Conversation.parse(name)

    async def _conversation_row(self, conversation: Conversation) -> Json:
        snapshot = await self._ledger.snapshot(conversation, HISTORY_ENTRIES, HISTORY_BYTES)
        entries = _until_reply(snapshot.history, self._source.skill)
        if not entries or not await self._may_use(entries):
            return {}
        last = [each for each in entries if each.turn == entries[-1].turn]
        reply = entries[-1]
        about = {
            "messages": _messages(entries),
            "message": _message(last),
            "reply": reply.text,
            "skill": reply.skill,
            "passages": _passages(reply),
        }
        return about | self._whose(conversation, entries)

    async def _may_use(self, entries: Entries, *others: str) -> bool:
        for person in {*(each.person for each in entries if each.person), *others}:
            if person not in self._known:
                self._known[person] = await self._consents.has_consented(self._tenant, person)
            if not self._known[person]:
                return False
        return True

    def _whose(self, conversation: Conversation, entries: Entries, *others: str) -> Json:
        people = sorted({*(each.person for each in entries if each.person), *others})
        return {
            "people": [self._names.person(self._tenant, person) for person in people],
            "conversation": self._names.conversation(str(conversation)),
            "at": max(each.at for each in entries),
        }


def _until_reply(history: tuple[HistoryEntry, ...], skill: str) -> list[HistoryEntry]:
    """Return the entries of the turns with a reply, of a ``skill`` if one is named."""
    good = {
        each.turn
        for each in history
        if each.role == "assistant"
        and each.text
        and each.outcome in ("done", "asked")
        and skill in ("", each.skill)
    }
    return [each for each in history if each.turn in good]


def _messages(entries: Entries) -> list[Json]:
    """Return messages of which two in a row are never of the same side."""
    messages: list[Json] = []
    for each in entries:
        if each.role not in ("user", "assistant"):
            continue
        if messages and messages[-1]["role"] == each.role:
            messages[-1] = {
                "role": each.role,
                "content": f"{messages[-1]['content']}\n\n{each.text}",
            }
        else:
            messages.append({"role": each.role, "content": each.text})
    return messages


def _reply(entries: Entries) -> HistoryEntry:
    return next(each for each in entries if each.role == "assistant")


def _message(entries: Entries) -> str:
    return "\n\n".join(each.text for each in entries if each.role == "user")


def _passages(reply: HistoryEntry) -> list[str]:
    return [each.passage for each in reply.citations or ()]


async def write_documents(knowledge: KnowledgeBase, source: SourceTable, write: Write) -> None:
    """Write the documents of a tenant. Raises `InvalidInput` for a store that keeps no texts."""
    if not isinstance(knowledge, DocumentStore):
        raise InvalidInput("this knowledge base does not give back the text of its documents")
    for info in await knowledge.documents(source.tenant):
        if document := await knowledge.document(source.tenant, info.id):
            row = {name: getattr(document, name) for name in DOCUMENT_FIELDS}
            await asyncio.to_thread(write, row)
