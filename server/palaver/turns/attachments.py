"""Attachments of a turn's messages: their content, their text, and passages of it."""

import asyncio
import base64
import binascii
import contextlib
import dataclasses
import time
from collections import OrderedDict
from collections.abc import Sequence
from urllib.parse import unquote_to_bytes

from palaver.errors import InvalidInput, NotFound, TooLarge
from palaver.files.layout import file_id
from palaver.files.store import FileStore
from palaver.knowledge import Document, DocumentReader, KnowledgeBase, Passage, ReadLimits
from palaver.messages import Attachment, Conversation
from palaver.metrics import Metrics

MAX_READERS = 2
"""Files that are read as documents at once: each takes a process and up to
`knowledge.read_memory_mib`."""


CACHED_CHARACTERS = 4_000_000
"""Characters of the documents that were read last, which a conversation often comes back to."""
CACHE_SECONDS = 600.0


class _Cache:
    """Documents that were read last, and why others could not be read.

    A document is read again after a while, so that a deleted one does not stay in memory.
    """

    def __init__(self) -> None:
        self._read: OrderedDict[Attachment, tuple[float, Document | str]] = OrderedDict()
        self._characters = 0

    def find(self, attachment: Attachment) -> Document | str | None:
        self._drop_old()
        _, read = self._read.get(attachment, (0.0, None))
        return read

    def add(self, attachment: Attachment, read: Document | str) -> None:
        self._drop(attachment)
        self._read[attachment] = (time.monotonic(), read)
        self._characters += _length(read)
        while self._characters > CACHED_CHARACTERS:
            self._drop(next(iter(self._read)))

    def _drop_old(self) -> None:
        oldest = time.monotonic() - CACHE_SECONDS
        while self._read and next(iter(self._read.values()))[0] < oldest:
            self._drop(next(iter(self._read)))

    def _drop(self, attachment: Attachment) -> None:
        if found := self._read.pop(attachment, None):
            self._characters -= _length(found[1])


def _length(read: Document | str) -> int:
    return len(read.text if isinstance(read, Document) else read)


class AttachmentReader:
    """Reads the files of messages, and searches in them."""

    def __init__(
        self, files: FileStore, knowledge: KnowledgeBase, limits: ReadLimits, metrics: Metrics
    ) -> None:
        self._files = files
        self._reader = knowledge if isinstance(knowledge, DocumentReader) else None
        self._limits = limits
        self._metrics = metrics
        self._readers = asyncio.Semaphore(MAX_READERS)
        self._cache = _Cache()

    async def read(self, conversation: Conversation, attachment: Attachment) -> bytes:
        """Return the content of a file that was sent in the conversation.

        Raises `NotFound` when it was deleted, or was never here.
        """
        id = await self._find(conversation, attachment)
        if id is None:
            return await read_data_url(attachment)
        try:
            async with contextlib.aclosing(self._files.read(conversation.tenant, id)) as pieces:
                return b"".join([piece async for piece in pieces])
        except FileNotFoundError as error:
            raise _deleted(attachment) from error

    async def _find(self, conversation: Conversation, attachment: Attachment) -> str | None:
        """Return the id of a stored file that was sent in the conversation, None for what is not
        stored. Raises `NotFound`."""
        id = file_id(attachment)
        if id is not None:
            try:
                await self._files.find_sent(conversation, id)
            except NotFound as error:
                raise _deleted(attachment) from error
        return id

    async def read_document(self, conversation: Conversation, attachment: Attachment) -> Document:
        """Return the text of a file. Raises as `read`, and `InvalidInput` for one without text."""
        if self._reader is None:
            raise InvalidInput(
                f"the file {attachment.name!r} cannot be read: this server's knowledge base reads "
                "no files"
            )
        await self._find(conversation, attachment)
        read = self._cache.find(attachment)
        if read is None:
            async with self._readers:
                content = await self.read(conversation, attachment)
                read = await self._read_content(self._reader, attachment, content)
            self._cache.add(attachment, read)
        if isinstance(read, Document):
            return read
        raise InvalidInput(f"the file {attachment.name!r} cannot be read: {read}")

    async def _read_content(
        self, reader: DocumentReader, attachment: Attachment, content: bytes
    ) -> Document | str:
        """Return the document, or why it cannot be read."""
        name, media_type = attachment.name, attachment.media_type
        try:
            document = await reader.read_file(name, media_type, content, self._limits)
        except InvalidInput as error:
            return str(error)
        return dataclasses.replace(document, id=attachment.url, name=name)

    async def read_content(self, name: str, media_type: str, content: bytes) -> Document:
        """Return the text of a file that is not of the conversation. Raises `InvalidInput`."""
        if self._reader is None:
            raise InvalidInput(f"{name!r} cannot be read: the knowledge base reads no files")
        async with self._readers:
            try:
                return await self._reader.read_file(name, media_type, content, self._limits)
            except InvalidInput as error:
                raise InvalidInput(f"{name!r} cannot be read: {error}") from error

    async def search(
        self, documents: Sequence[Document], query: str, limit: int
    ) -> tuple[Passage, ...]:
        """Return the best passages of the documents. Raises `TooLarge`."""
        if self._reader is None:
            raise InvalidInput("this server's knowledge base searches in no files")
        try:
            return await self._reader.search_in(documents, query, limit)
        except TooLarge:
            self._metrics.limit_reached("search_timeout")
            raise


def _deleted(attachment: Attachment) -> NotFound:
    return NotFound(f"the file {attachment.name!r} was deleted")


async def read_data_url(attachment: Attachment) -> bytes:
    """Return the content of an attachment whose ``data:`` URL (RFC 2397) holds it. Raises
    `NotFound` for another URL."""
    head, comma, data = attachment.url.partition(",")
    if not head.startswith("data:") or not comma:
        raise NotFound(f"the file {attachment.name!r} is not stored here")
    content = unquote_to_bytes(data)
    try:
        return base64.b64decode(content) if head.endswith(";base64") else content
    except binascii.Error as error:
        raise NotFound(f"the file {attachment.name!r} has a malformed data: URL") from error
