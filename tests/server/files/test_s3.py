"""The file store on a real S3 server: moto, where it is installed (``MOTO_SERVER`` names it)."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio
from tests.ports import free_port
from tests.server.files.stores import attach, content_of, in_pieces, paths_in

from palaver.config.settings import FilesSettings
from palaver.files.objects import PART_BYTES, ObstoreObjects
from palaver.files.store import FileStore
from palaver.files.sweeper import Sweeper
from palaver.messages import Conversation

MOTO = os.environ.get("MOTO_SERVER") or shutil.which("moto_server")
THREAD = Conversation("acme", "web", "t")
LARGE = [bytes([number]) * 1_000_003 for number in range(3 * PART_BYTES // 1_000_000)]

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(MOTO is None, reason="needs moto_server: pip install 'moto[server]'"),
]


@pytest_asyncio.fixture
async def address(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """Run an S3 server with a bucket, and name it in the environment."""
    port = free_port()
    assert MOTO is not None
    server = await asyncio.create_subprocess_exec(
        MOTO, "-p", str(port), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}"
    for name, value in {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        await create_bucket(address)
        yield address
    finally:
        server.terminate()
        await server.wait()


async def create_bucket(address: str) -> None:
    async with asyncio.timeout(60), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.put(f"{address}/bucket") as response:
                    assert response.status == 200
                    return
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.1)


async def unfinished_uploads(address: str) -> int:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{address}/bucket?uploads") as response:
            return (await response.text()).count("<Upload>")


async def test_files_are_kept_at_a_provider(address: str) -> None:
    store = FileStore(ObstoreObjects("s3://bucket/a folder"), FilesSettings())
    await store.start()
    small = await store.upload("acme", "ada", "small.txt", in_pieces(b"hello"))
    large = await store.upload("acme", "ada", "large", in_pieces(*LARGE))
    assert await content_of(store, "acme", small.id) == b"hello"
    assert await content_of(store, "acme", large.id) == b"".join(LARGE)
    await attach(store, THREAD, "ada", [small.id])
    assert (await store.find_sent(THREAD, small.id)).sha256 == small.sha256
    assert {file.name for file in await store.files("acme", "ada")} == {"small.txt", "large"}

    async def nobody(conversation: Conversation) -> frozenset[str]:
        return frozenset()

    await Sweeper(store, nobody).sweep()
    assert sum(store.uploads.tenant_bytes.values()) == small.size + large.size
    assert await store.erase("acme", "ada", THREAD) == 1
    assert await store.erase("acme", "ada") == 1
    assert [path for path in await paths_in(store.objects) if not path.endswith("erased")] == []


async def test_an_upload_that_fails_leaves_no_parts(address: str) -> None:
    store = FileStore(ObstoreObjects("s3://bucket"), FilesSettings())
    await store.start()

    async def failing() -> AsyncIterator[bytes]:
        for piece in LARGE:
            yield piece
        raise ConnectionResetError("the client is gone")

    with pytest.raises(ConnectionResetError):
        await store.upload("acme", "ada", "a", failing())
    assert await unfinished_uploads(address) == 0
    assert await paths_in(store.objects) == []
