"""Tool services for calls of tools that use none."""

from palaver import Attachment, Document, Passage, PastConversation


class NoServices:
    """The `ToolServices` of a call without a server; their use fails the test."""

    is_handed_over = False

    @property
    def files(self) -> tuple[Attachment, ...]:
        raise AssertionError("the tool has asked for files")

    async def read_file(self, file: Attachment) -> Document:
        raise AssertionError(f"the tool has read {file}")

    async def search(self, query: str, limit: int) -> tuple[Passage, ...]:
        raise AssertionError(f"the tool has searched {query!r}")

    def cite(self, passage: Passage) -> int:
        raise AssertionError(f"the tool has cited {passage}")

    async def search_conversations(self, query: str, limit: int) -> tuple[PastConversation, ...]:
        raise AssertionError(f"the tool has searched conversations for {query!r}")

    async def fetch(self, url: str) -> Document:
        raise AssertionError(f"the tool has fetched {url!r}")
