"""Directory: what a page does with a person's conversations besides talking: search, titles,
shared snapshots, and reading one from its beginning."""

import asyncio
import re
import unicodedata
from collections.abc import AsyncGenerator

import msgspec

from palaver.conversations import (
    SHARE_BYTES,
    ConversationChange,
    ConversationFilter,
    ConversationSummary,
    Share,
    SharedConversation,
)
from palaver.engine import ChatMessage, Engine, EngineInfo, GenerationRequest, Sampling
from palaver.errors import EngineError, NotFound, Overloaded
from palaver.ledger import HistoryEntry, Ledger
from palaver.messages import Conversation, encode, new_id
from palaver.text_pool import run_on_text

PAGE_ENTRIES = 200
"""History entries that are read at once."""
SEARCH_BYTES = 4_000_000
"""Bytes of history, as JSON, after which a search returns what it has found so far. It reads the
conversation in which they end to its beginning."""
MAX_SHARED_ENTRIES = 2_000
"""History entries of a shared snapshot."""
MAX_SEARCHES = 4
"""Searches that read at the same time; others wait for them."""
EXCERPT_BEFORE, EXCERPT_AFTER = 40, 120
"""Characters of an excerpt before and after the beginning of what was found."""
TITLE_WORDS, TITLE_LENGTH = 8, 60
_TITLE_PROMPT = (
    "Write a title for this conversation: at most six words, in the language of its first message, "
    "without quotation marks and without a full stop. Reply with the title only."
)
_TITLE_EXCERPT = 1_000
"""Characters of the first message and of the reply that the model reads for a title."""
_TITLE_EDGES = " \t#*_`\"'“”„«»‹›.:–-"


class FoundConversation(msgspec.Struct, frozen=True, kw_only=True):
    """Conversation of a search, with the text around what was found; empty when it is the title."""

    summary: ConversationSummary
    excerpt: str = ""


class SearchResults(msgspec.Struct, frozen=True, kw_only=True):
    """Part of the results of a search, newest first. ``next`` is the position of the following
    part, which may have any number of results; empty at the end."""

    found: tuple[FoundConversation, ...]
    next: str = ""


