"""Uploads in progress: their number, the quotas, and the content on its way."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

from palaver.config.settings import FilesSettings
from palaver.errors import (
    FileTooLarge,
    InvalidInput,
    Overloaded,
    PalaverError,
    RequestTimeout,
    TooMany,
)
from palaver.files.media_types import ContentInspector
from palaver.files.objects import TRANSFER_SECONDS, Objects

UPLOADS_OF_PERSON = 4
"""Uploads of one person at once."""
UPLOADS_OF_ADDRESS = 8
"""Uploads from one address at once."""
RETRY_AFTER = 3_600.0
"""Seconds after which a client may try again: somebody has to delete something first."""


class UploadLimits:
    """The limits of `FilesSettings` on uploads, and the counters that they need."""

    def __init__(self, settings: FilesSettings) -> None:
        self._settings = settings
        self.tenant_bytes: Counter[str] = Counter()
        """Bytes by the folder of the tenant, as the sweeper has counted them, and uploads since."""
        self.in_progress = 0
        self._of_person: Counter[str] = Counter()
        self._of_address: Counter[str] = Counter()

    @contextmanager
    def counting(self, person: str, address: str) -> Iterator[None]:
        """Count an upload. Raises `Overloaded` and `TooMany`."""
        if self.in_progress >= self._settings.uploads:
            raise Overloaded("many files are being uploaded; try again")
        for counter, key, most in (
            (self._of_person, person, UPLOADS_OF_PERSON),
            (self._of_address, address, UPLOADS_OF_ADDRESS),
        ):
            if key and counter[key] >= most:
                raise TooMany(
                    f"you upload {most} files already; wait for one of them",
                    reason="files_uploads",
                )
        self._add(person, address, 1)
        try:
            yield
        finally:
            self._add(person, address, -1)

    def _add(self, person: str, address: str, number: int) -> None:
        self.in_progress += number
        for counter, key in ((self._of_person, person), (self._of_address, address)):
            counter[key] += number
            if not counter[key]:
                del counter[key]

    def check_file(self, size: int, used: int = 0) -> None:
        """Refuse a file of so many bytes, or more, beside those that its person has ``used``.
        Raises `FileTooLarge` and `TooMany`."""
        if size > self._settings.max_file_bytes:
            raise FileTooLarge(f"a file may have {self._settings.max_file_bytes} bytes")
        if used + size > self._settings.person_bytes:
            raise _full("person_bytes", "your files take as much room as allowed")

    def check_person(self, files: int, size: int) -> None:
        """Refuse a person with so many files and bytes. Raises `TooMany`."""
        if files > self._settings.person_count:
            raise _full("person_count", "you have as many files as allowed")
        self.check_file(0, size)

    def check_tenant(self, folder: str, added: int) -> None:
        """Refuse further bytes of a tenant. Raises `TooMany`."""
        limit = self._settings.tenant_bytes
        if limit is not None and self.tenant_bytes[folder] + added > limit:
            raise _full("tenant_bytes", "your organisation's files take as much room as allowed")


def _full(limit: str, problem: str) -> TooMany:
    return TooMany(
        f"{problem} (files.{limit}); delete some, or ask the operator for more",
        retry_after=RETRY_AFTER,
        reason=f"files_{limit}",
    )


class Content:
    """The content of an upload on its way: counted, checked, hashed and inspected."""

    def __init__(self, pieces: AsyncIterator[bytes], check_size: Callable[[int], None]) -> None:
        self._pieces = pieces
        self._check_size = check_size
        self._digest = hashlib.sha256()
        self._inspector = ContentInspector()
        self.size = 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    @property
    def media_type(self) -> str:
        return self._inspector.media_type()

    async def store(self, objects: Objects, path: str) -> None:
        """Write all of it. Raises `RequestTimeout`, and `InvalidInput` when there is nothing."""
        try:
            async with asyncio.timeout(TRANSFER_SECONDS):
                await objects.write(path, self._read())
        except TimeoutError as error:
            if isinstance(error, PalaverError):  # the body's own
                raise
            raise RequestTimeout("the upload has taken too long") from error
        if not self.size:
            raise InvalidInput("the file is empty")

    async def _read(self) -> AsyncIterator[bytes]:
        async for piece in self._pieces:
            self.size += len(piece)
            self._check_size(self.size)
            self._digest.update(piece)
            self._inspector.feed(piece)
            yield piece
