"""Lists, titles and shares of `palaver.testing.ledger.MemoryLedger`."""

from collections.abc import Iterable

from palaver.conversations import (
    ConversationChange,
    ConversationFilter,
    ConversationList,
    ConversationSummary,
    Share,
    list_position,
    parse_list_position,
)
from palaver.messages import Conversation


class ListedConversation:
    """What the members keep of a conversation."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._active_at: dict[str, float] = {}
        self._pinned: set[str] = set()
        self._archived: set[str] = set()
        self.title = ""
        self.shares: dict[str, tuple[Share, bytes]] = {}

    def record_message(self, person: str, now: float) -> None:
        self._active_at[person] = max(now, self._active_at.get(person, now))
        self._archived.discard(person)

    def summary(self, person: str) -> ConversationSummary:
        return ConversationSummary(
            conversation=self._conversation,
            active_at=self._active_at[person],
            title=self.title,
            pinned=person in self._pinned,
            archived=person in self._archived,
        )

    def change(self, person: str, change: ConversationChange) -> None:
        if change.title is not None and not (change.only_untitled and self.title):
            self.title = change.title
        for people, wanted in ((self._pinned, change.pinned), (self._archived, change.archived)):
            if wanted:
                people.add(person)
            elif wanted is not None:
                people.discard(person)

    def erase(self, person: str) -> None:
        """Remove a member, and what may contain their words."""
        del self._active_at[person]
        self._pinned.discard(person)
        self._archived.discard(person)
        self.title = ""
        self.shares.clear()


def make_list(
    summaries: Iterable[ConversationSummary], filter: ConversationFilter, before: str, limit: int
) -> ConversationList:
    """Return the part of the list that follows the position ``before``."""
    end = parse_list_position(before)
    found = sorted(
        ((s.active_at, str(s.conversation), s) for s in summaries if filter.selects(s)),
        reverse=True,
    )
    rest = [(at, name, summary) for at, name, summary in found if (at, name) < end or not before]
    page = rest[:limit]
    return ConversationList(
        conversations=tuple(summary for _, _, summary in page),
        next=list_position(*page[-1][:2]) if len(rest) > len(page) else "",
    )
