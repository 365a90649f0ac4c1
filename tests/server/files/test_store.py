"""The file store: limits, owners, conversations, and what is left when a process is killed."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

import pytest
from tests.server.files.stores import (
    Killed,
    attach,
    content_of,
    in_pieces,
    memory_store,
    paths_in,
    unavailable,
)
from tests.server.web.live_server import eventually

from palaver.errors import (
    Conflict,
    FilesUnavailable,
    FileTooLarge,
    InvalidInput,
    NotFound,
    Overloaded,
    TooMany,
)
from palaver.files.layout import file_id
from palaver.files.store import FileStore
from palaver.messages import Attachment, Conversation, StoredFile

THREAD = Conversation("acme", "web", "t")
OTHER = Conversation("acme", "web", "other")
CONTENT = b"Hello " * 100


async def upload(
    store: FileStore,
    content: bytes = CONTENT,
    name: str = "a.txt",
    *,
    person: str = "ada",
    tenant: str = "acme",
) -> StoredFile:
    return await store.upload(tenant, person, name, in_pieces(content))


# Uploads


async def test_an_upload_is_stored_with_its_type_and_its_digest() -> None:
    store, _ = await memory_store(expiry=60)
    file = await store.upload("acme", "ada", "../a.pdf", in_pieces(b"%PDF", b"-1.7 ", b"x"))
    assert (file.name, file.media_type, file.size) == ("a.pdf", "application/pdf", 10)
    assert file.sha256 == hashlib.sha256(b"%PDF-1.7 x").hexdigest()
    assert file.expires_at == file.created_at + 60
    assert await store.find_own("acme", "ada", file.id) == file
    assert await content_of(store, "acme", file.id) == b"%PDF-1.7 x"
    assert await store.files("acme", "ada") == (file,)


async def test_a_large_upload_comes_back_as_it_was_sent() -> None:
    store, _ = await memory_store()
    pieces = [bytes([number]) * 1_000_001 for number in range(12)]
    file = await store.upload("acme", "ada", "a", in_pieces(*pieces))
    assert await content_of(store, "acme", file.id) == b"".join(pieces)


async def test_a_file_above_the_limit_is_refused_and_nothing_of_it_stays() -> None:
    store, objects = await memory_store(max_file_bytes=10)
    for declared in (None, 5, 11):
        with pytest.raises(FileTooLarge):
            await store.upload("acme", "ada", "a", in_pieces(b"12345", b"678901"), length=declared)
    assert await paths_in(objects) == []
    assert (await upload(store, b"1234567890")).size == 10


async def test_an_empty_file_is_refused() -> None:
    store, objects = await memory_store()
    with pytest.raises(InvalidInput, match="empty"):
        await store.upload("acme", "ada", "a", in_pieces(b""))
    assert await paths_in(objects) == []


async def test_a_person_has_no_more_files_than_set() -> None:
    store, _ = await memory_store(person_count=2)
    first = await upload(store)
    await upload(store)
    with pytest.raises(TooMany, match="person_count"):
        await upload(store)
    await upload(store, person="bob")
    await store.delete("acme", "ada", first.id)
    await upload(store)


async def test_a_person_has_no_more_bytes_than_set() -> None:
    store, objects = await memory_store(person_bytes=10)
    await upload(store, b"123456")
    before = await paths_in(objects)
    for declared in (None, 1, 5):
        with pytest.raises(TooMany, match="person_bytes"):
            await store.upload("acme", "ada", "a", in_pieces(b"123", b"45"), length=declared)
    assert await paths_in(objects) == before
    await upload(store, b"1234")


async def test_a_tenant_has_no_more_bytes_than_set() -> None:
    store, _ = await memory_store(tenant_bytes=10)
    file = await upload(store, b"123456")
    await upload(store, b"1234", person="bob")
    with pytest.raises(TooMany, match="tenant_bytes"):
        await upload(store, b"1", person="eve")
    await upload(store, b"123456", tenant="other")
    await store.delete("acme", "ada", file.id)
    await upload(store, b"1", person="eve")


async def test_uploads_at_once_do_not_pass_the_quota_together() -> None:
    store, objects = await memory_store(person_bytes=10)
    results = await asyncio.gather(
        *(upload(store, b"123456") for _ in range(4)), return_exceptions=True
    )
    assert sum(isinstance(result, StoredFile) for result in results) <= 1
    assert len(await paths_in(objects)) == 2 * sum(
        isinstance(result, StoredFile) for result in results
    )


async def test_no_more_uploads_run_at_once_than_set() -> None:
    store, _ = await memory_store(uploads=2)
    begun, end = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"a"
        begun.set()
        await end.wait()

    running = [
        asyncio.create_task(store.upload("acme", person, "a", slow())) for person in ("ada", "bob")
    ]
    await asyncio.wait_for(begun.wait(), 5)
    with pytest.raises(Overloaded):
        await upload(store, person="eve")
    end.set()
    await asyncio.gather(*running)
    assert store.uploads.in_progress == 0
    await upload(store, person="eve")


async def test_one_person_does_not_take_all_uploads() -> None:
    store, _ = await memory_store(uploads=16)
    end = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"a"
        await end.wait()

    running = [asyncio.create_task(store.upload("acme", "ada", "a", slow())) for _ in range(4)]
    await eventually(lambda: store.uploads.in_progress == 4)
    with pytest.raises(TooMany, match="already"):
        await upload(store)
    await upload(store, person="bob")
    end.set()
    await asyncio.gather(*running)


async def test_one_address_does_not_take_all_uploads() -> None:
    store, _ = await memory_store(uploads=16)
    end = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"a"
        await end.wait()

    def begin(person: str, address: str) -> asyncio.Task[StoredFile]:
        return asyncio.create_task(store.upload("acme", person, "a", slow(), address=address))

    running = [begin(f"p{number}", "192.0.2.1") for number in range(8)]
    await eventually(lambda: store.uploads.in_progress == 8)
    with pytest.raises(TooMany, match="8 files already"):
        await begin("p8", "192.0.2.1")
    running.append(begin("p8", "192.0.2.2"))
    await eventually(lambda: store.uploads.in_progress == 9)
    end.set()
    await asyncio.gather(*running)
    assert store.uploads.in_progress == 0


async def test_uploads_at_once_do_not_pass_the_quota_of_the_tenant_together() -> None:
    store, _ = await memory_store(tenant_bytes=10)
    results = await asyncio.gather(
        *(upload(store, b"123456", person=f"p{number}") for number in range(4)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, StoredFile) for result in results) == 1


# Owners and readers


async def test_a_file_is_another_persons_and_another_tenants_secret() -> None:
    store, _ = await memory_store()
    file = await upload(store)
    for tenant, person in (("acme", "bob"), ("other", "ada")):
        with pytest.raises(NotFound):
            await store.find_own(tenant, person, file.id)
        with pytest.raises(NotFound):
            await store.delete(tenant, person, file.id)
        assert await store.files(tenant, person) == ()
        with pytest.raises(NotFound):
            await attach(store, Conversation(tenant, "web", "t"), person, [file.id])
    assert await store.files("acme", "ada") == (file,)


@pytest.mark.parametrize(
    "id", ["", "a", "..", "../" * 20, 64 * "g", 64 * "A", 65 * "a", 32 * "a" + "/" + 31 * "a"]
)
async def test_what_is_no_id_is_not_found(id: str) -> None:
    store, _ = await memory_store()
    with pytest.raises(NotFound):
        await store.find_own("acme", "ada", id)
    with pytest.raises(NotFound):
        await store.find_sent(THREAD, id)
    with pytest.raises(NotFound):
        store.read("acme", id)


async def test_a_sent_file_can_be_found_in_its_conversation_alone() -> None:
    store, _ = await memory_store()
    file = await upload(store)
    with pytest.raises(NotFound):
        await store.find_sent(THREAD, file.id)
    [attachment] = await attach(store, THREAD, "ada", [file.id])
    assert attachment == Attachment(
        name="a.txt", media_type="text/plain", url=f"/v1/files/{file.id}", size=len(CONTENT)
    )
    assert file_id(attachment) == file.id
    assert (await store.find_sent(THREAD, file.id)).sha256 == file.sha256
    for elsewhere in (OTHER, Conversation("other", "web", "t"), Conversation("acme", "x", "t")):
        with pytest.raises(NotFound):
            await store.find_sent(elsewhere, file.id)
    [listed] = await store.files("acme", "ada")
    assert listed.expires_at is None


async def test_the_files_of_a_message_are_limited_and_each_is_there_once() -> None:
    store, _ = await memory_store(per_message=2)
    ids = [(await upload(store)).id for _ in range(3)]
    assert len(await attach(store, THREAD, "ada", ids[:2])) == 2
    with pytest.raises(InvalidInput, match="2 files, not 3"):
        await attach(store, THREAD, "ada", ids)
    attached = await attach(store, THREAD, "ada", [ids[1], *ids[:2], ids[0]])
    assert [file_id(each) for each in attached] == [ids[1], ids[0]]


async def test_one_missing_file_leaves_the_others_unsent() -> None:
    store, _ = await memory_store()
    file = await upload(store)
    with pytest.raises(NotFound):
        await attach(store, THREAD, "ada", [file.id, file.id[::-1]])
    [listed] = await store.files("acme", "ada")
    assert listed.expires_at is not None


async def test_an_expired_file_cannot_be_sent_but_one_that_was_sent_can_be_again() -> None:
    store, _ = await memory_store(expiry=60)
    unsent, sent = await upload(store), await upload(store)
    await attach(store, THREAD, "ada", [sent.id])
    now = store.clock()
    store.clock = lambda: now + 61
    with pytest.raises(NotFound, match="expired"):
        await attach(store, THREAD, "ada", [unsent.id])
    await attach(store, OTHER, "ada", [sent.id])


@pytest.mark.parametrize(
    "url", ["data:text/plain,x", "https://example.org/v1/files/" + 64 * "a", "/v1/files/", "a"]
)
def test_another_attachment_has_no_id(url: str) -> None:
    assert file_id(Attachment(name="a", media_type="text/plain", url=url)) is None


# Deleting


async def test_a_deleted_file_leaves_nothing() -> None:
    store, objects = await memory_store()
    file = await upload(store)
    await attach(store, THREAD, "ada", [file.id])
    await store.delete("acme", "ada", file.id)
    assert await paths_in(objects) == []
    with pytest.raises(NotFound):
        await store.find_sent(THREAD, file.id)


async def test_an_erasure_deletes_the_persons_files_and_no_others() -> None:
    store, objects = await memory_store()
    for person, tenant in (("ada", "acme"), ("bob", "acme"), ("ada", "other")):
        await upload(store, person=person, tenant=tenant)
    await upload(store)
    assert await store.erase("acme", "ada") == 2
    assert await store.files("acme", "ada") == ()
    assert len(await store.files("acme", "bob")) == len(await store.files("other", "ada")) == 1
    mark, *others = [path for path in await paths_in(objects) if path.count("/") == 2]
    assert mark.endswith("/erased")
    assert others == []
    assert await store.erase("acme", "ada") == 0


async def test_the_erasure_of_a_conversation_deletes_what_was_sent_there_alone() -> None:
    store, _ = await memory_store()
    here, both, _, bobs = [
        await upload(store, name=name, person=person)
        for name, person in (("here", "ada"), ("both", "ada"), ("unsent", "ada"), ("b", "bob"))
    ]
    await attach(store, THREAD, "ada", [here.id, both.id])
    await attach(store, OTHER, "ada", [both.id])
    await attach(store, THREAD, "bob", [bobs.id])
    assert await store.erase("acme", "ada", THREAD) == 1
    assert {file.name for file in await store.files("acme", "ada")} == {"both", "unsent"}
    with pytest.raises(NotFound):
        await store.find_sent(THREAD, both.id)
    await store.find_sent(OTHER, both.id)
    await store.find_sent(THREAD, bobs.id)


async def test_an_upload_that_began_before_an_erasure_is_refused() -> None:
    store, objects = await memory_store()
    begun, erased = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"a"
        begun.set()
        await erased.wait()

    running = asyncio.create_task(store.upload("acme", "ada", "a", slow()))
    await asyncio.wait_for(begun.wait(), 5)
    other_replica = FileStore(objects, store.settings)
    assert await other_replica.erase("acme", "ada") == 0
    erased.set()
    with pytest.raises(Conflict):
        await running
    assert await store.files("acme", "ada") == ()
    assert [path for path in await paths_in(objects) if not path.endswith("erased")] == []
    await upload(store)  # a new one is the person's decision


# Killed and unreachable


async def test_an_upload_that_is_cancelled_or_fails_leaves_nothing() -> None:
    store, objects = await memory_store()
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield 1_000_000 * b"a"
            begun.set()
            await asyncio.sleep(0)

    async def lost() -> AsyncIterator[bytes]:
        yield 6_000_000 * b"a"
        raise ConnectionResetError("the client is gone")

    running = asyncio.create_task(store.upload("acme", "ada", "a", endless()))
    await asyncio.wait_for(begun.wait(), 5)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    with pytest.raises(ConnectionResetError):
        await store.upload("acme", "ada", "a", lost())
    assert await paths_in(objects) == []
    assert store.uploads.in_progress == 0


async def test_a_file_exists_whole_or_not_at_all_wherever_an_upload_is_killed() -> None:
    for fail_at in (1, 2):
        store, objects = await memory_store()
        objects.fail_at = fail_at
        with pytest.raises(Killed):
            await upload(store)
        objects.is_dead = False
        assert await store.files("acme", "ada") == ()


async def test_a_deletion_that_is_killed_can_be_finished() -> None:
    for fail_at in (1, 2, 3):
        store, objects = await memory_store()
        file = await upload(store)
        await attach(store, THREAD, "ada", [file.id])
        objects.fail_at = objects.writes + fail_at
        with pytest.raises(Killed):
            await store.delete("acme", "ada", file.id)
        objects.is_dead = False
        if fail_at > 1:  # it does not exist any more
            assert await store.files("acme", "ada") == ()
        await store.erase("acme", "ada")
        assert [path for path in await paths_in(objects) if not path.endswith("erased")] == []


async def test_an_unreachable_store_is_an_error_of_its_own() -> None:
    store, objects = await memory_store()
    file = await upload(store)
    unavailable(objects)
    for call in (
        upload(store),
        store.files("acme", "ada"),
        store.find_own("acme", "ada", file.id),
        attach(store, THREAD, "ada", [file.id]),
        store.delete("acme", "ada", file.id),
        store.erase("acme", "ada"),
    ):
        with pytest.raises(FilesUnavailable):
            await call
    objects.is_dead = False
    assert await store.files("acme", "ada") == (file,)
