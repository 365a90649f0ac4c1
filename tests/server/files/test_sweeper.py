"""The sweeper deletes what nobody needs, and nothing else."""

import asyncio

import pytest
from tests.server.files.stores import (
    AgedObjects,
    Killed,
    attach,
    in_pieces,
    memory_store,
    paths_in,
    unavailable,
)
from tests.server.files.test_store import OTHER, THREAD, upload
from tests.server.web.live_server import eventually

from palaver.errors import FilesUnavailable, LedgerUnavailable
from palaver.files.layout import tenant_folder
from palaver.files.store import FileStore
from palaver.files.sweeper import SETTLING_SECONDS, Sweeper
from palaver.messages import Conversation

DAY = 86_400.0


class Memberships:
    """The members of conversations, as a ledger tells them."""

    def __init__(self, members: dict[Conversation, set[str]]) -> None:
        self.of = members
        self.is_available = True

    async def __call__(self, conversation: Conversation) -> frozenset[str]:
        if not self.is_available:
            raise LedgerUnavailable("gone")
        return frozenset(self.of.get(conversation, ()))


def sweeper_of(
    store: FileStore, members: dict[Conversation, set[str]] | None = None
) -> tuple[Sweeper, Memberships]:
    memberships = Memberships(members or {})
    return Sweeper(store, memberships), memberships


async def names(store: FileStore, person: str = "ada") -> set[str]:
    return {file.name for file in await store.files("acme", person)}


async def test_a_file_that_was_not_sent_expires() -> None:
    store, objects = await memory_store(expiry=DAY)
    await upload(store)
    sweeper, _ = sweeper_of(store)
    objects.age = DAY
    await sweeper.sweep()
    assert await names(store) == {"a.txt"}
    objects.age = DAY + SETTLING_SECONDS + 1
    await sweeper.sweep()
    assert await paths_in(objects) == []


async def test_a_sent_file_stays_as_long_as_its_author_is_in_the_conversation() -> None:
    store, objects = await memory_store(expiry=60)
    file = await upload(store)
    await attach(store, THREAD, "ada", [file.id])
    await attach(store, OTHER, "ada", [file.id])
    sweeper, memberships = sweeper_of(store, {THREAD: {"ada", "bob"}, OTHER: {"ada"}})
    objects.age = 100 * DAY
    await sweeper.sweep()
    assert len(await paths_in(objects)) == 4
    memberships.of[THREAD] = {"bob"}
    await sweeper.sweep()
    assert await names(store) == {"a.txt"}
    assert len(await paths_in(objects)) == 3, "the conversation that the author left has it still"
    del memberships.of[OTHER]
    await sweeper.sweep()
    assert await paths_in(objects) == []


async def test_a_message_on_its_way_keeps_its_files() -> None:
    store, objects = await memory_store(expiry=60)
    file = await upload(store)
    await attach(store, THREAD, "ada", [file.id])
    sweeper, _ = sweeper_of(store)
    objects.age = SETTLING_SECONDS - 60
    await sweeper.sweep()
    assert await names(store) == {"a.txt"}
    objects.age = SETTLING_SECONDS + 61
    await sweeper.sweep()
    assert await names(store) == set()


async def test_a_file_whose_message_was_refused_has_the_time_of_one_that_was_not_sent() -> None:
    store, objects = await memory_store(expiry=DAY)
    file = await upload(store)
    await attach(store, THREAD, "ada", [file.id])
    sweeper, _ = sweeper_of(store)
    objects.age = DAY
    await sweeper.sweep()
    [listed] = await store.files("acme", "ada")
    assert listed.expires_at is not None
    objects.age = DAY + SETTLING_SECONDS + 1
    await sweeper.sweep()
    assert await paths_in(objects) == []


