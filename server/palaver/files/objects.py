"""Object stores: where the bytes of files are, on a disk or at a provider."""

import asyncio
import contextlib
import os
import re
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

from palaver.errors import ConfigurationError, FilesUnavailable, PalaverError
from palaver.private_files import make_private_directory

if TYPE_CHECKING:  # only servers with files load it
    from obstore.store import ObjectStore

PART_BYTES = 5 * 1_048_576
"""Bytes of one part of an upload to a provider, the least that S3 allows. Smaller files are written
with one request."""
READ_BYTES = 262_144
"""Bytes of a file that are read at once."""
TIMEOUT = 30.0
"""Seconds for one operation on a small object."""
RETRY_SECONDS = 20.0
"""Seconds for which a failed request to a provider is repeated."""
TRANSFER_SECONDS = 3_600
"""Seconds for writing or reading one file."""
MIN_FREE_BYTES = 536_870_912
"""Bytes that uploads leave free on a local disk, which has the ledger as well by default."""
_UNFINISHED = re.compile(r"#[0-9]+$")
"""Name of a file in a local directory that is being written."""
_LIST_OBJECTS = 1_000


class ObjectInfo(NamedTuple):
    """An object's path, its size in bytes, and when it was written, in seconds since the epoch."""

    path: str
    size: int
    at: float


class Objects(Protocol):
    """A store of objects by path. Each appears whole or not at all.

    Every method raises `FilesUnavailable` when the store cannot be reached.
    """

    async def start(self) -> None:
        """Open the store. Raises `ConfigurationError`."""

    async def write(self, path: str, pieces: AsyncIterator[bytes]) -> None:
        """Store an object as its content comes. When ``pieces`` raises, or the task is cancelled,
        nothing is stored."""

    async def put(self, path: str, content: bytes) -> None:
        """Store a small object; replace one of this path."""

    async def get(self, path: str) -> bytes | None:
        """Return a small object, or None when there is none."""

    def read(self, path: str) -> AsyncGenerator[bytes, None]:
        """Yield an object in pieces. Raises `FileNotFoundError`."""

    def list(self, prefix: str) -> AsyncGenerator[ObjectInfo, None]:
        """Yield the objects below a folder; those of one folder follow each other."""

    async def delete(self, paths: Sequence[str]) -> None:
        """Delete objects in this order. Those that do not exist are deleted already."""

    async def delete_unfinished(self, older_than: float) -> None:
        """Delete what writes have left that were killed this many seconds ago or earlier."""


class ObstoreObjects:
    """A store by URL, through the library obstore. An empty URL is the local ``directory``."""

    def __init__(self, url: str, directory: Path | None = None) -> None:
        self._url = url
        is_local = directory is None and url.startswith("file:")
        self._directory = Path(unquote(urlsplit(url).path)) if is_local else directory
        self._store: ObjectStore

    async def start(self) -> None:
        try:
            self._store = await asyncio.to_thread(self._open)
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise ConfigurationError(f"files.store cannot be used: {reason}") from error

    def _open(self) -> "ObjectStore":
        from obstore.store import LocalStore, from_url

        if self._directory is not None:
            make_private_directory(self._directory)
            return LocalStore(self._directory, automatic_cleanup=True)
        if self._url.startswith("memory:"):
            return from_url(self._url)
        options: dict[str, Any] = {  # Any: as the library declares them
            # The operator's endpoint may be http:// in a network of their own.
            "client_options": {"timeout": timedelta(seconds=TRANSFER_SECONDS), "allow_http": True},
            "retry_config": {"max_retries": 3, "retry_timeout": timedelta(seconds=RETRY_SECONDS)},
        }
        return from_url(self._url, **options)

    async def write(self, path: str, pieces: AsyncIterator[bytes]) -> None:
        import obstore

        if self._directory is not None:
            await asyncio.to_thread(_check_free, self._directory)
        first = bytearray()
        async for piece in pieces:
            first += piece
            if len(first) >= PART_BYTES:
                break
        else:
            await self.put(path, bytes(first))
            return
        with _translated():
            await obstore.put_async(
                self._store,
                path,
                _chain(bytes(first), pieces),
                chunk_size=PART_BYTES,
                max_concurrency=2,
            )

    async def put(self, path: str, content: bytes) -> None:
        import obstore

        with _translated():
            async with asyncio.timeout(TIMEOUT):
                await obstore.put_async(self._store, path, content, use_multipart=False)

    async def get(self, path: str) -> bytes | None:
        import obstore

        with _translated():
            async with asyncio.timeout(TIMEOUT):
                try:
                    found = await obstore.get_async(self._store, path)
                    return bytes(await found.bytes_async())
                except FileNotFoundError:
                    return None

    async def read(self, path: str) -> AsyncGenerator[bytes, None]:
        import obstore

        with _translated():
            async with asyncio.timeout(TIMEOUT):
                found = await obstore.get_async(self._store, path)
            async for piece in found.stream(min_chunk_size=READ_BYTES):
                content = memoryview(piece)
                for start in range(0, len(content), READ_BYTES):
                    yield bytes(content[start : start + READ_BYTES])

    async def list(self, prefix: str) -> AsyncGenerator[ObjectInfo, None]:
        import obstore

        with _translated():
            async for batch in obstore.list(self._store, prefix=prefix, chunk_size=_LIST_OBJECTS):
                for each in batch:
                    at = each["last_modified"].timestamp()
                    yield ObjectInfo(each["path"], each["size"], at)

    async def delete(self, paths: Sequence[str]) -> None:
        import obstore

        for path in paths:
            with _translated(), contextlib.suppress(FileNotFoundError):
                async with asyncio.timeout(TIMEOUT):
                    await obstore.delete_async(self._store, path)

    async def delete_unfinished(self, older_than: float) -> None:
        """Delete the drafts of a local directory. A provider's uploads in parts end by a rule of
        the bucket, see docs/security.md."""
        if self._directory is not None:
            await asyncio.to_thread(_delete_drafts, self._directory, time.time() - older_than)


async def _chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Raise `FilesUnavailable` for what the library raises, except for a missing object."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (FileNotFoundError, ConnectionError, PalaverError):  # of the client, too
        raise
    except (BaseError, OSError) as error:  # a TimeoutError is an OSError
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise FilesUnavailable(f"the store of files: {reason}") from error


def _check_free(directory: Path) -> None:
    """Leave room on the disk: the ledger may be on it. Raises `FilesUnavailable`."""
    free = shutil.disk_usage(directory).free
    if free < MIN_FREE_BYTES:
        raise FilesUnavailable(f"the disk of the files has only {free:_} bytes left")


def _delete_drafts(directory: Path, before: float) -> None:
    for folder, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError):
                if _UNFINISHED.search(name) and os.stat(path).st_mtime < before:
                    os.unlink(path)
        if folder != str(directory):
            with contextlib.suppress(OSError):  # one that is not empty stays
                os.rmdir(folder)
