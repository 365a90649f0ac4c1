"""Files over HTTP: upload, download, and as attachments of messages."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.server.files.stores import AgedObjects, paths_in, unavailable
from tests.server.web.live_server import LiveServer, eventually, open_live_server
from tests.server.web.raw_client import raw_connection

from palaver.config.settings import AuthKey, ConnectionSettings, FilesSettings, Secret
from palaver.messages import Conversation, Message

pytestmark = pytest.mark.slow

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(20)
KEYS = {"ada": "ada-key-0123456789", "bob": "bob-key-0123456789", "trusted": "tru-key-0123456789"}


async def upload(
    live_server: LiveServer, content: bytes = b"Hello", name: str = "a.txt", **query: str
) -> dict[str, Any]:
    status, file = await live_server.post(
        "/v1/files", json=None, data=content, params={"name": name, "person": "ada", **query}
    )
    assert status == 201, file
    found: dict[str, Any] = file
    return found


async def download(
    live_server: LiveServer, id: str, **query: str
) -> tuple[int, dict[str, str], bytes]:
    url = live_server.url(f"/v1/files/{id}")
    async with live_server.session.get(url, params={"person": "ada", **query}) as response:
        return response.status, dict(response.headers), await response.read()


async def send(live_server: LiveServer, *ids: str, text: str = "look", **body: Any) -> Any:
    attachments = [{"file": id} for id in ids]
    return await live_server.post(
        "/v1/conversations/t/messages",
        {"text": text, "attachments": attachments, "person": "ada", **body},
    )


async def wait_for_reply(live_server: LiveServer, thread: str = "t") -> dict[str, Any]:
    """Return the conversation when nothing is unsettled."""
    snapshot: dict[str, Any] = {}

    async def is_settled() -> bool:
        _, body = await live_server.get(f"/v1/conversations/{thread}?person=ada")
        snapshot.update(body["snapshot"])
        return not snapshot["pending"]

    await eventually(is_settled)
    return snapshot


# Upload and download


async def test_a_file_comes_back_with_its_type_and_its_name() -> None:
    async with open_live_server() as live_server:
        file = await upload(live_server, PNG, "../Grüße.exe")
        assert (file["name"], file["media_type"], file["size"]) == ("Grüße.exe", "image/png", 36)
        status, headers, content = await download(live_server, file["id"])
    assert (status, content) == (200, PNG)
    assert headers["Content-Type"] == "image/png"
    assert headers["Content-Length"] == "36"
    assert headers["Content-Disposition"] == "inline; filename*=UTF-8''Gr%C3%BC%C3%9Fe.exe"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == "default-src 'none'; sandbox"


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (b"<!doctype html><script>alert(1)</script>", "text/html"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>", "text/plain"),
        (b"%PDF-1.7", "application/pdf"),
        (bytes(100), "application/octet-stream"),
    ],
)
async def test_only_images_are_shown_and_what_the_client_says_does_not_count(
    content: bytes, media_type: str
) -> None:
    async with open_live_server() as live_server:
        async with live_server.session.post(
            live_server.url("/v1/files?name=a.png&person=ada"),
            data=content,
            headers={"Content-Type": "image/png"},
        ) as response:
            file = await response.json()
        _, headers, _ = await download(live_server, file["id"])
    assert file["media_type"] == headers["Content-Type"] == media_type
    assert headers["Content-Disposition"].startswith("attachment;")


async def test_an_unchanged_file_is_not_sent_again() -> None:
    async with open_live_server() as live_server:
        file = await upload(live_server)
        url = live_server.url(f"/v1/files/{file['id']}?person=ada")
        tag = f'"{file["sha256"]}"'
        async with live_server.session.get(url, headers={"If-None-Match": tag}) as response:
            assert (response.status, response.headers["ETag"]) == (304, tag)
        async with live_server.session.get(url, headers={"If-None-Match": '"x"'}) as response:
            assert response.status == 200


async def test_a_large_file_is_streamed_both_ways() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(20):
            yield bytes([number]) * 1_000_000

    async with open_live_server() as live_server:
        status, file = await live_server.post(
            "/v1/files?name=large&person=ada", json=None, data=pieces()
        )
        assert (status, file["size"]) == (201, 20_000_000)
        _, _, content = await download(live_server, file["id"])
        assert content == b"".join([piece async for piece in pieces()])
        metrics = live_server.server.metrics.exposition()
    assert b"palaver_uploaded_files_total 1.0" in metrics
    assert b"palaver_uploaded_bytes_total 2e+07" in metrics
    assert b"palaver_buffered_bytes 0.0" in metrics


@pytest.mark.parametrize("declared", [True, False])
async def test_a_file_above_the_limit_is_refused(declared: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"12345"
        yield b"678901"

    async with open_live_server(files=FilesSettings(max_file_bytes=10)) as live_server:
        data = b"12345678901" if declared else pieces()
        status, body = await live_server.post("/v1/files?name=a", json=None, data=data)
        assert (status, body["error"]["code"]) == (413, "too_large")
        assert "10 bytes" in body["error"]["message"]
        metrics = live_server.server.metrics.exposition()
    assert b'palaver_limits_total{limit="max_file_bytes"} 1.0' in metrics


@pytest.mark.parametrize("limit", ["person_count", "person_bytes", "tenant_bytes"])
async def test_a_full_quota_is_named(limit: str) -> None:
    files = FilesSettings.model_validate({limit: 1})
    async with open_live_server(files=files) as live_server:
        await upload(live_server, b"x")
        status, body = await live_server.post("/v1/files?person=ada", json=None, data=b"y")
        assert status == 429
        assert f"files.{limit}" in body["error"]["message"]
        metrics = live_server.server.metrics.exposition()
    assert f'palaver_limits_total{{limit="files_{limit}"}} 1.0'.encode() in metrics


async def test_an_upload_that_makes_no_progress_is_ended() -> None:
    connections = ConnectionSettings(body_timeout=0.2)
    async with open_live_server(connections=connections) as live_server:
        async with raw_connection(live_server.address) as client:
            await client.send(
                b"POST /v1/files?name=a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n"
                b"\r\n" + 100_000 * b"a"
            )
            response = await client.response()
        assert response is not None
        assert (response.status, response.code) == (408, "request_timeout")
        assert live_server.server.files.uploads.in_progress == 0
        assert await paths_in(live_server.server.files.objects) == []
        metrics = live_server.server.metrics.exposition()
    assert b'palaver_limits_total{limit="body_timeout"} 1.0' in metrics


async def test_an_upload_may_take_longer_than_the_timeout_while_it_makes_progress() -> None:
    connections = ConnectionSettings(body_timeout=0.2)

    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield 65_536 * b"a"
            await asyncio.sleep(0.06)

    async with open_live_server(connections=connections) as live_server:
        status, _ = await live_server.post("/v1/files?name=a", json=None, data=slowly())
    assert status == 201


async def test_a_client_that_leaves_during_its_upload_leaves_nothing() -> None:
    async with open_live_server() as live_server:
        async with raw_connection(live_server.address) as client:
            await client.send(
                b"POST /v1/files?name=a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n"
                b"\r\n" + 100_000 * b"a"
            )
            await eventually(lambda: live_server.server.files.uploads.in_progress == 1)
        await eventually(lambda: live_server.server.files.uploads.in_progress == 0)
        assert await paths_in(live_server.server.files.objects) == []


async def test_bodies_of_files_are_not_limited_as_messages_are() -> None:
    connections = ConnectionSettings(buffer_bytes=500_000)
    async with open_live_server(connections=connections, max_message_bytes=1_000) as live_server:
        values = b"[" + b"1," * 450_000 + b"1]"
        file = await upload(live_server, values)
        assert file["size"] == len(values)


# Whose it is


@contextlib.asynccontextmanager
async def server_with_keys(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LiveServer]:
    for name, secret in KEYS.items():
        monkeypatch.setenv(f"KEY_{name.upper()}", secret)
    keys = {
        "ada": AuthKey(secret=Secret("env:KEY_ADA"), person="ada", rights=("talk", "read")),
        "bob": AuthKey(secret=Secret("env:KEY_BOB"), person="bob", rights=("talk", "read")),
        "trusted": AuthKey(
            secret=Secret("env:KEY_TRUSTED"),
            rights=("talk", "read", "export", "erase", "impersonate"),
        ),
    }
    async with open_live_server(keys=keys) as live_server:
        yield live_server


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {KEYS[name]}"}


async def test_another_person_can_neither_read_nor_send_nor_delete_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with server_with_keys(monkeypatch) as live_server:
        _, file = await live_server.post(
            "/v1/files?name=a", json=None, data=b"secret", headers=bearer("ada")
        )
        path = f"/v1/files/{file['id']}"
        assert (await live_server.get(path, headers=bearer("ada")))[0] == 200
        assert (await live_server.get(path, headers=bearer("bob")))[0] == 404
        assert (await live_server.get(f"{path}?thread=t", headers=bearer("bob")))[0] == 404
        status, _ = await live_server.post(
            "/v1/conversations/t/messages",
            {"text": "x", "attachments": [{"file": file["id"]}]},
            headers=bearer("bob"),
        )
        assert status == 404
        async with live_server.session.delete(
            live_server.url(path), headers=bearer("bob")
        ) as response:
            assert response.status == 404
        assert (await live_server.get("/v1/files", headers=bearer("bob")))[1] == {"files": []}
        assert len((await live_server.get("/v1/files", headers=bearer("ada")))[1]["files"]) == 1


async def test_members_of_the_conversation_may_read_what_was_sent_in_it() -> None:
    async with open_live_server() as live_server:
        server = live_server.server
        file = await upload(live_server)
        status, _, _ = await download(live_server, file["id"], thread="t")
        assert status == 404, "it was not sent"
        await send(live_server, file["id"])
        assert (await download(live_server, file["id"], thread="t"))[0] == 200
        assert (await download(live_server, file["id"], thread="t", person="bob"))[0] == 403
        assert (await download(live_server, file["id"], thread="new", person="bob"))[0] == 404
        # As the platform of a group lets others write:
        group = Conversation("default", "web", "t")
        message = Message(conversation=group, id="1", person="bob", text="me too")
        await server.accept(message, members_only=False)
        status, _, content = await download(live_server, file["id"], thread="t", person="bob")
        assert (status, content) == (200, b"Hello")
        assert (await download(live_server, file["id"], person="bob"))[0] == 404


# In messages


async def test_a_message_carries_files_to_the_event_the_snapshot_and_the_history() -> None:
    async with open_live_server() as live_server:
        file = await upload(live_server)
        expected = {
            "name": "a.txt",
            "media_type": "text/plain",
            "url": f"/v1/files/{file['id']}",
            "size": 5,
        }
        async with live_server.connect("t") as client:
            turn = await client.send_message(
                "", skill="scripted", attachments=[{"file": file["id"]}]
            )
            assert (await client.wait_for("message"))["attachments"] == [expected]
            async with live_server.connect("t") as second:
                [pending] = second.frames[0]["snapshot"]["pending"]
                assert pending["messages"][0]["attachments"] == [expected]
            live_server.scripted.emit("nice")
            await client.wait_for_reply(turn)
        snapshot = await wait_for_reply(live_server)
        assert snapshot["history"][0]["attachments"] == [expected]
        assert "attachments" not in snapshot["history"][1]


async def test_a_message_with_files_can_be_sent_again() -> None:
    async with open_live_server() as live_server:
        one, two = await upload(live_server), await upload(live_server, b"other")
        status, first = await send(live_server, one["id"], id="m")
        assert (status, first["duplicate"]) == (202, False)
        _, again = await send(live_server, one["id"], id="m")
        assert (again["turn"], again["duplicate"]) == (first["turn"], True)
        assert (await send(live_server, one["id"], two["id"], id="m"))[0] == 409


@pytest.mark.parametrize(
    ("attachments", "status"),
    [
        ([{"file": "x"}], 404),
        ([{"file": 64 * "a"}], 404),
        ([{}], 400),
        (["x"], 400),
        ({}, 400),
        (5 * [{"file": 64 * "a"}], 404),
    ],
)
async def test_wrong_attachments_are_refused(attachments: object, status: int) -> None:
    async with open_live_server(files=FilesSettings(per_message=2)) as live_server:
        body = {"text": "x", "attachments": attachments, "person": "ada"}
        assert (await live_server.post("/v1/conversations/t/messages", body))[0] == status
        async with live_server.connect("t") as client:
            await client.send({"type": "send", "id": "1", "text": "x", "attachments": attachments})
            error = await client.wait_for("error")
            assert error["code"] == ("not_found" if status == 404 else "invalid_input")


async def test_a_person_cannot_send_files_into_a_conversation_of_somebody_else() -> None:
    async with open_live_server() as live_server:
        await send(live_server)
        file = await upload(live_server, person="bob")
        status, _ = await send(live_server, file["id"], person="bob")
        assert status == 403
        _, listed = await live_server.get("/v1/files?person=bob")
        assert listed["files"][0]["expires_at"] is not None


# The end of files


async def test_a_deleted_file_is_gone_and_its_message_stays() -> None:
    async with open_live_server() as live_server:
        file = await upload(live_server)
        await send(live_server, file["id"])
        await wait_for_reply(live_server)
        url = live_server.url(f"/v1/files/{file['id']}?person=ada")
        async with live_server.session.delete(url) as response:
            assert (response.status, await response.json()) == (200, {"id": file["id"]})
        async with live_server.session.delete(url) as response:
            assert response.status == 404
        assert (await download(live_server, file["id"], thread="t"))[0] == 404
        assert (await wait_for_reply(live_server))["history"][0]["attachments"]


async def test_an_erasure_and_the_deletion_of_a_conversation_take_the_files_along() -> None:
    async with open_live_server() as live_server:
        sent, unsent = await upload(live_server), await upload(live_server)
        await send(live_server, sent["id"])
        await wait_for_reply(live_server)
        url = live_server.url("/v1/conversations/t?person=ada")
        async with live_server.session.delete(url) as response:
            assert (response.status, (await response.json())["files"]) == (200, 1)
        assert (await download(live_server, sent["id"]))[0] == 404
        assert (await download(live_server, unsent["id"]))[0] == 200
        _, receipt = await live_server.post("/v1/erase?person=ada")
        assert receipt["files"] == 1
        assert (await download(live_server, unsent["id"]))[0] == 404


async def test_an_export_lists_the_files() -> None:
    async with open_live_server() as live_server:
        file = await upload(live_server)
        await send(live_server, file["id"])
        await wait_for_reply(live_server)
        _, export = await live_server.get("/v1/export?person=ada")
        assert export["files"] == [file | {"expires_at": None}]
        [entries] = export["conversations"].values()
        assert entries[0]["attachments"][0]["url"].endswith(file["id"])
        _, empty = await live_server.get("/v1/export?person=bob")
        assert empty["files"] == []
        _, markdown = await live_server.get("/v1/conversations/t/export?format=markdown&person=ada")
        assert "[a.txt]" in markdown


async def test_a_store_that_cannot_be_reached_is_503() -> None:
    async with open_live_server() as live_server:
        file = await upload(live_server)
        objects = AgedObjects(live_server.server.files.objects)
        live_server.server.files.objects = objects
        unavailable(objects)
        status, body = await live_server.post("/v1/files?person=ada", json=None, data=b"x")
        assert (status, body["error"]["code"]) == (503, "files_unavailable")
        assert (await download(live_server, file["id"]))[0] == 503
        assert (await send(live_server, file["id"]))[0] == 503
        assert (await send(live_server))[0] == 202
