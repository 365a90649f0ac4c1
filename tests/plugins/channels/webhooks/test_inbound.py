"""Messages to an endpoint: who may send, what is stored once, what is refused and how."""

import asyncio
import base64
import hmac
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook
from tests.plugins.channels.webhooks.support import (
    CHANNEL,
    Caller,
    Gate,
    Json,
    calling,
    read,
    receiving,
    secret_of,
)

from palaver import Conversation
from palaver.config.settings import AdmissionSettings

pytestmark = pytest.mark.slow

DATA: Json = {"thread": "t", "person": "ada", "text": "Hello"}
MESSAGE: Json = {"type": "message", "data": DATA}


async def count_messages(caller: Caller, thread: str = "t") -> int:
    snapshot = await caller.server.snapshot(caller.conversation(thread))
    pending = sum(len(turn.messages) for turn in snapshot.pending)
    return pending + sum(entry.role == "user" for entry in snapshot.history)


async def test_a_signed_message_is_stored_and_answered(tmp_path: Path) -> None:
    async with calling(tmp_path) as caller:
        turn = await caller.say("Grüße, 世界")
        await caller.until(lambda content: bool(content.get("cursor")))
        status, event = await read(caller, turn)
        assert (status, event["data"]["text"]) == (200, "Grüße, 世界")
        snapshot = await caller.server.snapshot(caller.conversation())
        assert snapshot.history[0].person == "webhooks.orders.ada"


async def test_a_message_belongs_to_the_tenant_of_its_endpoint(tmp_path: Path) -> None:
    async with calling(tmp_path, billing={"tenant": "acme"}) as caller:
        await caller.say("Hello", endpoint="billing")
        conversation = Conversation("acme", CHANNEL, "billing.t")
        assert await caller.server.members(conversation) == {"webhooks.billing.ada"}
        assert not await caller.server.members(caller.conversation("t", "billing"))


async def test_a_repeated_message_is_the_same_one(tmp_path: Path) -> None:
    async with calling(tmp_path) as caller:
        first = await caller.post(MESSAGE, id="msg_1")
        later = await caller.post(MESSAGE, id="msg_1", at=datetime.now(UTC) - timedelta(minutes=2))
        assert first[0] == later[0] == 202
        assert later[1] == {"state": "accepted", "turn": first[1]["turn"], "duplicate": True}
        assert await count_messages(caller) == 1


async def test_concurrent_attempts_are_one_message(tmp_path: Path) -> None:
    async with calling(tmp_path) as caller:
        answers = await asyncio.gather(*(caller.post(MESSAGE, id="msg_1") for _ in range(8)))
        assert {status for status, _ in answers} == {202}
        assert len({answer["turn"] for _, answer in answers}) == 1
        assert await count_messages(caller) == 1


async def test_the_same_id_of_two_endpoints_is_two_messages(tmp_path: Path) -> None:
    async with calling(tmp_path) as caller:
        _, one = await caller.post(MESSAGE, id="msg_1")
        _, two = await caller.post(MESSAGE, id="msg_1", endpoint="billing")
        assert not two["duplicate"]
        assert one["turn"] != two["turn"]


async def test_an_id_with_another_body_is_refused(tmp_path: Path) -> None:
    async with calling(tmp_path) as caller:
        await caller.post(MESSAGE, id="msg_1")
        other = {"type": "message", "data": DATA | {"text": "Bye"}}
        status, answer = await caller.post(other, id="msg_1")
        assert (status, answer["error"]["code"]) == (409, "conflict")
        assert await count_messages(caller) == 1


# Signatures


def headers_of(body: bytes = json.dumps(MESSAGE).encode(), *, minutes: float = 0) -> dict[str, str]:
    at = datetime.now(UTC) + timedelta(minutes=minutes)
    return {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret_of("orders")).sign("msg_1", at, body.decode()),
    }


