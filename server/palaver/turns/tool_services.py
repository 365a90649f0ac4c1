"""Tool services: what a tool may use of the server while it runs for a turn."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from palaver.authentication import shared_identities
from palaver.config.settings import AuthSettings
from palaver.conversations import ConversationFilter
from palaver.directory import Directory, comparable
from palaver.errors import Forbidden, InvalidInput, TooLarge
from palaver.knowledge import Document, KnowledgeBase, Passage, limit_collections
from palaver.ledger import HistoryEntry, Ledger
from palaver.messages import Attachment, Citation, Message
from palaver.metrics import Metrics
from palaver.tools import PastConversation
from palaver.turns.attachments import AttachmentReader
from palaver.turns.interruption import Interruption
from palaver.turns.reply_record import ReplyRecord
from palaver.visitors import site_of_person

if TYPE_CHECKING:  # it loads aiohttp
    from palaver.fetching import Fetcher


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ToolResources:
    """Parts of the server that tools use. Without a ``fetcher``, nothing is fetched.
    ``tool_collections`` are those that tools search; ``collections_of_sites``, by tenant and site,
    those that visitors get passages of."""

    ledger: Ledger
    knowledge: KnowledgeBase
    attachments: AttachmentReader
    directory: Directory
    fetcher: "Fetcher | None"
    auth: AuthSettings
    metrics: Metrics
    tool_collections: Sequence[str] = ()
    collections_of_sites: Mapping[tuple[str, str], Sequence[str]] = dataclasses.field(
        default_factory=dict
    )

    async def search(
        self, message: Message, query: str, limit: int, collections: Iterable[str]
    ) -> tuple[Passage, ...]:
        """Return the knowledge base's best passages for a query, of these ``collections`` (empty:
        of all), and for visitors of a site, of those of the site. Raises `TooLarge`."""
        tenant = message.conversation.tenant
        of_site = self.collections_of_sites.get((tenant, site_of_person(message.person)), ())
        allowed = limit_collections(collections, of_site)
        try:
            return await self.knowledge.search(tenant, query, limit, allowed)
        except TooLarge:
            self.metrics.limit_reached("search_timeout")
            raise


class CallServices:
    """The `ToolServices` of one call. ``citations`` are those that it has made."""

    def __init__(
        self,
        resources: ToolResources,
        message: Message,
        history: Sequence[HistoryEntry],
        record: ReplyRecord,
        interruption: Interruption,
    ) -> None:
        self.citations: list[Citation] = []
        self._resources = resources
        self._message = message
        self._history = history
        self._record = record
        self._interruption = interruption

    @property
    def is_handed_over(self) -> bool:
        return self._interruption.is_handed_over

    @property
    def files(self) -> tuple[Attachment, ...]:
        of_history = (entry.attachments or () for entry in reversed(self._history))
        return tuple(
            dict.fromkeys(
                file for files in (self._message.attachments, *of_history) for file in files
            )
        )

    async def read_file(self, file: Attachment) -> Document:
        conversation = self._message.conversation
        return await self._resources.attachments.read_document(conversation, file)

    async def search(self, query: str, limit: int) -> tuple[Passage, ...]:
        allowed = self._resources.tool_collections
        return await self._resources.search(self._message, query, limit, allowed)

    def cite(self, passage: Passage) -> int:
        cited = self._record.citations
        citation = Citation(
            number=max(cited, default=0) + 1,
            document=passage.document,
            title=passage.title,
            section=passage.section,
            passage=passage.text,
        )
        for number, other in cited.items():
            if _is_same(other, citation):
                return number
        cited[citation.number] = citation
        self.citations.append(citation)
        return citation.number

    def withdraw_citations(self) -> None:
        """Remove the citations of a call that has failed."""
        for citation in self.citations:
            self._record.citations.pop(citation.number, None)

    async def search_conversations(self, query: str, limit: int) -> tuple[PastConversation, ...]:
        if not comparable(query):
            raise InvalidInput("The words to search for are empty.")
        await self._check_alone()
        own, person = self._message.conversation, self._message.person
        results = await self._resources.directory.search(
            own.tenant,
            person,
            ConversationFilter(channel=own.channel),
            query,
            before="",
            limit=limit + 1,
        )
        others = [each for each in results.found if each.summary.conversation != own]
        return tuple(
            PastConversation(
                title=each.summary.title,
                active_at=each.summary.active_at,
                excerpt=each.excerpt,
            )
            for each in others[:limit]
        )

    async def _check_alone(self) -> None:
        """Raise `Forbidden` unless the person's own conversations may be told here."""
        own, person = self._message.conversation, self._message.person
        if person in shared_identities(self._resources.auth, own.tenant):
            raise Forbidden(
                "Several people may stand behind this person, so no conversations are searched."
            )
        if await self._resources.ledger.members(own) - {person}:
            raise Forbidden(
                "Other people read this conversation, so those of the person are not searched here."
            )

    async def fetch(self, url: str) -> Document:
        if self._resources.fetcher is None:
            raise Forbidden("The operator of this server does not let tools fetch addresses.")
        written = [self._message.text]
        written += [entry.text for entry in reversed(self._history) if entry.role == "user"]
        file = await self._resources.fetcher.fetch(url, written)
        document = await self._resources.attachments.read_content(
            file.name, file.media_type, file.content
        )
        return dataclasses.replace(document, id=file.url, name=file.url)


def _is_same(one: Citation, other: Citation) -> bool:
    return (one.document, one.section, one.passage) == (
        other.document,
        other.section,
        other.passage,
    )