async def test_what_a_killed_upload_has_left_is_deleted() -> None:
    store, objects = await memory_store()
    objects.fail_at = 2
    with pytest.raises(Killed):
        await upload(store)
    objects.is_dead = False
    assert len(await paths_in(objects)) == 1
    sweeper, _ = sweeper_of(store)
    await sweeper.sweep()
    assert len(await paths_in(objects)) == 1, "an upload in progress looks the same"
    objects.age = SETTLING_SECONDS + 1
    await sweeper.sweep()
    assert await paths_in(objects) == []


async def test_an_erasure_that_was_killed_is_finished_once_the_ledger_knows_of_it() -> None:
    store, objects = await memory_store()
    file = await upload(store)
    await attach(store, THREAD, "ada", [file.id])
    sweeper, memberships = sweeper_of(store, {THREAD: {"ada"}})
    objects.age = DAY + SETTLING_SECONDS + 1
    memberships.of.clear()  # erased in the ledger, and the process was killed before the files
    await sweeper.sweep()
    assert await paths_in(objects) == []


async def test_the_mark_of_an_erasure_goes() -> None:
    store, objects = await memory_store()
    await store.erase("acme", "ada")
    sweeper, _ = sweeper_of(store)
    await sweeper.sweep()
    assert len(await paths_in(objects)) == 1
    objects.age = SETTLING_SECONDS + 1
    await sweeper.sweep()
    assert await paths_in(objects) == []


async def test_two_replicas_sweep_at_once() -> None:
    store, objects = await memory_store(expiry=60)
    for number in range(10):
        await upload(store, name=str(number), person=f"p{number % 3}")
    keep = await upload(store, name="keep")
    await attach(store, THREAD, "ada", [keep.id])
    objects.age = DAY
    sweepers = [sweeper_of(FileStore(objects, store.settings), {THREAD: {"ada"}})[0] for _ in "ab"]
    await asyncio.gather(*(sweeper.sweep() for sweeper in sweepers))
    assert await names(store) == {"keep"}
    assert len(await paths_in(objects)) == 3


async def test_nothing_is_deleted_while_the_ledger_or_the_store_cannot_be_reached() -> None:
    store, objects = await memory_store()
    file = await upload(store)
    await attach(store, THREAD, "ada", [file.id])
    sweeper, memberships = sweeper_of(store)
    objects.age = DAY
    memberships.is_available = False
    with pytest.raises(LedgerUnavailable):
        await sweeper.sweep()
    unavailable(objects)
    with pytest.raises(FilesUnavailable):
        await sweeper.sweep()
    objects.is_dead = False
    assert await names(store) == {"a.txt"}


async def test_a_sweep_counts_the_bytes_of_tenants() -> None:
    store, objects = await memory_store()
    await upload(store, b"12345")
    await upload(store, b"123", person="bob")
    await upload(store, b"1", tenant="other")
    other_replica = FileStore(objects, store.settings)
    await sweeper_of(other_replica)[0].sweep()
    counted = other_replica.uploads.tenant_bytes
    assert counted == {tenant_folder("acme"): 8, tenant_folder("other"): 1}


async def test_the_sweeper_goes_on_after_a_failure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, objects = await memory_store(expiry=60)
    await upload(store)
    objects.age = DAY
    monkeypatch.setattr("palaver.files.sweeper.SWEEP_SECONDS", 0.001)
    unavailable(objects)
    sweeper, _ = sweeper_of(store)
    running = asyncio.create_task(sweeper.run_forever())
    await eventually(lambda: "files could not be swept" in caplog.text)
    objects.is_dead = False

    async def is_empty() -> bool:
        return not await paths_in(objects)

    await eventually(is_empty)
    running.cancel()


async def test_a_foreign_object_in_the_store_is_left_alone() -> None:
    store, objects = await memory_store()
    await objects.put("readme.txt", b"x")
    await objects.put("a/b/c/d", b"x")
    await store.upload("acme", "ada", "a", in_pieces(b"x"))
    assert isinstance(objects, AgedObjects)
    objects.age = 100 * DAY
    await sweeper_of(store)[0].sweep()
    assert await paths_in(objects) == ["a/b/c/d", "readme.txt"]
