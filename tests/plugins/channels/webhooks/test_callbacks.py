"""Events reach the callback of their endpoint, whatever it answers, and hold up nobody."""

import asyncio
import itertools
import logging
import socket
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from aiohttp import web
from standardwebhooks import Webhook
from tests.plugins.channels.paying import Pays
from tests.plugins.channels.webhooks.support import (
    CHANNEL,
    SLACK_SECONDS,
    Caller,
    Gate,
    Json,
    Receiver,
    calling,
    channel_of,
    endpoint_settings,
    receiving,
    secret_of,
    states,
)

from palaver import OutboundClient, Skill, Turn
from palaver.config.settings import ConcurrencyPolicySettings
from palaver.platforms import ParkedConversations
from palaver.testing import MemoryLedger
from palaver_plugins.channels.webhooks.deliveries import JITTER, RETRY_SECONDS
from palaver_plugins.channels.webhooks.endpoint import MAX_CONVERSATIONS
from palaver_plugins.channels.webhooks.events import MAX_EVENT_BYTES
from palaver_plugins.channels.webhooks.settings import EndpointSettings

pytestmark = pytest.mark.slow
ORDERS = secret_of("orders")


def failing(*statuses: int, **headers: str) -> list[web.Response]:
    return [web.Response(status=status, headers=headers) for status in statuses]


async def test_a_reply_is_posted_with_a_signature(tmp_path: Path) -> None:
    async with receiving(ORDERS) as receiver, calling(tmp_path, receiver.url) as caller:
        turn = await caller.say("Grüße, 世界", id="msg_7")
        (event,) = await receiver.wait_for(1)
        content = await caller.until_delivered()
    webhook = event.pop("webhook")
    assert webhook["webhook-id"].startswith("evt_")
    assert "." not in webhook["webhook-id"]
    assert abs(time.time() - int(webhook["webhook-timestamp"])) < 60
    cursor = event["data"].pop("cursor")
    assert cursor.rpartition(":")[2].isdigit()
    datetime.fromisoformat(event["timestamp"])
    assert event["type"] == "reply.finished"
    assert event["data"] == {
        "endpoint": "orders",
        "thread": "t",
        "turn": turn,
        "messages": ["msg_7"],
        "outcome": "done",
        "skill": "says",
        "text": "Grüße, 世界",
        "is_cut": False,
        "finish_reason": "stop",
        "citations": [],
        "attachments": [],
        "question": None,
        "answer_to": None,
        "problem": None,
    }
    assert content["posted"] == [turn]
    assert not states(content)


async def test_events_come_in_order_where_nothing_fails_and_tell_it(tmp_path: Path) -> None:
    async with receiving(ORDERS) as receiver, calling(tmp_path, receiver.url) as caller:
        for number in range(5):
            await caller.say(f"{number}")
        events = await receiver.wait_for(5)
    assert [event["data"]["text"] for event in events] == list("01234")
    offsets = [int(event["data"]["cursor"].rpartition(":")[2]) for event in events]
    assert offsets == sorted(set(offsets))
    assert len(set(receiver.ids)) == 5


async def test_merged_messages_are_named_by_their_ids(tmp_path: Path) -> None:
    gate = Gate()
    policy = ConcurrencyPolicySettings(default="merge", merge_window=0.05)
    async with (
        receiving(ORDERS) as receiver,
        calling(
            tmp_path,
            receiver.url,
            skills=(gate,),
            concurrency_policy=policy,
            ledger=MemoryLedger(),
        ) as caller,
    ):
        await caller.say("first", id="msg_1", skill="gate")
        await caller.say("second", id="msg_2", skill=None)
        await caller.say("third", id="msg_3", skill=None)
        gate.open.set()
        (event,) = await receiver.wait_for(1)
    assert event["data"]["messages"] == ["msg_1", "msg_2", "msg_3"]


async def test_a_question_names_what_to_answer_to(tmp_path: Path) -> None:
    async with receiving(ORDERS) as receiver, calling(tmp_path, receiver.url) as caller:
        turn = await caller.say("A drink", skill="waiter")
        (asked,) = await receiver.wait_for(1)
        assert asked["type"] == "reply.asked"
        assert asked["data"]["question"] == {"text": "Tea or coffee?", "options": ["tea", "coffee"]}
        assert asked["data"]["answer_to"] == turn
        await caller.say("tea", skill=None, answer_to=turn, id="msg_2")
        _, reply = await receiver.wait_for(2)
        assert reply["data"]["text"] == "One tea, please."
        assert reply["data"]["skill"] == "waiter"