VALID = headers_of()["webhook-signature"]
MALFORMED = {
    "no signature": {"webhook-signature": ""},
    "no version": {"webhook-signature": "abc"},
    "two commas": {"webhook-signature": "v1,a,b"},
    "only commas": {"webhook-signature": ",,, , v1,"},
    "bad base64": {"webhook-signature": "v1,%%%"},
    "other version": {"webhook-signature": VALID.replace("v1,", "v2,")},
    "asymmetric": {"webhook-signature": VALID.replace("v1,", "v1a,")},
    "not ASCII": {"webhook-signature": "v1,é"},
    "many signatures": {"webhook-signature": " ".join(["v1,AAAA"] * 1_000)},
    "a word for a time": {"webhook-timestamp": "now"},
    "a fraction": {"webhook-timestamp": "1764331200.5"},
    "a negative time": {"webhook-timestamp": "-1"},
    "infinity": {"webhook-timestamp": "inf"},
    "digits of another script": {"webhook-timestamp": "١٧٦٤٣٣١٢٠٠"},
    "a huge time": {"webhook-timestamp": "9" * 400},
    "no time": {"webhook-timestamp": ""},
    "no id": {"webhook-id": ""},
    "a dot in the id": {"webhook-id": "msg.1"},
    "a space in the id": {"webhook-id": "msg 1"},
    "a long id": {"webhook-id": "m" * 129},
    "another id": {"webhook-id": "msg_2"},
}


@pytest.mark.parametrize("changed", MALFORMED.values(), ids=MALFORMED)
async def test_malformed_headers_are_401(tmp_path: Path, changed: dict[str, str]) -> None:
    async with calling(tmp_path) as caller:
        body = json.dumps(MESSAGE).encode()
        status, answer = await caller.live.post(
            "/webhooks/orders", json=None, data=body, headers=headers_of(body) | changed
        )
        assert (status, answer["error"]["code"]) == (401, "unauthenticated")
        assert await count_messages(caller) == 0


@pytest.mark.parametrize("id", ["msg.1", ".", "msg 1", "m" * 129, "é"])
async def test_an_id_that_is_not_usable_is_401_although_it_is_signed(
    tmp_path: Path, id: str
) -> None:
    async with calling(tmp_path) as caller:
        assert (await caller.post(MESSAGE, id=id))[0] == 401
        assert (await caller.post(MESSAGE, id="m" * 128))[0] == 202


async def test_missing_headers_are_401(tmp_path: Path) -> None:
    async with calling(tmp_path) as caller:
        for name in headers_of():
            headers = headers_of()
            del headers[name]
            status, _ = await caller.live.post("/webhooks/orders", MESSAGE, headers=headers)
            assert status == 401


@pytest.mark.parametrize(("minutes", "status"), [(-6, 401), (-4, 202), (4, 202), (6, 401)])
async def test_five_minutes_are_tolerated(tmp_path: Path, minutes: int, status: int) -> None:
    async with calling(tmp_path) as caller:
        at = datetime.now(UTC) + timedelta(minutes=minutes)
        assert (await caller.post(MESSAGE, at=at))[0] == status


async def test_the_body_is_verified_as_it_was_sent(tmp_path: Path) -> None:
    async with calling(tmp_path) as caller:
        spaced = json.dumps(MESSAGE, indent=3).encode()
        assert (await caller.post(spaced))[0] == 202
        headers = headers_of(json.dumps(MESSAGE, separators=(",", ":")).encode())
        body = json.dumps(MESSAGE).encode()
        status, _ = await caller.live.post(
            "/webhooks/orders", json=None, data=body, headers=headers
        )
        assert status == 401


async def test_a_secret_is_for_its_endpoint_alone(tmp_path: Path) -> None:
    async with calling(tmp_path) as caller:
        status, _ = await caller.post(MESSAGE, endpoint="billing", secret=secret_of("orders"))
        assert status == 401


async def test_both_secrets_are_accepted_while_rotating(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text(secret_of("old"), encoding="utf-8")
    async with calling(tmp_path, orders={"previous_secret": f"file:{old}"}) as caller:
        for name in ("orders", "old"):
            assert (await caller.post(MESSAGE, secret=secret_of(name)))[0] == 202
        assert (await caller.post(MESSAGE, secret=secret_of("older")))[0] == 401


async def test_one_valid_signature_among_others_is_enough(tmp_path: Path) -> None:
    async with calling(tmp_path) as caller:
        body = json.dumps(MESSAGE).encode()
        headers = headers_of(body)
        signature = headers["webhook-signature"]
        headers["webhook-signature"] = f"v1a,AAAA v1,AAAA x {signature} v1,BBBB"
        status, _ = await caller.live.post(
            "/webhooks/orders", json=None, data=body, headers=headers
        )
        assert status == 202


# Bodies


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"[" * 20_000,
        b'{"type":"message","data":' + b'{"a":' * 3_000,
        b'{"type":"message"}',
        b'{"type":"other","data":{}}',
        b'{"type":"message","data":{"thread":"a/b","person":"ada","text":"x"}}',
        b'{"type":"message","data":{"thread":"","person":"ada","text":"x"}}',
        b'{"type":"message","data":{"thread":"t","person":"a:b","text":"x"}}',
        b'{"type":"message","data":{"thread":"t","person":"ada","text":"\\ud800"}}',
        b'{"type":"message","data":{"thread":"t","person":"ada","text":7}}',
        json.dumps({"type": "message", "data": {**DATA, "thread": "t" * 200}}).encode(),
        json.dumps({"type": "message", "data": {**DATA, "person": "a" * 200}}).encode(),
    ],
)  # fmt: skip
async def test_a_body_of_another_form_is_400(tmp_path: Path, body: bytes) -> None:
    async with calling(tmp_path) as caller:
        status, answer = await caller.post(body)
        assert (status, answer["error"]["code"]) == (400, "invalid_input")


