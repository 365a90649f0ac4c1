"""Push notifications: what is posted, until it is taken, and where to."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from a2a.client import Client
from a2a.types import a2a_pb2 as pb
from a2a.utils import errors
from aiohttp import web
from google.protobuf.json_format import ParseDict
from tests.plugins.channels.a2a.support import (
    BINDINGS,
    Binding,
    Json,
    TaskCopy,
    open_a2a_server,
    open_client,
    request,
    send,
    text_of,
)
from tests.server.web.live_server import TIMEOUT_SECONDS, eventually

from palaver.testing import MemoryLedger
from palaver_plugins.channels.a2a.push import MAX_CONFIGS, SCOPE
from palaver_plugins.channels.a2a.settings import Settings

pytestmark = pytest.mark.slow

LOOPBACK = Settings(allowed_networks=("127.0.0.1/32",))


class Receiver:
    """Another agent, which gets the states of tasks."""

    def __init__(self) -> None:
        self.url = ""
        self.posted: asyncio.Queue[tuple[Json, dict[str, str]]] = asyncio.Queue()
        self.statuses: list[int] = []
        """Statuses of the next answers; 204 when there are none."""

    async def receive(self, request: web.Request) -> web.Response:
        event = await request.json()
        ParseDict(event, pb.StreamResponse())
        self.posted.put_nowait((event["task"], dict(request.headers)))
        return web.Response(status=self.statuses.pop(0) if self.statuses else 204)

    async def next(self) -> tuple[Json, dict[str, str]]:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await self.posted.get()


@contextlib.asynccontextmanager
async def open_receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    application = web.Application()
    application.router.add_post("/", receiver.receive)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        yield receiver
    finally:
        await runner.cleanup()


def with_push(sent: pb.SendMessageRequest, url: str, **about: object) -> pb.SendMessageRequest:
    config = ParseDict({"url": url, **about}, pb.TaskPushNotificationConfig())
    sent.configuration.task_push_notification_config.CopyFrom(config)
    return sent


async def test_a_task_is_posted_when_it_asks_and_when_it_has_ended() -> None:
    async with (
        open_receiver() as receiver,
        open_a2a_server(LOOPBACK) as server,
        open_client(server, "JSONRPC") as client,
    ):
        authentication = {"scheme": "Bearer", "credentials": "abc"}
        sent = with_push(
            request("/waiter x"), receiver.url, token="t-1", authentication=authentication
        )
        task = TaskCopy().apply(await send(client, sent)).task
        posted, headers = await receiver.next()
        assert posted["id"] == task["id"]
        assert posted["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"
        assert headers["X-A2A-Notification-Token"] == "t-1"
        assert headers["Authorization"] == "Bearer abc"
        await send(client, request("tea", "m-2", task_id=task["id"]))
        posted, _ = await receiver.next()
        assert posted["status"]["state"] == "TASK_STATE_COMPLETED"
        assert text_of(posted) == "Tea or coffee?|One tea, please."

        async def is_forgotten() -> bool:
            return not await server.server.records.list_records(SCOPE)

        await eventually(is_forgotten)
        assert receiver.posted.empty()


async def test_a_post_that_fails_is_repeated_and_at_last_given_up() -> None:
    async with (
        open_receiver() as receiver,
        open_a2a_server(LOOPBACK) as server,
        open_client(server, "JSONRPC") as client,
    ):
        receiver.statuses = [500, 302]
        await send(client, with_push(request("hello"), receiver.url))
        for _ in range(3):
            posted, _ = await receiver.next()
            assert posted["status"]["state"] == "TASK_STATE_COMPLETED"
        receiver.statuses = [500] * 9
        await send(client, with_push(request("hello", "m-2"), receiver.url))
        for _ in range(3):
            await receiver.next()

        async def is_given_up() -> bool:
            return not await server.server.records.list_records(SCOPE)

        await eventually(is_given_up)
        assert receiver.posted.empty()


async def test_another_server_posts_what_the_first_one_could_not() -> None:
    ledger = MemoryLedger()
    async with open_receiver() as receiver:
        async with (
            open_a2a_server(LOOPBACK, ledger=ledger) as first,
            open_client(first, "JSONRPC", is_streaming=False) as client,
        ):
            sent = with_push(request("/scripted x"), receiver.url)
            sent.configuration.return_immediately = True
            (answer,) = await send(client, sent)
        assert receiver.posted.empty()
        async with open_a2a_server(LOOPBACK, ledger=ledger) as other:
            # The lease of the first server is over.
            (record,) = await other.server.records.list_records(SCOPE)
            await other.server.records.write_record(
                SCOPE, record.key, record.value, expect=record.version, due_in=0.0
            )
            other.scripted.emit("done")
            posted, _ = await receiver.next()
    assert posted["id"] == answer["task"]["id"]
    assert text_of(posted) == "done"


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/", "https://10.0.0.1/", "https://[::1]/", "ftp://a/", "x"]
)
async def test_addresses_within_the_network_are_refused(url: str) -> None:
    async with open_a2a_server() as server, open_client(server, "HTTP+JSON") as client:
        with pytest.raises(errors.InvalidParamsError):
            await send(client, with_push(request("hello"), url))


@pytest.mark.parametrize("binding", BINDINGS)
async def test_configurations_are_created_read_listed_and_deleted(binding: Binding) -> None:
    async with (
        open_receiver() as receiver,
        open_a2a_server(LOOPBACK) as server,
        open_client(server, binding) as client,
    ):
        task = TaskCopy().apply(await send(client, request("/waiter x"))).task["id"]
        made = await create(client, task, receiver.url, id="c-1", token="t")
        assert made.id == "c-1"
        named = pb.GetTaskPushNotificationConfigRequest(task_id=task, id="c-1")
        assert await client.get_task_push_notification_config(named) == made
        await create(client, task, receiver.url)
        every = pb.ListTaskPushNotificationConfigsRequest(task_id=task)
        listed = await client.list_task_push_notification_configs(every)
        assert len(listed.configs) == 2
        await client.delete_task_push_notification_config(
            pb.DeleteTaskPushNotificationConfigRequest(task_id=task, id="c-1")
        )
        with pytest.raises(errors.TaskNotFoundError):
            await client.get_task_push_notification_config(named)
        for _ in range(MAX_CONFIGS - 1):
            await create(client, task, receiver.url)
        with pytest.raises(errors.InvalidParamsError):
            await create(client, task, receiver.url)


async def create(
    client: Client, task: str, url: str, id: str = "", token: str = ""
) -> pb.TaskPushNotificationConfig:
    config = pb.TaskPushNotificationConfig(task_id=task, url=url, id=id, token=token)
    return await client.create_task_push_notification_config(config)


@pytest.mark.parametrize("about", [{"id": "a/b"}, {"token": "a\nb"}])
async def test_what_cannot_be_sent_is_refused(about: dict[str, str]) -> None:
    async with open_a2a_server(LOOPBACK) as server, open_client(server, "JSONRPC") as client:
        task = TaskCopy().apply(await send(client, request("/waiter x"))).task["id"]
        with pytest.raises(errors.InvalidParamsError):
            await create(client, task, "http://127.0.0.1:9/", **about)