class Directory:
    """The conversations of all people, through the ledger."""

    def __init__(self, ledger: Ledger, engine: Engine, info: EngineInfo) -> None:
        self._ledger = ledger
        self._engine = engine
        self._info = info
        self._searches = asyncio.Semaphore(MAX_SEARCHES)

    # Reading one conversation

    async def read_history(
        self, conversation: Conversation
    ) -> AsyncGenerator[tuple[HistoryEntry, ...], None]:
        """Yield the history in parts, oldest first."""
        starts = [""]
        while starts[-1] or len(starts) == 1:
            page = await self._ledger.history(conversation, starts[-1], PAGE_ENTRIES)
            starts.append(page.earlier)
        for before in reversed(starts[:-1]):
            page = await self._ledger.history(conversation, before, PAGE_ENTRIES)
            yield page.history

    # Search

    async def search(
        self,
        tenant: str,
        person: str,
        filter: ConversationFilter,
        query: str,
        *,
        before: str,
        limit: int,
    ) -> SearchResults:
        """Return up to ``limit`` of the person's conversations whose title or history contains
        ``query``, whatever the case and the form of its characters."""
        wanted = comparable(query)
        found: list[FoundConversation] = []
        left = SEARCH_BYTES
        async with self._searches:
            while len(found) < limit and left > 0:
                part = await self._ledger.list_conversations(
                    tenant, person, filter, before=before, limit=1
                )
                for summary in part.conversations:
                    excerpt, size = await self._find_in(summary, wanted)
                    left -= size
                    if excerpt is not None:
                        found.append(FoundConversation(summary=summary, excerpt=excerpt))
                before = part.next
                if not before:
                    break
        return SearchResults(found=tuple(found), next=before)

    async def _find_in(self, summary: ConversationSummary, wanted: str) -> tuple[str | None, int]:
        """Return an excerpt, or None when nothing was found, and the bytes that were read."""
        if wanted in comparable(summary.title):
            return "", 1
        before, size = "", 1
        while True:
            page = await self._ledger.history(summary.conversation, before, PAGE_ENTRIES)
            for entry in reversed(page.history):
                size += len(encode(entry))
                excerpt = await run_on_text(find_excerpt, entry.text, wanted)
                if excerpt:
                    return excerpt, size
            before = page.earlier
            if not before:
                return None, size

    # Titles

    async def make_title(self, conversation: Conversation, person: str) -> ConversationSummary:
        """Give a conversation without a title one that the model makes of its beginning, or of its
        first words where the model cannot. Where the first message has no text, the names of its
        files are its words. Before that message is answered there is no title."""
        summary = await self._ledger.change_conversation(conversation, person, ConversationChange())
        if summary.title:
            return summary
        page = await self._ledger.history(conversation, "", PAGE_ENTRIES)
        first = next((entry for entry in page.history if entry.role == "user"), None)
        if first is None:
            return summary
        text = first.text.strip() or ", ".join(file.name for file in first.attachments or ())
        reply = next((entry.text for entry in page.history if entry.role == "assistant"), "")
        title = await self._ask_for_title(conversation, person, text, reply)
        change = ConversationChange(title=title or first_words(text), only_untitled=True)
        return await self._ledger.change_conversation(conversation, person, change)

    async def _ask_for_title(
        self, conversation: Conversation, person: str, first: str, reply: str
    ) -> str:
        """Return the model's title; empty when it has none."""
        if self._info.demonstration or "generate" not in self._info.capabilities:
            return ""
        beginning = f"{first[:_TITLE_EXCERPT]}\n\n{reply[:_TITLE_EXCERPT]}"
        request = GenerationRequest(
            id=f"title-{new_id()}",
            messages=(ChatMessage("system", _TITLE_PROMPT), ChatMessage("user", beginning)),
            tenant=conversation.tenant,
            person=person,
            channel=conversation.channel,
            sampling=Sampling(max_tokens=32),
        )
        try:
            generation = await self._engine.generate(request, lambda text: None)
        except (EngineError, Overloaded):
            return ""
        return clean_title(generation.text)

    # Shared snapshots

    async def share(self, conversation: Conversation, person: str) -> Share:
        """Store a snapshot of the newest history, as far as `SHARE_BYTES` reach, without names.

        Raises as `ConversationStore.share`, and `NotFound` when there is no history yet.
        """
        summary = await self._ledger.change_conversation(conversation, person, ConversationChange())
        snapshot = await self._ledger.snapshot(conversation, MAX_SHARED_ENTRIES, SHARE_BYTES)
        if not snapshot.history:
            raise NotFound(f"no message of {conversation.thread[:60]!r} is answered yet")
        at = snapshot.history[-1].at
        content = SharedConversation(
            title=summary.title,
            history=tuple(map(_without_names, snapshot.history)),
            at=at,
            is_cut=bool(snapshot.earlier),
        )
        share = Share(id=new_id(), at=at)
        await self._ledger.share(
            conversation, person, share, encode(content), epoch=snapshot.cursor.epoch
        )
        return share


def _without_names(entry: HistoryEntry) -> HistoryEntry:
    """Return an entry for readers outside: only what they may see, without people, ids, the
    passages of documents, and what tools were given and returned."""
    citations = tuple(
        msgspec.structs.replace(each, document="", passage="") for each in entry.citations or ()
    )
    return HistoryEntry(
        role=entry.role,
        text=entry.text,
        turn="",
        at=entry.at,
        skill=entry.skill,
        outcome=entry.outcome,
        citations=citations or msgspec.UNSET,
        problem=entry.problem,
    )


def comparable(text: str) -> str:
    """Return a text in which two spellings of the same words are equal."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def find_excerpt(text: str, wanted: str) -> str:
    """Return the part of ``text`` around the first place of the comparable text ``wanted``; empty
    when there is none."""
    normal = comparable(text)
    at = normal.find(wanted)
    if at < 0:
        return ""
    start = max(0, at - EXCERPT_BEFORE)
    folded = unicodedata.normalize("NFKC", text)
    shown = " ".join(folded.split())
    if len(shown) != len(normal):  # casefolding has made it longer; show what was compared
        shown = normal
    end = at + EXCERPT_AFTER
    return ("… " if start else "") + shown[start:end] + (" …" if end < len(shown) else "")


def first_words(text: str) -> str:
    """Return the beginning of a text as a title."""
    return " ".join(clean_title(text).split()[:TITLE_WORDS]) or "…"


def clean_title(text: str) -> str:
    """Return the first line of a model's reply without marks around it, cut to a title's length."""
    line = next((line for line in text.splitlines() if line.strip(_TITLE_EDGES)), "")
    line = re.sub(r"[\x00-\x1f\x7f-\x9f\s]+", " ", line[: 4 * TITLE_LENGTH]).strip(_TITLE_EDGES)
    if len(line) > TITLE_LENGTH:
        line = line[:TITLE_LENGTH].rpartition(" ")[0] or line[:TITLE_LENGTH]
    return line
