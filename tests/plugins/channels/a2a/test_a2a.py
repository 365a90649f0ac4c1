"""The channel with the official client of A2A, by both bindings."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from a2a.client import Client
from a2a.types import a2a_pb2 as pb
from a2a.utils import errors
from google.protobuf.json_format import MessageToDict, ParseDict
from tests.plugins.channels.a2a.support import (
    BINDINGS,
    VERSION,
    Binding,
    Json,
    TaskCopy,
    call,
    open_a2a_server,
    open_client,
    read_stream,
    request,
    send,
    subscribe,
    text_of,
)
from tests.plugins.channels.paying import Pays
from tests.server.web.live_server import LiveServer, eventually
from tests.server.web.test_shutdown import shutting_down

from palaver.config.settings import AuthKey, Secret
from palaver.testing import MemoryLedger
from palaver_plugins.channels.a2a import palaver_register_channels
from palaver_plugins.channels.a2a.settings import Settings

pytestmark = pytest.mark.slow


@pytest_asyncio.fixture
async def server() -> AsyncIterator[LiveServer]:
    async with open_a2a_server() as opened:
        yield opened


@pytest.fixture(params=BINDINGS)
def binding(request: pytest.FixtureRequest) -> Binding:
    found: Binding = request.param
    return found


@pytest_asyncio.fixture
async def client(server: LiveServer, binding: Binding) -> AsyncIterator[Client]:
    async with open_client(server, binding) as opened:
        yield opened


@pytest_asyncio.fixture
async def poller(server: LiveServer, binding: Binding) -> AsyncIterator[Client]:
    """A client that does not stream."""
    async with open_client(server, binding, is_streaming=False) as opened:
        yield opened


def test_it_is_registered_by_name() -> None:
    (backend,) = palaver_register_channels()
    assert backend.name == "a2a"


# Messages


async def test_a_message_becomes_a_task_with_the_reply(poller: Client) -> None:
    (answer,) = await send(poller, request("hello there"))
    task = answer["task"]
    assert task["status"]["state"] == "TASK_STATE_COMPLETED"
    assert text_of(task) == "hello there "
    assert [message["parts"] for message in task["history"]] == [[{"text": "hello there"}]]
    read = await poller.get_task(pb.GetTaskRequest(id=task["id"], history_length=0))
    assert MessageToDict(read) == {key: task[key] for key in task if key != "history"}


async def test_a_stream_begins_with_the_task_and_ends_with_its_state(client: Client) -> None:
    events = await send(client, request("hello there"))
    assert "task" in events[0]
    assert "statusUpdate" in events[-1]
    copy = TaskCopy().apply(events)
    assert copy.states[-2:] == ["WORKING", "COMPLETED"]
    assert copy.text == "hello there "


async def test_citations_and_files_come_with_the_reply(client: Client) -> None:
    copy = TaskCopy().apply(await send(client, request("/scholar leave?")))
    (parts,) = copy.artifacts.values()
    read = await client.get_task(pb.GetTaskRequest(id=copy.task["id"]))
    (artifact,) = MessageToDict(read)["artifacts"]
    for found in (parts, artifact["parts"]):
        texts = [part["text"] for part in found if "text" in part]
        assert "".join(texts) == "You have 30 days of leave [1]."
        (cited,) = [part["data"]["citations"] for part in found if "data" in part]
        assert cited[0]["title"] == "The Handbook"
        assert [part["filename"] for part in found if "url" in part] == ["leave.txt"]


async def test_a_task_may_be_polled(server: LiveServer, poller: Client) -> None:
    sent = request("/scripted x")
    sent.configuration.return_immediately = True
    ((task),) = [answer["task"] for answer in await send(poller, sent)]
    assert task["status"]["state"] in ("TASK_STATE_SUBMITTED", "TASK_STATE_WORKING")
    server.scripted.emit("done")

    async def is_completed() -> bool:
        read = await poller.get_task(pb.GetTaskRequest(id=task["id"]))
        return read.status.state == pb.TASK_STATE_COMPLETED

    await eventually(is_completed)


async def test_a_context_is_a_conversation(poller: Client) -> None:
    (first,) = await send(poller, request("one"))
    context = first["task"]["contextId"]
    (second,) = await send(poller, request("two", "m-2", context_id=context))
    assert second["task"]["contextId"] == context
    assert second["task"]["id"] != first["task"]["id"]
    (own,) = await send(poller, request("three", "m-3", context_id="my/{own}:context*é"))
    assert own["task"]["contextId"] == "my/{own}:context*é"


async def test_the_same_message_again_is_the_same_task(poller: Client, client: Client) -> None:
    (first,) = await send(poller, request("hello"))
    (again,) = await send(poller, request("hello"))
    assert again == first
    assert TaskCopy().apply(await send(client, request("hello"))).task == first["task"]
    with pytest.raises(errors.InvalidParamsError, match="another body"):
        await send(poller, request("another text"))


async def test_a_skill_can_be_named(poller: Client) -> None:
    sent = request("leave?")
    sent.message.metadata.update({"palaver": {"skill": "scholar"}})
    (answer,) = await send(poller, sent)
    assert text_of(answer["task"]).startswith("You have 30 days")


async def test_files_travel_in_the_message(poller: Client) -> None:
    sent = request("look")
    sent.message.parts.append(pb.Part(raw=b"a,b", filename="sums.csv", media_type="text/csv"))
    (answer,) = await send(poller, sent)
    assert text_of(answer["task"]) == "look "
    sent = request("look", "m-2")
    sent.message.parts.append(pb.Part(url="http://127.0.0.1/x"))
    with pytest.raises(errors.ContentTypeNotSupportedError, match="fetches no files"):
        await send(poller, sent)


# Questions


async def test_a_question_asks_for_input_and_its_answer_continues_the_task(client: Client) -> None:
    copy = TaskCopy().apply(await send(client, request("/waiter a drink")))
    assert copy.states[-1] == "INPUT_REQUIRED"
    asked = copy.task["status"]["message"]
    assert asked["parts"] == [
        {"text": "Tea or coffee?"},
        {"data": {"options": ["tea", "coffee"]}, "mediaType": "application/json"},
    ]
    answer = request("tea", "m-2", task_id=copy.task["id"], context_id=copy.task["contextId"])
    copy.apply(await send(client, answer))
    assert copy.states[-1] == "COMPLETED"
    assert copy.text == "Tea or coffee?|One tea, please."
    read = MessageToDict(await client.get_task(pb.GetTaskRequest(id=copy.task["id"])))
    assert [part["text"] for message in read["history"] for part in message["parts"]] == [
        "/waiter a drink",
        "Tea or coffee?",
        "tea",
    ]
    again = TaskCopy().apply(await send(client, answer))  # a retry, after the end
    assert again.task["id"] == copy.task["id"]
    with pytest.raises(errors.UnsupportedOperationError, match="has ended"):
        await send(client, request("milk", "m-3", task_id=copy.task["id"]))


async def test_a_message_to_another_context_of_the_task_is_refused(client: Client) -> None:
    task = TaskCopy().apply(await send(client, request("/waiter x"))).task
    with pytest.raises(errors.InvalidParamsError):
        await send(client, request("tea", "m-2", task_id=task["id"], context_id="other"))


async def test_a_task_that_asks_is_cancelled(client: Client) -> None:
    copy = TaskCopy().apply(await send(client, request("/waiter x", context_id="c")))
    named = pb.CancelTaskRequest(id=copy.task["id"])
    assert (await client.cancel_task(named)).status.state == pb.TASK_STATE_CANCELED
    with pytest.raises(errors.TaskNotCancelableError):
        await client.cancel_task(named)
    with pytest.raises(errors.UnsupportedOperationError, match="has ended"):
        await send(client, request("tea", "m-2", task_id=copy.task["id"]))
    other = TaskCopy().apply(await send(client, request("tea", "m-3", context_id="c")))
    assert (other.text, other.states[-1]) == ("tea ", "COMPLETED")  # it answers no question
    listed = await client.list_tasks(pb.ListTasksRequest(context_id="c"))
    assert len(listed.tasks) == 2


# Approvals


@contextlib.asynccontextmanager
async def asking_to_pay(binding: Binding) -> AsyncIterator[tuple[Client, Pays, TaskCopy]]:
    """Yield a client whose task waits for the approval of a payment."""
    skill = Pays()
    async with (
        open_a2a_server(skills=[skill], tools=list(skill.tools.values())) as server,
        open_client(server, binding) as client,
    ):
        sent = request("pay Bob", context_id="c")
        sent.message.metadata.update({"palaver": {"skill": "obeys"}})
        yield client, skill, TaskCopy().apply(await send(client, sent))


def answer(task: Json, id: str = "m-2", **part: Any) -> pb.SendMessageRequest:
    sent = request("", id, task_id=task["id"], context_id=task["contextId"])
    sent.message.parts[0].CopyFrom(ParseDict(part, pb.Part()))
    return sent


async def test_an_approval_shows_the_tool_and_its_arguments(binding: Binding) -> None:
    async with asking_to_pay(binding) as (_, skill, copy):
        assert copy.states[-1] == "INPUT_REQUIRED"
        text, data = copy.task["status"]["message"]["parts"]
        assert "`pay`" in text["text"]
        assert data["data"]["options"] == ["Approve", "Deny"]
        approval = data["data"]["approval"]
        assert (approval["tool"], approval["arguments"]) == ("pay", {"to": "Bob"})
        assert approval["description"] == "Pay money."
        assert approval["expiresAt"] > copy.task["status"]["timestamp"]
        assert not skill.paid


@pytest.mark.parametrize(
    ("part", "paid"),
    [
        ({"data": {"approved": True}}, ["Bob"]),
        ({"data": {"approved": False}}, []),
        ({"text": "approve"}, ["Bob"]),
        ({"text": "deny"}, []),
        ({"data": {"approved": "yes"}}, []),
    ],
)
async def test_an_approval_is_given_or_denied(
    binding: Binding, part: Json, paid: list[str]
) -> None:
    async with asking_to_pay(binding) as (client, skill, copy):
        for _ in range(2):  # the second is a retry
            copy.apply(await send(client, answer(copy.task, **part)))
            assert copy.states[-1] == "COMPLETED"
            assert skill.paid == paid
        assert copy.text.endswith("Paid Bob." if paid else "Not paid.")


async def test_a_cancelled_approval_approves_nothing(binding: Binding) -> None:
    async with asking_to_pay(binding) as (client, skill, copy):
        cancelled = await client.cancel_task(pb.CancelTaskRequest(id=copy.task["id"]))
        assert cancelled.status.state == pb.TASK_STATE_CANCELED
        with pytest.raises(errors.UnsupportedOperationError):
            await send(client, answer(copy.task, data={"approved": True}))
        later = TaskCopy().apply(await send(client, request("Approve", "m-3", context_id="c")))
        assert later.text == "Approve "
        assert not skill.paid


# Tasks


async def test_a_subscription_gets_the_task_and_what_follows(
    server: LiveServer, client: Client, poller: Client
) -> None:
    sent = request("/scripted x")
    sent.configuration.return_immediately = True
    (answer,) = await send(poller, sent)
    task = answer["task"]["id"]
    server.scripted.emit("one ", end=False)
    copy = TaskCopy()
    async for event in client.subscribe(pb.SubscribeToTaskRequest(id=task)):
        copy.apply([MessageToDict(event)])
        if copy.text == "one ":
            server.scripted.emit("two")
    assert copy.text == "one two"
    assert copy.states[-1] == "COMPLETED"
    with pytest.raises(errors.UnsupportedOperationError):
        await subscribe(client, task)


async def test_a_task_that_asks_can_be_subscribed_to(client: Client) -> None:
    task = TaskCopy().apply(await send(client, request("/waiter x"))).task
    (event,) = await subscribe(client, task["id"])
    assert event["task"]["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"


async def test_a_task_is_cancelled(server: LiveServer, client: Client, poller: Client) -> None:
    sent = request("/scripted x")
    sent.configuration.return_immediately = True
    (answer,) = await send(poller, sent)
    named = pb.CancelTaskRequest(id=answer["task"]["id"])
    cancelled = await client.cancel_task(named)
    assert cancelled.status.state == pb.TASK_STATE_CANCELED
    with pytest.raises(errors.TaskNotCancelableError):
        await client.cancel_task(named)


async def test_a_failed_turn_is_a_failed_task(client: Client) -> None:
    copy = TaskCopy().apply(await send(client, request("/clumsy x")))
    assert copy.states[-1] == "FAILED"
    message = copy.task["status"]["message"]["parts"][0]["text"]
    assert message == "The skill could not finish its answer."


async def test_tasks_are_listed_in_pages(client: Client) -> None:
    for number in range(3):
        await send(client, request(f"text {number}", f"m-{number}", context_id="c"))
    asked = TaskCopy().apply(await send(client, request("/waiter x", "m-9", context_id="d"))).task
    listed = await client.list_tasks(pb.ListTasksRequest(page_size=2))
    assert (listed.total_size, listed.page_size, len(listed.tasks)) == (4, 2, 2)
    assert listed.tasks[0].id == asked["id"]
    assert not listed.tasks[0].artifacts
    rest = await client.list_tasks(
        pb.ListTasksRequest(page_size=2, page_token=listed.next_page_token, include_artifacts=True)
    )
    assert rest.next_page_token == ""
    texts = [task.artifacts[0].parts[0].text for task in rest.tasks]
    assert texts == ["text 1 ", "text 0 "]
    of_context = await client.list_tasks(
        pb.ListTasksRequest(context_id="d", status=pb.TASK_STATE_INPUT_REQUIRED)
    )
    assert [task.id for task in of_context.tasks] == [asked["id"]]
    later = pb.ListTasksRequest()
    later.status_timestamp_after.FromJsonString("2100-01-01T00:00:00Z")
    assert not (await client.list_tasks(later)).tasks


async def test_unknown_tasks_are_not_found(client: Client) -> None:
    for id in ("nothing", "Yw.abc", "*.*", "Yw." + "a" * 500):
        for calling in (
            client.get_task(pb.GetTaskRequest(id=id)),
            client.cancel_task(pb.CancelTaskRequest(id=id)),
            subscribe(client, id),
            send(client, request("x", task_id=id)),
        ):
            with pytest.raises(errors.TaskNotFoundError):
                await calling


async def test_a_task_is_of_its_person(binding: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {
        name: AuthKey(secret=Secret(f"env:KEY_{name.upper()}"), person=name, tenant="acme")
        for name in ("ada", "bob")
    }
    for name in keys:
        monkeypatch.setenv(f"KEY_{name.upper()}", f"the secret key of {name}")
    async with (
        open_a2a_server(keys=keys) as server,
        open_client(server, binding, Authorization="Bearer the secret key of ada") as ada,
        open_client(server, binding, Authorization="Bearer the secret key of bob") as bob,
    ):
        task = TaskCopy().apply(await send(ada, request("my secret", context_id="c"))).task["id"]
        assert (await ada.get_task(pb.GetTaskRequest(id=task))).id == task
        with pytest.raises(errors.TaskNotFoundError):
            await bob.get_task(pb.GetTaskRequest(id=task))
        assert not (await bob.list_tasks(pb.ListTasksRequest(context_id="c"))).tasks
        assert not (await bob.list_tasks(pb.ListTasksRequest())).tasks
        with pytest.raises(errors.TaskNotFoundError):
            await bob.create_task_push_notification_config(
                pb.TaskPushNotificationConfig(task_id=task, url="https://example.org/")
            )


# The card


async def test_the_card_is_revalidated_and_tells_everybody_no_skills(server: LiveServer) -> None:
    url = server.url("/.well-known/agent-card.json")
    async with server.session.get(url) as response:
        card = await response.json()
        etag = response.headers["ETag"]
    assert [skill["id"] for skill in card["skills"]] == ["conversation"]
    assert [each["url"] for each in card["supportedInterfaces"]] == [
        server.url("/a2a"),
        server.url("/a2a/v1"),
    ]
    async with server.session.get(url, headers={"If-None-Match": etag}) as response:
        assert response.status == 304


async def test_the_extended_card_has_the_skills(client: Client) -> None:
    card = await client.get_extended_agent_card(pb.GetExtendedAgentCardRequest())
    names = [skill.id for skill in card.skills]
    assert names == ["clumsy", "parrot", "scholar", "scripted", "waiter"]


async def test_the_settings_name_the_agent_and_its_address() -> None:
    settings = Settings(url="https://agent.example/", name="Ada", description="Computes.")
    async with open_a2a_server(settings) as server:
        _, card = await server.get("/.well-known/agent-card.json")
    assert (card["name"], card["description"]) == ("Ada", "Computes.")
    assert card["supportedInterfaces"][0]["url"] == "https://agent.example/a2a"


# What is refused


@pytest.mark.parametrize("version", [None, "0.3", "2.0", "x", "1.x"])
async def test_other_versions_are_refused(server: LiveServer, version: str | None) -> None:
    headers = {} if version is None else {"A2A-Version": version}
    answer = await call(server, "message/send", {}, headers=headers)
    assert answer["error"]["code"] == -32009
    status, answer = await server.get("/a2a/v1/tasks", headers=headers)
    assert (status, answer["error"]["details"][0]["reason"]) == (400, "VERSION_NOT_SUPPORTED")


async def test_versions_within_1_are_accepted(server: LiveServer) -> None:
    assert "result" in await call(server, "ListTasks", {}, headers={"A2A-Version": "1.3"})


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("{", -32700),
        ("[]", -32600),
        ('{"jsonrpc": "1.0", "method": "GetTask"}', -32600),
        ('{"jsonrpc": "2.0", "id": true, "method": "GetTask"}', -32600),
        ('{"jsonrpc": "2.0", "id": 1}', -32600),
        ('{"jsonrpc": "2.0", "id": 1, "method": "message/send"}', -32601),
        ('{"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {}}', -32602),
        ('{"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": {"id": "x"}}', -32001),
    ],
)
async def test_errors_of_json_rpc_have_their_codes(
    server: LiveServer, body: str, code: int
) -> None:
    headers = {**VERSION, "Content-Type": "application/json"}
    url = server.url("/a2a")
    async with server.session.post(url, data=body, headers=headers) as response:
        assert response.status == 200
        assert (await response.json())["error"]["code"] == code


async def test_a_parameter_that_is_wrong_is_named(server: LiveServer) -> None:
    message: Json = {"messageId": "m", "role": "ROLE_NOBODY", "parts": [{"text": "x"}]}
    answer = await call(server, "SendMessage", {"message": message})
    (violation,) = answer["error"]["data"][1]["fieldViolations"]
    assert violation["field"] == "message.role"


async def test_a_client_that_wants_other_output_is_refused(client: Client) -> None:
    sent = request("hello")
    sent.configuration.accepted_output_modes.append("video/mp4")
    with pytest.raises(errors.ContentTypeNotSupportedError):
        await send(client, sent)


async def test_a_message_of_an_agent_or_without_parts_is_refused(server: LiveServer) -> None:
    for fields in ({"role": "ROLE_AGENT", "parts": [{"text": "x"}]},
                   {"role": "ROLE_USER", "parts": [{}]},
                   {"role": "ROLE_USER", "parts": []}):  # fmt: skip
        answer = await call(server, "SendMessage", {"message": {"messageId": "m", **fields}})
        assert answer["error"]["code"] == -32602
    raw = base64.b64encode(b"no image").decode()
    image = {"raw": raw, "mediaType": "image/png"}
    message = {"messageId": "m", "role": "ROLE_USER", "parts": [image]}
    assert (await call(server, "SendMessage", {"message": message}))["error"]["code"] == -32602


async def test_nobody_calls_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "the secret key of ada")
    keys = {"ada": AuthKey(secret=Secret("env:KEY"), person="ada")}
    async with open_a2a_server(keys=keys) as server:
        status, answer = await server.post("/a2a", {"jsonrpc": "2.0"}, headers=VERSION)
        assert (status, answer["error"]["code"]) == (401, -32600)
        status, answer = await server.get("/a2a/v1/tasks", headers=VERSION)
        assert (status, answer["error"]["status"]) == (401, "UNAUTHENTICATED")


# Shutdown


async def test_a_stream_continues_with_another_replica(binding: Binding) -> None:
    ledger = MemoryLedger()
    async with (
        open_a2a_server(ledger=ledger, grace=120) as first,
        open_client(first, binding) as client,
    ):
        first.scripted.emit("one ", end=False)
        copy = TaskCopy()
        events = aiter(client.send_message(request("/scripted x")))
        while copy.text != "one ":
            copy.apply([MessageToDict(await anext(events))])
        async with open_a2a_server(ledger=ledger) as other, shutting_down(first):
            other.scripted.emit("one two")
            async for event in events:
                copy.apply([MessageToDict(event)])
    assert copy.text == "one two"
    assert copy.states[-1] == "COMPLETED"


async def test_a_stopping_server_ends_a_stream_with_an_error() -> None:
    async with open_a2a_server() as server:
        body = {
            "message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "/scripted x"}]}
        }
        url = server.url("/a2a/v1/message:stream")
        events: list[Json] = []
        async with server.session.post(url, json=body, headers=VERSION) as response:
            server.scripted.emit("one ", end=False)
            async for event in read_stream(response):
                events.append(event)
                if "artifactUpdate" in event:
                    stopping = asyncio.create_task(server.stop_listening())
        await stopping
    assert events[-1]["error"]["status"] == "UNAVAILABLE"
