"""Files of messages that are merged, steer, branch, or are erased while a reply reads them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.plugins.ledgers.redis_server import redis_server
from tests.server.files.stores import AgedObjects, paths_in, unavailable
from tests.server.web.live_server import LiveServer, eventually, open_live_server
from tests.server.web.test_files import download, send, upload, wait_for_reply
from tests.server.web.test_vision import Reader

from palaver import Skill, Turn
from palaver.config.settings import (
    AdmissionSettings,
    AuthKey,
    ConcurrencyPolicySettings,
    FilesSettings,
    PersonSettings,
    Secret,
)
from palaver.errors import NotFound
from palaver.files.objects import ObstoreObjects
from palaver.files.store import FileStore
from palaver.ledger import Ledger
from palaver.messages import FILE_PATH, Attachment, ConcurrencyPolicy, Conversation, Message
from palaver.testing import MemoryLedger
from palaver_plugins.ledgers.redis import RedisLedger, RedisLedgerSettings

pytestmark = pytest.mark.slow

THREAD = "/v1/conversations/t"
MERGE_WINDOW = 5.0


class Gate:
    """Holds a skill until a test opens it."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def pass_through(self) -> None:
        self.reached.set()
        await self.opened.wait()


class SlowReader(Skill):
    """Tell what files a message has, after the test's gate; also those of steering messages."""

    name = "slow"

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self._gate = gate

    async def answer(self, turn: Turn) -> None:
        await self._gate.pass_through()
        for message in (turn.message, *await turn.take_steering()):
            for attachment in message.attachments:
                content = await turn.read_attachment(attachment)
                await turn.say(f"{attachment.name}={content.decode()};")


def policy(name: ConcurrencyPolicy) -> ConcurrencyPolicySettings:
    return ConcurrencyPolicySettings(default=name, merge_window=MERGE_WINDOW)


async def attachments_of(live_server: LiveServer) -> list[list[str]]:
    """Return the names of the files of each message in the settled history."""
    snapshot = await wait_for_reply(live_server)
    return [
        [each["name"] for each in entry.get("attachments", ())]
        for entry in snapshot["history"]
        if entry["role"] == "user"
    ]


async def last_reply(live_server: LiveServer) -> dict[str, Any]:
    reply: dict[str, Any] = (await wait_for_reply(live_server))["history"][-1]
    return reply


async def upload_two(live_server: LiveServer) -> list[str]:
    return [(await upload(live_server, x.encode(), f"{x}.txt"))["id"] for x in "ab"]


# While other turns run


async def test_a_merged_turn_has_the_files_of_all_its_messages() -> None:
    now = [1_000_000.0]
    async with open_live_server(
        skills=[Reader()],
        concurrency_policy=policy("merge"),
        ledger=MemoryLedger(clock=lambda: now[0]),
    ) as live_server:
        one, two = await upload_two(live_server)
        _, first = await send(live_server, one, skill="reader", text="1")
        _, second = await send(live_server, one, two, text="2")
        now[0] += MERGE_WINDOW
        assert (second["turn"], second["joined"]) == (first["turn"], True)
        assert await attachments_of(live_server) == [["a.txt"], ["a.txt", "b.txt"]]
        reply = await last_reply(live_server)
    assert reply["text"] == "a.txt: 1 bytes\na.txt: 1 bytes\nb.txt: 1 bytes\n"


async def test_an_interrupting_message_keeps_the_files_of_both() -> None:
    gate = Gate()
    async with open_live_server(
        skills=[SlowReader(gate)], concurrency_policy=policy("interrupt")
    ) as live_server:
        one, two = await upload_two(live_server)
        await send(live_server, one, text="/slow")
        await gate.reached.wait()
        await send(live_server, two)
        gate.opened.set()
        assert await attachments_of(live_server) == [["a.txt"], ["b.txt"]]
        reply = await last_reply(live_server)
    assert reply["text"] == "a.txt=a;b.txt=b;"


async def test_a_steering_message_brings_its_files() -> None:
    gate = Gate()
    async with open_live_server(
        skills=[SlowReader(gate)], concurrency_policy=policy("steer")
    ) as live_server:
        one, two = await upload_two(live_server)
        await send(live_server, one, skill="slow")
        await gate.reached.wait()
        await send(live_server, two)
        gate.opened.set()
        assert await attachments_of(live_server) == [["a.txt"], ["b.txt"]]
        reply = await last_reply(live_server)
    assert reply["text"] == "a.txt=a;b.txt=b;"


# Branches and edits


