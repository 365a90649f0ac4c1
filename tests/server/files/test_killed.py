"""A process that is killed during an upload leaves no file, and nothing for long."""

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest
from tests.server.files.stores import attach, content_of, in_pieces

from palaver.config.settings import FilesSettings
from palaver.files.objects import ObstoreObjects
from palaver.files.store import FileStore
from palaver.files.sweeper import SETTLING_SECONDS, Sweeper
from palaver.messages import Conversation

pytestmark = pytest.mark.live

PROGRAM = """
import asyncio, sys
from pathlib import Path
from palaver.config.settings import FilesSettings
from palaver.files.objects import ObstoreObjects
from palaver.files.store import FileStore

async def endless():
    number = 0
    while True:
        yield bytes(1_000_000)
        number += 1
        if number == 20:
            print("begun", flush=True)
        await asyncio.sleep(0.001)

async def main():
    store = FileStore(ObstoreObjects("", Path(sys.argv[1])), FilesSettings(
        max_file_bytes=10**15, person_bytes=10**15))
    await store.start()
    await store.upload("acme", "ada", "a", endless())

asyncio.run(main())
"""


async def nobody(conversation: Conversation) -> frozenset[str]:
    return frozenset()


def files_in(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def make_old(directory: Path) -> None:
    long_ago = time.time() - SETTLING_SECONDS - 60
    for path in files_in(directory):
        os.utime(path, (long_ago, long_ago))


async def test_a_killed_upload_leaves_no_file_and_its_draft_is_swept(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):  # the interpreter starts
            assert await process.stdout.readline() == b"begun\n"
    finally:
        process.kill()
        await process.wait()
    [draft] = await asyncio.to_thread(files_in, tmp_path)
    assert "#" in draft.name
    store = FileStore(ObstoreObjects("", tmp_path), FilesSettings(expiry=30))
    await store.start()
    assert await store.files("acme", "ada") == ()
    file = await store.upload("acme", "ada", "b", in_pieces(b"next"))
    await Sweeper(store, nobody).sweep()
    assert await asyncio.to_thread(lambda: len(files_in(tmp_path))) == 3, "it may be in progress"
    await asyncio.to_thread(make_old, tmp_path)
    await attach(store, Conversation("acme", "web", "t"), "ada", [file.id])
    await Sweeper(store, nobody).sweep()
    assert await content_of(store, "acme", file.id) == b"next"
    assert await asyncio.to_thread(lambda: len(files_in(tmp_path))) == 3, "the draft is gone"
    await asyncio.to_thread(make_old, tmp_path)
    await Sweeper(store, nobody).sweep()
    assert await asyncio.to_thread(lambda: list(tmp_path.iterdir())) == []
