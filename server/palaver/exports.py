"""Exports: puts the parts of an export together, as a whole or as a stream of JSON."""

from collections.abc import AsyncIterator

from palaver.ledger import EXPORT_BYTES, Export, HistoryEntry
from palaver.messages import Message, encode


async def collect_export(parts: AsyncIterator[Export]) -> Export:
    """Return the whole export."""
    conversations: dict[str, tuple[HistoryEntry, ...]] = {}
    pending: tuple[Message, ...] = ()
    memories: dict[str, str] = {}
    async for part in parts:
        for name, entries in part.conversations.items():
            conversations[name] = (*conversations.get(name, ()), *entries)
        pending = (*pending, *part.pending)
        memories |= part.memories
    return Export(
        tenant=part.tenant,
        person=part.person,
        conversations=conversations,
        pending=pending,
        memories=memories,
        at=part.at,
    )


class ExportPart:
    """Part of an export that a ledger fills. It ``is_full`` after `EXPORT_BYTES`."""

    def __init__(self, tenant: str, person: str) -> None:
        self._tenant, self._person = tenant, person
        self._reset()

    def _reset(self) -> None:
        self._conversations: dict[str, list[HistoryEntry]] = {}
        self._pending: list[Message] = []
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
            memories=self._memories,
            at=at,
        )
        self._reset()
        return part


class ExportEncoder:
    """Encodes the parts of an export, one after the other, as the JSON of the whole."""

    def __init__(self) -> None:
        self._last: Export | None = None
        self._conversation = ""
        self._section = ""
        """End of what precedes the next section: the sections are in a fixed order."""
        self._is_first = True

    def add(self, part: Export) -> bytes:
        """Return the JSON of the next part."""
        pieces: list[bytes] = []
        if self._last is None:
            tenant, person = encode(part.tenant), encode(part.person)
            pieces.append(b'{"tenant":%b,"person":%b,"conversations":{' % (tenant, person))
        self._last = part
        pieces += [self._history(name, entries) for name, entries in part.conversations.items()]
        if part.pending or part.memories:
            pieces.append(self._begin("pending"))
        pieces += [self._separated(encode(message)) for message in part.pending]
        if part.memories:
            pieces.append(self._begin("memories"))
        pieces += [
            self._separated(encode(key) + b":" + encode(value))
            for key, value in part.memories.items()
        ]
        return b"".join(pieces)

    def end(self) -> bytes:
        """Return the end of the JSON."""
        assert self._last is not None, "an export has at least one part"
        return self._begin("memories") + b'},"at":%b}' % encode(self._last.at)

    def _history(self, name: str, entries: tuple[HistoryEntry, ...]) -> bytes:
        encoded = encode(entries)[1:-1]
        if name == self._conversation:
            return b"," + encoded
        before = b"]," if self._conversation else b""
        self._conversation = name
        return before + encode(name) + b":[" + encoded

    def _begin(self, section: str) -> bytes:
        """Return what leads to a section, from wherever the JSON is."""
        before = b""
        if not self._section:
            before = (b"]" if self._conversation else b"") + b'},"pending":['
            self._section, self._is_first = "pending", True
        if section == "memories" and self._section == "pending":
            before += b'],"memories":{'
            self._section, self._is_first = "memories", True
        return before

    def _separated(self, item: bytes) -> bytes:
        comma = b"" if self._is_first else b","
        self._is_first = False
        return comma + item