async def test_branches_and_edits_keep_the_files() -> None:
    async with open_live_server(skills=[Reader()]) as live_server:
        one, two = await upload_two(live_server)
        _, first = await send(live_server, one, skill="reader")
        await wait_for_reply(live_server)
        _, other = await send(live_server, one, two, skill="reader", after=None)
        assert await attachments_of(live_server) == [["a.txt", "b.txt"]]
        path = live_server.url(f"{THREAD}/turns/{other['turn']}?person=ada")
        async with live_server.session.patch(path, json={"text": "see"}) as response:
            assert response.status == 200, await response.text()
        assert await attachments_of(live_server) == [["a.txt", "b.txt"]]
        status, _ = await live_server.post(f"{THREAD}/select?person=ada", {"turn": first["turn"]})
        assert status == 200
        assert await attachments_of(live_server) == [["a.txt"]]
        for id in (one, two):  # that of the superseded branch, too
            assert (await download(live_server, id, thread="t"))[0] == 200


# Erased meanwhile


@pytest.mark.parametrize("whole_person", [True, False])
async def test_an_erasure_ends_the_reply_that_would_read_the_file(whole_person: bool) -> None:
    gate = Gate()
    async with open_live_server(skills=[SlowReader(gate)]) as live_server:
        [one, _] = await upload_two(live_server)
        await send(live_server, one, skill="slow")
        await gate.reached.wait()
        if whole_person:
            status, receipt = await live_server.post("/v1/erase?person=ada")
        else:
            url = live_server.url(f"{THREAD}?person=ada")
            async with live_server.session.delete(url) as response:
                status, receipt = response.status, await response.json()
        assert (status, receipt["files"]) == (200, 2 if whole_person else 1)
        gate.opened.set()
        snapshot = await wait_for_reply(live_server)
        assert (snapshot["history"], snapshot["pending"]) == ([], [])
        assert (await download(live_server, one))[0] == 404
        status, _ = await send(live_server, one)
        assert status == 404
        await eventually(lambda: live_server.server.readiness() == {})


async def test_a_file_that_is_deleted_during_the_reply_is_named() -> None:
    gate = Gate()
    async with open_live_server(skills=[SlowReader(gate)]) as live_server:
        [one, _] = await upload_two(live_server)
        await send(live_server, one, skill="slow")
        await gate.reached.wait()
        url = live_server.url(f"/v1/files/{one}?person=ada")
        async with live_server.session.delete(url) as response:
            assert response.status == 200
        gate.opened.set()
        reply = await last_reply(live_server)
    assert reply["outcome"] == "failed"
    assert "'a.txt' was deleted" in reply["problem"]["message"]


@pytest.mark.parametrize("whole_person", [True, False])
async def test_an_erasure_without_the_store_is_completed_when_it_is_repeated(
    whole_person: bool,
) -> None:
    async with open_live_server() as live_server:
        store = live_server.server.files
        objects = AgedObjects(store.objects)
        [one, _] = await upload_two(live_server)
        await send(live_server, one)
        await wait_for_reply(live_server)
        store.objects = objects
        unavailable(objects)

        async def erase() -> int:
            if whole_person:
                return (await live_server.post("/v1/erase?person=ada"))[0]
            url = live_server.url(f"{THREAD}?person=ada")
            async with live_server.session.delete(url) as response:
                return response.status

        assert (await live_server.get("/v1/export?person=ada"))[0] == 503
        assert await erase() == 503
        objects.is_dead = False
        assert await erase() in (200, 404)
        assert not [path for path in await paths_in(objects) if one[32:] in path]
        assert (await download(live_server, one))[0] == 404


async def test_messages_and_deletions_at_once_leave_nothing_behind() -> None:
    """A file that a message has can be read, or is gone everywhere."""
    admission = AdmissionSettings(person=PersonSettings(data_requests_per_minute=None))
    async with open_live_server(skills=[Reader()], admission=admission) as live_server:
        for _ in range(5):
            ids = [(await upload(live_server))["id"] for _ in range(4)]

            async def delete() -> int:
                url = live_server.url(f"{THREAD}?person=ada")
                async with live_server.session.delete(url) as response:
                    return response.status

            sent = [send(live_server, id, skill="reader") for id in (*ids, *ids)]
            answers = await asyncio.gather(*sent[:4], delete(), *sent[4:], delete())
            assert {answers.pop(4), answers.pop()} <= {200, 404}
            assert {status for status, _ in answers} <= {202, 404}
            snapshot = await wait_for_reply(live_server)
            _, listed = await live_server.get("/v1/files?person=ada")
            kept = {file["id"] for file in listed["files"]}
            for entry in snapshot["history"]:
                for each in entry.get("attachments", ()):
                    id = each["url"].rpartition("/")[2]
                    status, _, _ = await download(live_server, id, thread="t")
                    assert (status == 200) is (id in kept)
            assert (await live_server.post("/v1/erase?person=ada"))[0] == 200
            left = await paths_in(live_server.server.files.objects)
            assert [path for path in left if not path.endswith("/erased")] == []


