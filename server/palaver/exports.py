"""Exports: puts the parts of an export together, as a whole, as a stream of JSON, or as numbers."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping

import msgspec

from palaver.feedback import Feedback
from palaver.ledger import EXPORT_BYTES, Export, HistoryEntry
from palaver.messages import Message, StoredFile, encode


async def collect_export(parts: AsyncIterator[Export]) -> Export:
    """Return the whole export."""
    conversations: dict[str, tuple[HistoryEntry, ...]] = {}
    pending: tuple[Message, ...] = ()
    titles: dict[str, str] = {}
    feedback: dict[str, tuple[Feedback, ...]] = {}
    memories: dict[str, str] = {}
    files: tuple[StoredFile, ...] = ()
    approvals: dict[str, float] = {}
    async for part in parts:
        for name, entries in part.conversations.items():
            conversations[name] = (*conversations.get(name, ()), *entries)
        pending = (*pending, *part.pending)
        titles |= part.titles
        feedback |= part.feedback
        memories |= part.memories
        files = (*files, *part.files)
        approvals |= part.approvals
    return Export(
        tenant=part.tenant,
        person=part.person,
        conversations=conversations,
        pending=pending,
        titles=titles,
        feedback=feedback,
        memories=memories,
        files=files,
        approvals=approvals,
        at=part.at,
    )


class DataSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of what is stored about a person: of their conversations, of their own messages, of
    those among them that wait for a reply, of the replies, titles, ratings, memories and files."""

    conversations: int
    messages: int
    waiting: int
    replies: int
    titles: int
    feedback: int
    memories: int
    files: int


async def summarize_export(parts: AsyncIterator[Export]) -> DataSummary:
    """Return the numbers of an export, of which only one part is in memory at a time."""
    conversations: set[str] = set()
    roles: Counter[str] = Counter()
    waiting = titles = feedback = memories = files = 0
    async for part in parts:
        conversations |= part.conversations.keys()
        roles.update(entry.role for entries in part.conversations.values() for entry in entries)
        waiting += len(part.pending)
        titles += len(part.titles)
        feedback += sum(map(len, part.feedback.values()))
        memories += len(part.memories)
        files += len(part.files)
    return DataSummary(
        conversations=len(conversations),
        messages=roles["user"] + waiting,
        waiting=waiting,
        replies=roles["assistant"],
        titles=titles,
        feedback=feedback,
        memories=memories,
        files=files,
    )


def export_beside_ledger(
    last: Export, files: tuple[StoredFile, ...], approvals: Mapping[str, float]
) -> Export:
    """Return the part of an export with the person's files and approvals, which follows the
    ``last`` one of the ledger."""
    return Export(
        tenant=last.tenant,
        person=last.person,
        conversations={},
        pending=(),
        memories={},
        files=files,
        approvals=dict(approvals),
        at=last.at,
    )


class ExportPart:
    """Part of an export that a ledger fills. It ``is_full`` after `EXPORT_BYTES`."""

    def __init__(self, tenant: str, person: str) -> None:
        self._tenant, self._person = tenant, person
        self._reset()

    def _reset(self) -> None:
        self._conversations: dict[str, list[HistoryEntry]] = {}
        self._pending: list[Message] = []
        self._titles: dict[str, str] = {}
        self._feedback: dict[str, tuple[Feedback, ...]] = {}
        self._memories: dict[str, str] = {}
        self._size = 0

    @property
    def is_full(self) -> bool:
        return self._size >= EXPORT_BYTES

    def add_history(self, conversation: str, entry: HistoryEntry) -> None:
        self._conversations.setdefault(conversation, []).append(entry)
        self._size += len(encode(entry))

    def add_pending(self, message: Message) -> None:
        self._pending.append(message)
        self._size += len(encode(message))

    def add_title(self, conversation: str, title: str) -> None:
        self._titles[conversation] = title
        self._size += len(conversation) + len(title)

    def add_feedback(self, conversation: str, feedback: tuple[Feedback, ...]) -> None:
        """Add all of the person's feedback in a conversation."""
        if feedback:
            self._feedback[conversation] = feedback
            self._size += len(conversation) + len(encode(feedback))

    def add_memory(self, key: str, value: str) -> None:
        self._memories[key] = value
        self._size += len(key) + len(value)

    def take(self, at: float) -> Export:
        """Return what was added since the last call."""
        part = Export(
            tenant=self._tenant,
            person=self._person,
            conversations={name: tuple(found) for name, found in self._conversations.items()},
            pending=tuple(self._pending),
            titles=self._titles,
            feedback=self._feedback,
            memories=self._memories,
            at=at,
        )
        self._reset()
        return part


_SECTIONS = {
    "conversations": b"{}",
    "pending": b"[]",
    "titles": b"{}",
    "feedback": b"{}",
    "memories": b"{}",
    "files": b"[]",
    "approvals": b"{}",
}
"""Sections of an export in their order, each an empty JSON value."""


class ExportEncoder:
    """Encodes the parts of an export, one after the other, as the JSON of the whole."""

    def __init__(self) -> None:
        self._last: Export | None = None
        self._conversation = ""
        self._sections = iter(_SECTIONS.items())
        """Those that have not begun."""
        self._section = ""
        self._closing = b""
        """End of the present section."""
        self._is_first = True

    def add(self, part: Export) -> bytes:
        """Return the JSON of the next part."""
        pieces: list[bytes] = []
        if self._last is None:
            tenant, person = encode(part.tenant), encode(part.person)
            pieces.append(b'{"tenant":%b,"person":%b' % (tenant, person))
        self._last = part
        pieces += [self._history(name, entries) for name, entries in part.conversations.items()]
        pieces += [self._item("pending", encode(message)) for message in part.pending]
        maps: tuple[tuple[str, Mapping[str, object]], ...] = (
            ("titles", part.titles),
            ("feedback", part.feedback),
            ("memories", part.memories),
        )
        for section, pairs in maps:
            pieces += [
                self._item(section, encode(key) + b":" + encode(value))
                for key, value in pairs.items()
            ]
        pieces += [self._item("files", encode(file)) for file in part.files]
        pieces += [
            self._item("approvals", encode(channel) + b":" + encode(at))
            for channel, at in part.approvals.items()
        ]
        return b"".join(pieces)

    def end(self) -> bytes:
        """Return the end of the JSON."""
        assert self._last is not None, "an export has at least one part"
        return self._enter("approvals") + b'%b,"at":%b}' % (self._closing, encode(self._last.at))

    def _history(self, name: str, entries: tuple[HistoryEntry, ...]) -> bytes:
        encoded = encode(entries)[1:-1]
        if name == self._conversation:
            return b"," + encoded
        before = b"]" if self._conversation else b""
        self._conversation = name
        before += self._item("conversations", encode(name) + b":[" + encoded)
        self._closing = b"]}"
        return before

    def _item(self, section: str, item: bytes) -> bytes:
        before = self._enter(section)
        comma = b"" if self._is_first else b","
        self._is_first = False
        return before + comma + item

    def _enter(self, section: str) -> bytes:
        """Return what leads to a section from the present one."""
        pieces = []
        while self._section != section:
            self._section, empty = next(self._sections)
            pieces.append(b"%b,%b:%b" % (self._closing, encode(self._section), empty[:1]))
            self._closing, self._is_first = empty[1:], True
        return b"".join(pieces)