async def test_a_call_is_approved_by_an_answer_to_its_question(tmp_path: Path) -> None:
    skill = Pays()
    async with (
        receiving(ORDERS) as receiver,
        calling(tmp_path, receiver.url, skills=(skill,), tools=skill.tools.values()) as caller,
    ):
        turn = await caller.say("pay Bob", skill="obeys")
        (asked,) = await receiver.wait_for(1)
        approval = asked["data"]["question"]["approval"]
        assert (approval["tool"], approval["arguments"]) == ("pay", {"to": "Bob"})
        assert approval["shown_arguments"] in asked["data"]["text"]
        await caller.say("Approve", skill=None, answer_to=turn, id="msg_2")
        _, reply = await receiver.wait_for(2)
        assert (reply["data"]["text"], skill.paid) == ("Paid Bob.", ["Bob"])
        await caller.say("Approve", skill=None, answer_to=turn, id="msg_2")
        data = {"thread": "t", "person": "ada", "text": "Approve", "answer_to": turn}
        status, _ = await caller.post({"type": "message", "data": data})
        assert (status, skill.paid) == (409, ["Bob"])


async def test_a_late_answer_is_refused_and_a_repeated_one_is_not(tmp_path: Path) -> None:
    async with receiving(ORDERS) as receiver, calling(tmp_path, receiver.url) as caller:
        turn = await caller.say("A drink", skill="waiter")
        await receiver.wait_for(1)
        await caller.say("tea", skill=None, answer_to=turn, id="msg_2")
        await receiver.wait_for(2)
        again = await caller.say("tea", skill=None, answer_to=turn, id="msg_2")
        assert again == receiver.events[1]["data"]["turn"]
        data = {"thread": "t", "person": "ada", "text": "coffee", "answer_to": turn}
        status, answer = await caller.post({"type": "message", "data": data})
        assert (status, answer["error"]["code"]) == (409, "conflict")
        assert turn in answer["error"]["message"]
        for wrong in ("", "nothing", receiver.events[1]["data"]["turn"]):
            status, _ = await caller.post({"type": "message", "data": data | {"answer_to": wrong}})
            assert status == 409


async def test_an_answer_while_another_message_waits_is_refused(tmp_path: Path) -> None:
    gate = Gate()
    async with (
        receiving(ORDERS) as receiver,
        calling(tmp_path, receiver.url, skills=(gate,)) as caller,
    ):
        turn = await caller.say("A drink", skill="waiter")
        await receiver.wait_for(1)
        await caller.say("Something else", skill="gate")
        data = {"thread": "t", "person": "ada", "text": "tea", "answer_to": turn}
        status, _ = await caller.post({"type": "message", "data": data})
        assert status == 409
        gate.open.set()


async def test_a_failed_and_a_stopped_turn_are_told(tmp_path: Path) -> None:
    gate = Gate()
    async with (
        receiving(ORDERS) as receiver,
        calling(tmp_path, receiver.url, skills=(gate,)) as caller,
    ):
        await caller.say("x", skill="clumsy")
        (failed,) = await receiver.wait_for(1)
        assert failed["type"] == "reply.failed"
        assert failed["data"]["problem"]["code"] == "skill"
        assert failed["data"]["text"] == "I will now "
        running = await caller.say("one", skill="gate")
        waiting = await caller.say("two", skill="gate")
        await caller.server.stop(caller.conversation(), waiting)
        await caller.server.stop(caller.conversation(), running)
        events = await receiver.wait_for(3)
    stopped = {event["data"]["turn"]: event for event in events[1:]}
    assert stopped.keys() == {running, waiting}
    assert {(event["type"], event["data"]["outcome"]) for event in stopped.values()} == {
        ("reply.finished", "stopped")
    }


async def test_an_interrupted_turn_is_told_too(tmp_path: Path) -> None:
    gate = Gate()
    policy = ConcurrencyPolicySettings(default="interrupt")
    async with (
        receiving(ORDERS) as receiver,
        calling(tmp_path, receiver.url, skills=(gate,), concurrency_policy=policy) as caller,
    ):
        one = await caller.say("one", skill="gate", id="msg_1")
        await until_running(caller)
        two = await caller.say("two", id="msg_2", skill=None)
        await receiver.wait_for(1)
        gate.open.set()
        first, second = await receiver.wait_for(2)
    assert (first["data"]["turn"], first["data"]["outcome"]) == (one, "stopped")
    assert (second["data"]["turn"], second["data"]["outcome"]) == (two, "done")
    assert first["data"]["messages"] == ["msg_1"]
    assert second["data"]["messages"] == ["msg_2"]