# Refused


@pytest.mark.parametrize("refusal", ["quota", "skill", "size"])
async def test_a_refused_message_writes_nothing_into_the_store(refusal: str) -> None:
    admission = AdmissionSettings(person=PersonSettings(messages_per_minute=1))
    async with open_live_server(admission=admission, max_message_bytes=1_000) as live_server:
        [one, _] = await upload_two(live_server)
        if refusal == "quota":
            await send(live_server)
        before = await paths_in(live_server.server.files.objects)
        body: dict[str, Any] = {
            "quota": {},
            "skill": {"skill": "juggle"},
            "size": {"text": 1_001 * "x"},
        }[refusal]
        status, answer = await send(live_server, one, **body)
        assert status == {"quota": 429, "skill": 404, "size": 413}[refusal], answer
        assert await paths_in(live_server.server.files.objects) == before


async def test_a_file_of_the_same_person_in_another_tenant_cannot_be_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = {}
    for tenant in ("acme", "other"):
        monkeypatch.setenv(f"KEY_{tenant}", f"the secret key of {tenant}")
        keys[tenant] = AuthKey(secret=Secret(f"env:KEY_{tenant}"), tenant=tenant, person="ada")
    async with open_live_server(keys=keys) as live_server:
        headers = {
            tenant: {"Authorization": f"Bearer the secret key of {tenant}"} for tenant in keys
        }
        _, file = await live_server.post(
            "/v1/files?name=a", json=None, data=b"x", headers=headers["acme"]
        )
        references = [{"file": file["id"]}]
        for tenant in ("other", "acme"):
            async with live_server.open_websocket(headers=headers[tenant]) as client:
                await client.hello("t", person=None)
                frame = {"type": "send", "id": "m", "text": "x", "attachments": references}
                await client.send(frame)
                if tenant == "other":
                    assert (await client.wait_for("error"))["code"] == "not_found"
                    # As a channel would pass on what a client claims:
                    stranger = Conversation("other", "web", "u")
                    claimed = (Attachment(name="a", media_type="a/b", url=FILE_PATH + file["id"]),)
                    await live_server.server.accept(
                        Message(
                            conversation=stranger,
                            id="m",
                            person="ada",
                            text="x",
                            attachments=claimed,
                        )
                    )
                    with pytest.raises(NotFound):
                        await live_server.server.files.find_sent(stranger, file["id"])
                else:
                    assert (await client.wait_for("ack"))["id"] == "m"


# Restarts and replicas


@contextlib.asynccontextmanager
async def replicas_on(
    kind: str, directory: Path
) -> AsyncIterator[Callable[[], contextlib.AbstractAsyncContextManager[LiveServer]]]:
    """Yield what opens another replica, on the same ledger and the same store of files."""
    memory = MemoryLedger()

    def open_replica(ledger: Ledger) -> contextlib.AbstractAsyncContextManager[LiveServer]:
        store = FileStore(ObstoreObjects(f"file://{directory}"), FilesSettings())
        return open_live_server(ledger=ledger, file_store=store, skills=[Reader()])

    if kind == "memory":
        yield lambda: open_replica(memory)
        return
    async with redis_server() as url:
        yield lambda: open_replica(RedisLedger(RedisLedgerSettings(url=url)))


@pytest.mark.parametrize(
    "kind", ["memory", pytest.param("redis", marks=[pytest.mark.redis, pytest.mark.slow])]
)
async def test_a_file_is_sent_after_a_restart_and_read_by_another_replica(
    kind: str, tmp_path: Path
) -> None:
    async with replicas_on(kind, tmp_path) as open_replica:
        async with open_replica() as first:
            one, two = await upload_two(first)
        async with open_replica() as second, open_replica() as third:
            status, answer = await send(second, one, two, skill="reader")
            assert status == 202, answer
            reply = await last_reply(third)
            assert reply["text"] == "a.txt: 1 bytes\nb.txt: 1 bytes\n"
            assert (await download(third, two, thread="t"))[2] == b"b"
            async with third.session.delete(third.url(f"{THREAD}?person=ada")) as response:
                assert (await response.json())["files"] == 2
            assert (await download(second, one))[0] == 404
