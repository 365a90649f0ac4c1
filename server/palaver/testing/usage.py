"""Storage usage of people and tenants in `palaver.testing.ledger.MemoryLedger`."""

from collections import Counter

from palaver.ledger import StorageUsage
from palaver.testing.conversation_state import ConversationState

WHOLE_TENANT = ""


class StorageCounters:
    """Counts of bytes and conversations by tenant and person, and of whole tenants."""

    def __init__(self) -> None:
        self._bytes: Counter[tuple[str, str]] = Counter()
        self._conversations: Counter[tuple[str, str]] = Counter()

    def usage(self, tenant: str, person: str = WHOLE_TENANT) -> StorageUsage:
        key = tenant, person
        return StorageUsage(bytes=self._bytes[key], conversations=self._conversations[key])

    def charge(self, state: ConversationState, person: str, size: int) -> None:
        """Count bytes for a member of a conversation."""
        first = not state.usage
        is_new = person not in state.usage
        state.usage[person] = state.usage.get(person, 0) + size
        self._add(state, person, size, int(is_new), int(first))

    def release(self, state: ConversationState, person: str) -> None:
        """Stop counting what a person has stored in a conversation."""
        if (size := state.usage.pop(person, None)) is not None:
            self._add(state, person, -size, -1, -int(not state.usage))

    def _add(
        self, state: ConversationState, person: str, size: int, theirs: int, conversations: int
    ) -> None:
        tenant = state.conversation.tenant
        for key, count in (((tenant, person), theirs), ((tenant, WHOLE_TENANT), conversations)):
            self._bytes[key] += size
            self._conversations[key] += count
            if not self._conversations[key]:  # an erased person leaves no trace
                del self._bytes[key], self._conversations[key]
