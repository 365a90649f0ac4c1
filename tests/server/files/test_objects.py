"""Object stores: a local directory, memory, and an S3 server where one is installed."""

import asyncio
import os
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.ports import free_port
from tests.server.files.stores import in_pieces, paths_in

from palaver.app import BackendBuilder
from palaver.config.settings import FilesSettings, Settings
from palaver.errors import ConfigurationError, FilesUnavailable
from palaver.files.objects import PART_BYTES, ObstoreObjects
from palaver.files.store import FileStore
from palaver.plugins import load_plugins

LARGE = [bytes([number]) * 1_000_003 for number in range(3 * PART_BYTES // 1_000_000)]


@pytest.fixture(params=["local", "file URL", "memory"])
async def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObstoreObjects:
    folder = tmp_path / "a folder" / "files"
    made = {
        "local": ObstoreObjects("", folder),
        "file URL": ObstoreObjects((tmp_path / "a folder").as_uri()),
        "memory": ObstoreObjects("memory:///"),
    }[request.param]
    await made.start()
    return made


async def read(objects: ObstoreObjects, path: str) -> bytes:
    return b"".join([piece async for piece in objects.read(path)])


async def test_objects_are_written_read_listed_and_deleted(objects: ObstoreObjects) -> None:
    await objects.put("a/b/small", b"x")
    await objects.write("a/b/streamed", in_pieces(b"1", b"2"))
    await objects.write("a/c/large", in_pieces(*LARGE))
    assert await objects.get("a/b/small") == b"x"
    assert await read(objects, "a/b/streamed") == b"12"
    assert await read(objects, "a/c/large") == b"".join(LARGE)
    listed = [found async for found in objects.list("a/b")]
    assert sorted((found.path, found.size) for found in listed) == [
        ("a/b/small", 1),
        ("a/b/streamed", 2),
    ]
    assert all(abs(found.at - time.time()) < 60 for found in listed)
    await objects.delete(["a/b/small", "a/b/missing", "a/b/streamed"])
    assert await paths_in(objects) == ["a/c/large"]


async def test_what_does_not_exist_is_told(objects: ObstoreObjects) -> None:
    assert await objects.get("a/b") is None
    with pytest.raises(FileNotFoundError):
        await read(objects, "a/b")
    assert [found async for found in objects.list("a")] == []


async def test_a_write_that_fails_stores_nothing(objects: ObstoreObjects) -> None:
    async def failing() -> AsyncIterator[bytes]:
        for piece in LARGE:
            yield piece
        raise ConnectionResetError("the client is gone")

    with pytest.raises(ConnectionResetError):
        await objects.write("a/b", failing())
    assert await objects.get("a/b") is None


async def test_a_write_that_is_cancelled_stores_nothing(objects: ObstoreObjects) -> None:
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        for number in range(10**9):
            yield LARGE[0]
            if number > 8:
                begun.set()
            await asyncio.sleep(0)

    running = asyncio.create_task(objects.write("a/b", endless()))
    await asyncio.wait_for(begun.wait(), 5)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await objects.get("a/b") is None


async def test_an_object_is_replaced_as_a_whole(objects: ObstoreObjects) -> None:
    await objects.put("a", b"first and longer")
    await objects.put("a", b"second")
    assert await objects.get("a") == b"second"


async def test_a_local_directory_is_its_owners_and_is_left_without_empty_folders(
    tmp_path: Path,
) -> None:
    objects = ObstoreObjects("", tmp_path / "files")
    await objects.start()
    await objects.put("a/b/c", b"x")
    assert stat.S_IMODE((tmp_path / "files").stat().st_mode) == 0o700
    await objects.delete(["a/b/c"])
    assert _names_in(tmp_path / "files") == []


async def test_the_drafts_of_killed_writes_are_deleted_when_they_are_old(tmp_path: Path) -> None:
    objects = ObstoreObjects("", tmp_path)
    await objects.start()
    old, new, kept = (tmp_path / "a" / name for name in ("content#1", "content#2", "content"))
    old.parent.mkdir()
    for path in (old, new, kept):
        path.write_bytes(b"x")
    for path in (old, kept):
        os.utime(path, (time.time() - 100, time.time() - 100))
    alone = tmp_path / "b" / "content#1"
    alone.parent.mkdir()
    alone.write_bytes(b"x")
    os.utime(alone, (0, 0))
    await objects.delete_unfinished(60)
    assert _names_in(tmp_path) == ["a", "content", "content#2"]


def _names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("*"))


async def test_uploads_leave_room_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = ObstoreObjects("", tmp_path)
    await objects.start()
    await objects.write("a/b", in_pieces(b"x"))
    monkeypatch.setattr("palaver.files.objects.MIN_FREE_BYTES", 2**63)
    with pytest.raises(FilesUnavailable, match="bytes left"):
        await objects.write("a/c", in_pieces(b"x"))
    await objects.put("a/d", b"marks are small")
    assert await paths_in(objects) == ["a/b", "a/d"]


async def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "files").write_bytes(b"")
    with pytest.raises(ConfigurationError, match=r"files\.store"):
        await ObstoreObjects("", tmp_path / "files").start()


async def test_a_provider_that_cannot_be_reached_is_an_error_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setattr("palaver.files.objects.RETRY_SECONDS", 0.05)
    objects = ObstoreObjects("s3://bucket/folder")
    await objects.start()
    with pytest.raises(FilesUnavailable):
        await objects.get("a")


@pytest.mark.parametrize("url", ["az://", "s3://"])
async def test_a_store_that_lacks_something_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"files\.store"):
        await ObstoreObjects(url).start()


@pytest.mark.parametrize("url", ["s3:bucket", "ftp://host/a", "bucket", "s3://key:secret@bucket"])
def test_a_wrong_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="store"):
        FilesSettings(store=url)


@pytest.fixture(params=["", "file URL"])
def chosen(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[FileStore, Path]:
    """Return a store as settings choose it, and the folder where its files must be."""
    folder = tmp_path / "chosen" if request.param else tmp_path / "data" / "files"
    store = folder.as_uri() if request.param else ""
    settings = Settings.model_validate(
        {"server": {"data": tmp_path / "data"}, "files": {"store": store}}
    )
    return BackendBuilder(settings, load_plugins()).files(), folder


async def test_the_settings_choose_the_store(chosen: tuple[FileStore, Path]) -> None:
    files, folder = chosen
    await files.start()
    await files.upload("acme", "ada", "a", in_pieces(b"x"))
    assert {"about.json", "content"} <= set(_names_in(folder))