async def until_running(caller: Caller) -> None:
    async with asyncio.timeout(5):
        while not (await caller.server.ledger.queue_depth()).running:  # noqa: ASYNC110  no event
            await asyncio.sleep(0.002)


# Failures


@pytest.mark.parametrize("status", [301, 307, 308, 400, 401, 404, 409, 429, 500, 503])
async def test_anything_but_2xx_is_tried_again(tmp_path: Path, status: int) -> None:
    seconds = itertools.count()
    async with (
        receiving(ORDERS) as receiver,
        calling(
            tmp_path, receiver.url, channel={"clock": lambda: time.time() + next(seconds)}
        ) as caller,
    ):
        receiver.answers = failing(status, Location=receiver.url)
        await caller.say("Hello")
        assert 4 <= await caller.pass_pause(1) <= 6 + SLACK_SECONDS
        one, two = await receiver.wait_for(2)
        await caller.until_delivered()
        assert len(receiver.events) == 2, "no redirect is followed"
    first, second = one.pop("webhook"), two.pop("webhook")
    assert one == two
    assert first["webhook-id"] == second["webhook-id"]
    assert int(second["webhook-timestamp"]) > int(first["webhook-timestamp"])
    assert first["webhook-signature"] != second["webhook-signature"]


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_2xx_is_the_end(tmp_path: Path, status: int) -> None:
    async with receiving(ORDERS) as receiver, calling(tmp_path, receiver.url) as caller:
        receiver.answers = failing(status)
        await caller.say("Hello")
        await caller.until_delivered()
        assert len(receiver.events) == 1


async def test_attempts_go_on_for_days_and_end_in_the_outbox(tmp_path: Path) -> None:
    async with receiving(ORDERS) as receiver, calling(tmp_path, receiver.url) as caller:
        receiver.answers = failing(*[500] * (len(RETRY_SECONDS) + 1))
        await caller.say("Hello")
        for number, seconds in enumerate(RETRY_SECONDS, 1):
            pause = await caller.pass_pause(number)
            assert seconds * (1 - JITTER) <= pause <= seconds * (1 + JITTER) + SLACK_SECONDS
        content = await caller.until(lambda content: bool(content.get("problem")))
        assert "'orders'" in content["problem"]
        assert "it answered 500" in content["problem"]
        assert "the last of the attempts" in content["problem"]
        (parked,) = await parked_of(caller).list()
        assert parked.conversation == caller.conversation()
        assert len(set(receiver.ids)) == 1
        assert len(receiver.events) == len(RETRY_SECONDS) + 1
        caller.clock.now += 400_000
        await caller.say("And now?")  # the next event is not held up
        events = await receiver.wait_for(len(RETRY_SECONDS) + 2)
        assert events[-1]["data"]["text"] == "And now?"


def test_the_attempts_take_about_three_days() -> None:
    assert 2.5 * 86_400 < sum(RETRY_SECONDS) < 3.5 * 86_400


def parked_of(caller: Caller) -> ParkedConversations:
    return ParkedConversations(caller.server.records, CHANNEL, clock=caller.clock)


async def test_an_operator_can_repeat_a_parked_delivery(tmp_path: Path) -> None:
    async with receiving(ORDERS) as receiver, calling(tmp_path, receiver.url) as caller:
        receiver.answers = failing(410)
        turn = await caller.say("Hello")
        await caller.until(lambda content: bool(content.get("problem")))
        receiver.answers = failing(500)
        assert await parked_of(caller).replay(caller.conversation())
        await caller.pass_pause(1)
        content = await caller.until_delivered()
        assert content["posted"] == [turn]
        assert "problem" not in content
        assert len(set(receiver.ids)) == 1
        assert await parked_of(caller).list() == []
        await caller.say("And now?")  # the endpoint is enabled again
        await caller.until_delivered(2)


async def test_an_operator_can_discard_a_parked_delivery(tmp_path: Path) -> None:
    async with receiving(ORDERS) as receiver, calling(tmp_path, receiver.url) as caller:
        receiver.answers = failing(410)
        await caller.say("Hello")
        await caller.until(lambda content: bool(content.get("problem")))
        parked = parked_of(caller)
        assert await parked.discard(caller.conversation(), caller.server.snapshot)
        content = await caller.until_delivered()
        assert not states(content)
        assert await parked.list() == []