async def test_bytes_that_are_no_text_are_400(tmp_path: Path) -> None:
    async with calling(tmp_path) as caller:
        body = b'{"type":"message","data":{"thread":"t","person":"ada","text":"\xff"}}'
        at = datetime.now(UTC)
        # The library signs text only.
        key = base64.b64decode(secret_of("orders").removeprefix("whsec_"))
        digest = hmac.digest(key, f"msg_1.{int(at.timestamp())}.".encode() + body, "sha256")
        headers = {
            "webhook-id": "msg_1",
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": "v1," + base64.b64encode(digest).decode(),
        }
        status, _ = await caller.live.post(
            "/webhooks/orders", json=None, data=body, headers=headers
        )
        assert status == 400


async def test_a_large_body_is_413(tmp_path: Path) -> None:
    async with calling(tmp_path) as caller:
        data = {**DATA, "text": "x" * 20_480}
        body = json.dumps({"type": "message", "data": data}).encode()
        assert (await caller.post(body))[0] == 413

        async def pieces() -> Any:
            for start in range(0, len(body), 1_000):
                yield body[start : start + 1_000]

        status, _ = await caller.live.post(
            "/webhooks/orders", json=None, data=pieces(), headers=headers_of(body)
        )
        assert status == 413, "without a Content-Length"


async def test_an_unknown_endpoint_is_404(tmp_path: Path) -> None:
    async with calling(tmp_path) as caller:
        for name in ("nobody", "%00", "orders.t", "ORDERS"):
            status, _ = await caller.live.post(f"/webhooks/{name}", MESSAGE)
            assert status in (400, 404), name


async def test_an_unknown_skill_is_404_and_is_not_stored(tmp_path: Path) -> None:
    async with calling(tmp_path) as caller:
        data = {**DATA, "skill": "nothing"}
        assert (await caller.post({"type": "message", "data": data}))[0] == 404
        assert await count_messages(caller) == 0


async def test_arguments_reach_the_skill(tmp_path: Path) -> None:
    async with calling(tmp_path) as caller:
        data = {**DATA, "skill": "says", "arguments": {"unknown": 1}}
        _, answer = await caller.post({"type": "message", "data": data})
        _, event = await read(caller, answer["turn"])
        assert event["type"] == "reply.failed"
        assert "unknown" in event["data"]["problem"]["message"]


async def test_overload_is_503_and_tells_when_to_come_back(tmp_path: Path) -> None:
    gate = Gate()
    admission = AdmissionSettings(queue_tokens=600)
    async with calling(tmp_path, skills=(gate,), admission=admission) as caller:
        await caller.say("one", skill="gate", thread="a")
        data = {**DATA, "thread": "b"}
        status, headers = await post_raw(caller, {"type": "message", "data": data})
        assert status == 503
        assert int(headers["Retry-After"]) >= 1
        gate.open.set()


async def post_raw(caller: Caller, body: Any) -> tuple[int, Any]:
    raw = json.dumps(body).encode()
    headers = headers_of(raw)
    url = caller.live.url("/webhooks/orders")
    async with caller.live.session.post(url, data=raw, headers=headers) as response:
        return response.status, response.headers


async def test_an_event_that_comes_back_is_no_message(tmp_path: Path) -> None:
    """Both directions are signed by the same secret."""
    async with (
        receiving(secret_of("orders")) as receiver,
        calling(tmp_path, receiver.url) as caller,
    ):
        await caller.say("Hello")
        (event,) = await receiver.wait_for(1)
        del event["webhook"]
        status, _ = await caller.post(event)
        assert status == 400
        assert await count_messages(caller) == 1
