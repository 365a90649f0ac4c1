"""The file store: what people have uploaded, with its limits, and who may read it.

`palaver.files.layout` has the paths of the objects, and the order in which they are written.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import msgspec

from palaver.config.settings import FilesSettings
from palaver.errors import Conflict, FilesUnavailable, InvalidInput
from palaver.files.layout import (
    FileRecord,
    FolderOfFile,
    content_path,
    decode_record,
    erased_mark,
    file_folder,
    file_id,
    id_of,
    new_file_folder,
    no_such_file,
    person_folder,
    record_path,
    sent_folder,
    sent_mark,
    tenant_folder,
)
from palaver.files.names import clean_name
from palaver.files.objects import Objects
from palaver.files.uploads import Content, UploadLimits
from palaver.messages import Attachment, Conversation, FileLimits, Message, StoredFile, encode

T = TypeVar("T")
R = TypeVar("R")
REQUESTS_AT_ONCE = 16
"""Requests to the store at once, for one call."""


class FileStore:
    """The files of all people. They are in ``objects``; the limits are those of ``settings``."""

    def __init__(
        self,
        objects: Objects,
        settings: FilesSettings,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.objects = objects
        self.settings = settings
        self.clock = clock
        self.uploads = UploadLimits(settings)

    async def start(self) -> None:
        """Open the store. Raises `ConfigurationError`."""
        await self.objects.start()

    async def probe(self) -> None:
        """Open the store, and read from it. Raises `ConfigurationError` and `FilesUnavailable`."""
        await self.start()
        await self.objects.get("probe")

    @property
    def limits(self) -> FileLimits | None:
        """Return what clients should know before an upload; None: nobody may upload."""
        settings = self.settings
        if not settings.person_count:
            return None
        return FileLimits(max_file_bytes=settings.max_file_bytes, per_message=settings.per_message)

    # Uploads

    async def upload(
        self,
        tenant: str,
        person: str,
        name: str,
        pieces: AsyncIterator[bytes],
        *,
        length: int | None = None,
        address: str = "",
    ) -> StoredFile:
        """Store a file as its content comes; ``length`` is what the client has declared, and
        ``address`` where it is.

        Raises `FileTooLarge`, `TooMany`, `Overloaded`, `InvalidInput` for an empty file,
        `RequestTimeout` and `FilesUnavailable`; then nothing is stored.
        """
        limits, owner = self.uploads, person_folder(tenant, person)
        limits.check_file(length or 0)
        with limits.counting(owner, address):
            erased_before = await self.objects.get(erased_mark(owner))
            limits.check_tenant(tenant_folder(tenant), length or 1)
            used = await self._check_room(owner, added_bytes=length or 1, added_files=1)
            folder = new_file_folder(owner)
            try:
                content = Content(pieces, lambda size: limits.check_file(size, used))
                await content.store(self.objects, content_path(folder))
                # Again, with this file: several uploads at once must not all pass.
                await self._check_room(owner)
                limits.check_tenant(tenant_folder(tenant), content.size)
                limits.tenant_bytes[tenant_folder(tenant)] += content.size
                file = await self._write_record(folder, tenant, person, name, content)
                await self._check_not_erased(owner, erased_before)
            except BaseException:
                await asyncio.shield(self._remove_failed(folder))
                raise
            return file

    async def _write_record(
        self, folder: str, tenant: str, person: str, name: str, content: Content
    ) -> StoredFile:
        now = self.clock()
        file = StoredFile(
            id=id_of(folder),
            name=clean_name(name),
            media_type=content.media_type,
            size=content.size,
            sha256=content.sha256,
            created_at=now,
            expires_at=now + self.settings.expiry,
        )
        record = FileRecord(tenant=tenant, person=person, file=file)
        await self.objects.put(record_path(folder), encode(record))
        return file

    async def _check_not_erased(self, owner: str, mark_before: bytes | None) -> None:
        mark = await self.objects.get(erased_mark(owner))
        if mark is not None and mark != mark_before:
            raise Conflict("the person's data was erased during the upload")

    async def _check_room(self, owner: str, *, added_bytes: int = 0, added_files: int = 0) -> int:
        """Raise `TooMany` when a person has more than allowed; return the bytes of the files."""
        folders = await self.folders(owner)
        size = sum(each.size for each in folders)
        self.uploads.check_person(len(folders) + added_files, size + added_bytes)
        return size

    async def _remove_failed(self, folder: str) -> None:
        """Delete what a failed upload has written; what cannot be deleted now is swept later."""
        with suppress(FilesUnavailable):
            await self.objects.delete([record_path(folder), content_path(folder)])

    # Reading

    async def folders(self, folder: str) -> list[FolderOfFile]:
        """Return the files in a person's folder, those that are not complete included."""
        found: dict[str, FolderOfFile] = {}
        async for each in self.objects.list(folder):
            parts = each.path.split("/")
            if len(parts) > 3:
                path = "/".join(parts[:3])
                found.setdefault(path, FolderOfFile(path)).add(each)
        return list(found.values())

    async def files(self, tenant: str, person: str) -> tuple[StoredFile, ...]:
        """Return a person's files, the newest first."""
        found = []
        folders = await self.folders(person_folder(tenant, person))
        records = await _at_once(self._read_record, [folder.path for folder in folders])
        for folder, record in zip(folders, records, strict=True):
            if record is not None and record.person == person:
                expires_at = None if folder.sent else record.file.expires_at
                found.append(msgspec.structs.replace(record.file, expires_at=expires_at))
        return tuple(sorted(found, key=lambda file: (-file.created_at, file.id)))

    async def find_own(self, tenant: str, person: str, id: str) -> StoredFile:
        """Return a file of the person. Raises `NotFound`."""
        record = await self._read_record(file_folder(tenant, id))
        if record is None or (record.tenant, record.person) != (tenant, person):
            raise no_such_file(id)
        return record.file

    async def find_sent(self, conversation: Conversation, id: str) -> StoredFile:
        """Return a file that was sent in a conversation. Raises `NotFound`."""
        folder = file_folder(conversation.tenant, id)
        sent = await self.objects.get(sent_mark(folder, conversation))
        record = None if sent is None else await self._read_record(folder)
        if record is None or record.tenant != conversation.tenant:
            raise no_such_file(id)
        return record.file

    async def author_of(self, folder: FolderOfFile) -> str:
        """Return the person who has uploaded a file."""
        record = await self._read_record(folder.path)
        return "" if record is None else record.person

    async def _read_record(self, folder: str) -> FileRecord | None:
        content = await self.objects.get(record_path(folder))
        return None if content is None else decode_record(content)

    def read(self, tenant: str, id: str) -> AsyncGenerator[bytes, None]:
        """Yield the content of a file that was found."""
        return self.objects.read(content_path(file_folder(tenant, id)))

    # Sending

    async def find_attachments(
        self, tenant: str, person: str, ids: Sequence[str]
    ) -> tuple[Attachment, ...]:
        """Return files of the person as the attachments of a message; a file that is named twice is
        attached once. Raises `NotFound` and `InvalidInput`."""
        ids = list(dict.fromkeys(ids))
        if len(ids) > self.settings.per_message:
            raise InvalidInput(
                f"a message may have {self.settings.per_message} files, not {len(ids)}"
            )

        async def find(id: str) -> Attachment:
            file = await self.find_own(tenant, person, id)
            assert file.expires_at is not None
            if file.expires_at <= self.clock() and not await self._is_sent(file_folder(tenant, id)):
                raise no_such_file(id)
            return file.attachment

        return tuple(await _at_once(find, ids))

    async def mark_sent(self, message: Message) -> None:
        """Let the members of the conversation read the person's own files among the attachments,
        which stay as long as it does."""

        async def mark(id: str) -> None:
            folder = file_folder(message.conversation.tenant, id)
            path = sent_mark(folder, message.conversation)
            if not await self._is_own(folder, message.person):
                return
            await self.objects.put(path, str(message.conversation).encode())
            if not await self._is_own(folder, message.person):  # deleted in the meantime
                await self.objects.delete([path])

        await _at_once(mark, [id for each in message.attachments if (id := file_id(each))])

    async def _is_own(self, folder: str, person: str) -> bool:
        record = await self._read_record(folder)
        return record is not None and record.person == person

    async def _is_sent(self, folder: str) -> bool:
        async for _ in self.objects.list(sent_folder(folder)):
            return True
        return False

    # Deleting

    async def delete(self, tenant: str, person: str, id: str) -> None:
        """Delete a file of the person. Raises `NotFound`."""
        await self.find_own(tenant, person, id)
        folder = FolderOfFile(file_folder(tenant, id))
        async for found in self.objects.list(folder.path):
            folder.add(found)
        await self.delete_folder(folder)

    async def delete_files_of(self, message: Message) -> None:
        """Delete the person's files with a message that is removed, but those that they also sent
        to another conversation."""

        async def delete(id: str) -> None:
            folder = FolderOfFile(file_folder(message.conversation.tenant, id))
            async for found in self.objects.list(folder.path):
                folder.add(found)
            if len(folder.sent) <= 1 and await self._is_own(folder.path, message.person):
                await self.delete_folder(folder)

        await _at_once(delete, [id for each in message.attachments if (id := file_id(each))])

    async def erase(
        self, tenant: str, person: str, conversation: Conversation | None = None
    ) -> int:
        """Delete the person's files, or those that they sent in one conversation and in no other.
        Return their number."""
        path = person_folder(tenant, person)
        if conversation is not None:
            return await self._erase_sent(path, conversation)
        await self.objects.put(erased_mark(path), secrets.token_bytes(16))
        folders = await self.folders(path)  # after the mark: an upload has seen it, or is here
        await _at_once(self.delete_folder, folders)
        return len(folders)

    async def _erase_sent(self, path: str, conversation: Conversation) -> int:
        erased = 0
        for folder in await self.folders(path):
            mark = sent_mark(folder.path, conversation)
            if mark not in [each.path for each in folder.sent]:
                continue
            if len(folder.sent) > 1:
                await self.objects.delete([mark])
            else:
                await self.delete_folder(folder)
                erased += 1
        return erased

    async def delete_folder(self, folder: FolderOfFile) -> None:
        """Delete a file."""
        await self.objects.delete(folder.paths())
        self.uploads.tenant_bytes[folder.path.partition("/")[0]] -= folder.size


async def _at_once(call: Callable[[T], Awaitable[R]], values: Sequence[T]) -> list[R]:
    """Return the results of a call for each value, some of them at once: a provider answers each
    request late. The first error is raised when the others have ended."""
    results: list[R] = []
    for start in range(0, len(values), REQUESTS_AT_ONCE):
        batch = [call(value) for value in values[start : start + REQUESTS_AT_ONCE]]
        for result in await asyncio.gather(*batch, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
            results.append(result)
    return results