@pytest.mark.parametrize(("asked", "least", "most"), [("100", 100, 120), ("1", 4, 6), ("x", 4, 6),
                                                     ("99999999999", 86_399, 110_000),
                                                     ("-5", 4, 6), ("¹", 4, 6)])  # fmt: skip
async def test_retry_after_is_heeded(tmp_path: Path, asked: str, least: float, most: float) -> None:
    async with receiving(ORDERS) as receiver, calling(tmp_path, receiver.url) as caller:
        receiver.answers = failing(503, **{"Retry-After": asked})
        await caller.say("Hello")
        assert least <= await caller.until_waiting(1) <= most + SLACK_SECONDS


async def test_a_date_of_retry_after_counts_from_the_responses_own(tmp_path: Path) -> None:
    at = datetime(2031, 1, 1, tzinfo=UTC)
    headers = {
        "Date": format_datetime(at, usegmt=True),
        "Retry-After": format_datetime(at + timedelta(minutes=10), usegmt=True),
    }
    async with receiving(ORDERS) as receiver, calling(tmp_path, receiver.url) as caller:
        receiver.answers = failing(429, **headers)
        await caller.say("Hello")
        assert 600 <= await caller.until_waiting(1) <= 720 + SLACK_SECONDS


async def test_a_message_does_not_wait_for_an_event_that_does(tmp_path: Path) -> None:
    async with receiving(ORDERS) as receiver, calling(tmp_path, receiver.url) as caller:
        receiver.answers = failing(503, **{"Retry-After": "80000"})
        await caller.say("first")
        await caller.until_waiting(1)
        await caller.say("second")
        events = await receiver.wait_for(2)
        assert events[1]["data"]["text"] == "second"
        await caller.until(lambda content: len(content.get("posted", ())) == 1)
        caller.clock.now += 100_000
        await caller.until_delivered(2)
        assert receiver.events[2]["data"]["text"] == "first"


async def test_410_disables_the_endpoint_until_its_callback_changes(tmp_path: Path) -> None:
    async with receiving(ORDERS) as receiver, calling(tmp_path, receiver.url) as caller:
        receiver.answers = failing(410)
        await caller.say("first")
        content = await caller.until(lambda content: bool(content.get("problem")))
        assert "410 Gone at 1970-01-12" in content["problem"]
        await caller.say("second", thread="other")
        content = await caller.until(lambda content: bool(content.get("problem")), "other")
        assert content["problem"] == "the endpoint 'orders' is disabled"
        assert len(receiver.events) == 1
        moved = endpoint_settings(tmp_path, "orders", callback=receiver.url + "?v=2")
        await caller.restart(channel_of({"orders": moved}))
        await caller.say("third", thread="other")
        await caller.until_delivered(1, "other")
        assert receiver.events[1]["data"]["text"] == "third"


async def test_a_callback_that_is_down_gets_its_events_later(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/events"
        async with calling(tmp_path, url) as caller:
            await caller.say("Hello")
            await caller.until_waiting(1)


class SlowReceiver:
    """Holds every request until it is released."""

    def __init__(self, receiver: Receiver) -> None:
        self.released = asyncio.Event()

        async def hold() -> None:
            await self.released.wait()

        receiver.hold = hold


async def test_a_slow_endpoint_holds_up_no_other(tmp_path: Path) -> None:
    async with receiving(ORDERS) as slow, receiving(secret_of("billing")) as quick:
        held = SlowReceiver(slow)
        billing = {"callback": quick.url}
        async with calling(tmp_path, slow.url, billing=billing) as caller:
            for number in range(30):
                await caller.say(f"{number}", thread=f"t{number}")
            await slow.wait_for(20)
            await caller.say("quick", endpoint="billing")
            (event,) = await quick.wait_for(1)
            assert event["data"]["text"] == "quick"
            assert len(slow.events) == 20, "one endpoint has so many requests at once"
            held.released.set()
            await slow.wait_for(30)


async def test_two_secrets_sign_while_rotating(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text(secret_of("old"), encoding="utf-8")
    orders = {"previous_secret": f"file:{old}"}
    async with (
        receiving(ORDERS, secret_of("old")) as receiver,  # verifies with both
        calling(tmp_path, receiver.url, orders=orders) as caller,
    ):
        await caller.say("Hello")
        (event,) = await receiver.wait_for(1)
        assert len(event["webhook"]["webhook-signature"].split(" ")) == 2


async def test_an_endpoint_with_many_conversations_leaves_room_for_others(tmp_path: Path) -> None:
    async with receiving(ORDERS) as slow, receiving(secret_of("billing")) as quick:
        held = SlowReceiver(slow)
        billing = {"callback": quick.url}
        async with calling(tmp_path, slow.url, billing=billing) as caller:
            count = MAX_CONVERSATIONS + 5
            for number in range(count):
                await caller.say(f"{number}", thread=f"t{number}")
            await slow.wait_for(20)
            await caller.say("quick", endpoint="billing")
            (event,) = await quick.wait_for(1)
            assert event["data"]["text"] == "quick"
            async with asyncio.timeout(10):
                while await count_postponed(caller, count) != 5:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            held.released.set()
            await slow.wait_for(MAX_CONVERSATIONS)
            caller.clock.now += 15
            await slow.wait_for(count)


async def count_postponed(caller: Caller, count: int) -> int:
    """Return how many outboxes were given back, to be looked at again soon."""
    records = [await caller.outbox(f"t{number}") for number in range(count)]
    soon = [record for record in records if record.due_at and record.due_at < caller.clock.now + 16]
    return len([record for record in soon if record.due_at != caller.clock.now])


# Content


@pytest.mark.parametrize("piece", ["word ", "世", '"', "\x01", "\N{GRINNING FACE}"])
async def test_a_long_reply_is_cut_and_read_whole(tmp_path: Path, piece: str) -> None:
    text = piece * (15_000 // len(piece.encode()))

    class Long(Skill):
        """Say something long."""

        name = "long"

        async def answer(self, turn: Turn) -> None:
            for _ in range(4):
                await turn.say(text)

    async with (
        receiving(ORDERS) as receiver,
        calling(tmp_path, receiver.url, skills=(Long(),)) as caller,
    ):
        turn = await caller.say("Tell me", skill="long")
        (event,) = await receiver.wait_for(1)
        assert event["webhook"]["size"] <= MAX_EVENT_BYTES
        assert event["webhook"]["size"] > MAX_EVENT_BYTES * 0.9
        assert event["data"]["is_cut"]
        assert event["data"]["text"].endswith(" […]")
        assert (text * 4).startswith(event["data"]["text"].removesuffix(" […]"))
        body = {"type": "reply.read", "data": {"thread": "t", "turn": turn}}
        status, whole = await caller.post(body)
        assert (status, whole["data"]["text"]) == (200, text * 4)
        assert not whole["data"]["is_cut"]


async def test_sources_are_told(tmp_path: Path) -> None:
    async with receiving(ORDERS) as receiver, calling(tmp_path, receiver.url) as caller:
        await caller.say("How much leave?", skill="scholar")
        (event,) = await receiver.wait_for(1)
    (citation,) = event["data"]["citations"]
    assert citation["document"] == "handbook.md"
    (attachment,) = event["data"]["attachments"]
    assert attachment["name"] == "leave.txt"


async def test_a_reply_that_is_not_there_is_404(tmp_path: Path) -> None:
    gate = Gate()
    async with calling(tmp_path, skills=(gate,)) as caller:
        turn = await caller.say("Hello", skill="gate")
        body: Json = {"type": "reply.read", "data": {"thread": "t", "turn": turn}}
        assert await caller.post(body) == (202, {"state": "unfinished", "turn": turn})
        assert (await caller.post(body, endpoint="billing"))[0] == 404
        for wrong in ({"turn": "x", "thread": "t"}, {"turn": turn, "thread": "other"}):
            assert (await caller.post({"type": "reply.read", "data": wrong}))[0] == 404
        gate.open.set()


async def test_an_erased_reply_is_not_delivered(tmp_path: Path) -> None:
    async with receiving(ORDERS) as receiver, calling(tmp_path, receiver.url) as caller:
        receiver.answers = failing(500)
        await caller.say("qxjzvikku")
        pause = await caller.until_waiting(1)
        await caller.server.erase("default", "webhooks.orders.ada", caller.conversation())
        caller.clock.now += pause
        await caller.say("Anew")
        events = await receiver.wait_for(2)
        assert events[1]["data"]["text"] == "Anew"
        await caller.until_delivered()


async def test_the_reply_of_an_erased_member_is_not_delivered(tmp_path: Path) -> None:
    async with receiving(ORDERS) as receiver, calling(tmp_path, receiver.url) as caller:
        await caller.say("Hello", person="bob")
        await receiver.wait_for(1)
        receiver.answers = failing(500)
        await caller.say("qxjzvikku")
        pause = await caller.until_waiting(1)
        await caller.server.erase("default", "webhooks.orders.ada", caller.conversation())
        caller.clock.now += pause
        await caller.until(lambda content: not content.get("open"))
        assert len(receiver.events) == 2


async def test_a_new_callback_gets_no_old_replies(tmp_path: Path) -> None:
    async with receiving(ORDERS) as receiver, calling(tmp_path) as caller:
        await caller.say("old")
        await caller.until(lambda content: bool(content.get("cursor")))
        body: Json = {
            "type": "reply.read",
            "data": {"thread": "t", "turn": await caller.say("old")},
        }
        async with asyncio.timeout(5):
            while (await caller.post(body))[0] == 202:  # noqa: ASYNC110  a request
                await asyncio.sleep(0.005)
        await caller.until(lambda content: bool(content.get("cursor")))
        settings = endpoint_settings(tmp_path, "orders", callback=receiver.url)
        await caller.restart(channel_of({"orders": settings}))
        await caller.say("new")
        await caller.until_delivered()
        assert [event["data"]["text"] for event in receiver.events] == ["new"]


async def test_events_of_an_endpoint_that_a_server_lacks_wait_for_another(tmp_path: Path) -> None:
    async with receiving(ORDERS) as receiver, calling(tmp_path, receiver.url) as caller:
        receiver.answers = failing(500)
        await caller.say("Hello")
        await caller.until_waiting(1)
        await caller.restart(channel_of({}))
        async with asyncio.timeout(5):
            while (await caller.outbox()).due_at != caller.clock.now + 60:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        settings = endpoint_settings(tmp_path, "orders", callback=receiver.url)
        await caller.restart(channel_of({"orders": settings}))
        caller.clock.now += 60
        await caller.until_delivered()


async def test_an_endpoint_of_another_tenant_gets_no_events_of_the_former(tmp_path: Path) -> None:
    async with receiving(ORDERS) as receiver, calling(tmp_path, receiver.url) as caller:
        receiver.answers = failing(500)
        await caller.say("Hello")
        await caller.pass_pause(1)
        await caller.restart(
            channel_of(
                {
                    "orders": endpoint_settings(
                        tmp_path, "orders", callback=receiver.url, tenant="other"
                    )
                }
            )
        )
        async with asyncio.timeout(5):
            while (await caller.outbox()).due_at != caller.clock.now + 60:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        assert len(receiver.events) == 1


async def test_a_callback_that_dns_moves_inside_is_not_called(tmp_path: Path) -> None:
    answers: list[Sequence[str]] = [["127.0.0.1"], ["169.254.169.254"], ["10.0.0.1"]]

    def make_client(settings: EndpointSettings) -> OutboundClient:
        return OutboundClient(
            allowed_networks=settings.allowed_networks, find_addresses=lambda *_: answers.pop(0)
        )

    async with receiving(ORDERS) as receiver:
        url = receiver.url.replace("127.0.0.1", "callback.test")
        async with calling(tmp_path, url, channel={"make_client": make_client}) as caller:
            receiver.answers = failing(500)
            receiver.answers[0].force_close()
            await caller.say("Hello")
            for attempts in (1, 2, 3):
                await caller.pass_pause(attempts)
            assert len(receiver.events) == 1


async def test_what_is_posted_is_in_no_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with receiving(ORDERS) as receiver, calling(tmp_path, receiver.url) as caller:
        receiver.answers = failing(500, 410)
        await caller.say("qxjzvikku")
        await caller.pass_pause(1)
        await caller.until(lambda content: bool(content.get("problem")))
        await caller.post(b"qxjzvikku")
        await caller.post({"type": "message", "data": {"thread": "qxjzvikku"}})
    assert "it answered 500" in caplog.text
    assert "410 Gone" in caplog.text
    assert "qxjzvikku" not in caplog.text
    assert receiver.url.rpartition("/")[2] not in caplog.text


async def test_the_library_verifies_what_is_posted() -> None:
    """`Receiver` does it for every event; here is the proof that it can fail."""
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(ORDERS).verify(
            b"{}",
            {
                "webhook-id": "a",
                "webhook-timestamp": str(int(time.time())),
                "webhook-signature": "v1,AAAA",
            },
        )
