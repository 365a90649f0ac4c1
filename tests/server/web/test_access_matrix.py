"""The access matrix: every route and every websocket operation, called by everybody who must not
see or change what belongs to the victim, and by the owner, who may.

A route or an operation without a row in `ROUTES` or `OPERATIONS` fails.
"""

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
import pytest_asyncio
from tests.own_plugins import load_own_plugins
from tests.plugins.ledgers.redis_server import redis_server
from tests.server.web.live_server import (
    TIMEOUT_SECONDS,
    ConnectionEnded,
    Frame,
    LiveServer,
    eventually,
    open_live_server,
)

from palaver.app import BackendBuilder
from palaver.authentication import RIGHTS, is_for_visitors, route_access
from palaver.channels import Channel
from palaver.config.settings import AuthKey, Right, Secret, Settings, SiteSettings, WidgetSettings
from palaver.exports import collect_export
from palaver.ledger import Ledger
from palaver.messages import Conversation, encode
from palaver.platforms import ApprovedPerson, Pairings
from palaver.server import Server
from palaver.testing import ListKnowledge, MemoryLedger, ScriptedEngine
from palaver.web.application import make_application
from palaver.web.frames import (
    FRAME_RIGHTS,
    AnyClientFrame,
    Hello,
    Ping,
    Refresh,
    Select,
    Send,
    Stop,
)
from palaver_plugins.ledgers.redis import RedisLedger, RedisLedgerSettings
from palaver_plugins.ledgers.sqlite import SQLiteLedger, SQLiteLedgerSettings

# The victim

TENANT, PERSON, THREAD = "acme", "ada-lovelace", "engine-of-1843"
MESSAGE_ID, TEXT, REPLY = "note-g", "bernoulli-numbers", "twenty-five-operations"
PAIRED = "ada-of-the-platform"
FILE_NAME, CONTENT = "diagram-of-development.txt", "variables-of-the-engine"


@dataclasses.dataclass(frozen=True)
class Victim:
    """The ids of what was stored for the victim: a settled turn, and one that runs."""

    settled: str
    running: str
    file: str

    def traces(self, request: object, caller: str) -> list[str]:
        """Return what no answer may hold, unless the caller or ``request`` has it."""
        traces = [THREAD, MESSAGE_ID, TEXT, REPLY, self.settled, self.running]
        traces += [FILE_NAME, CONTENT, self.file, PAIRED]
        traces += [TENANT] if caller in OUTSIDERS else []
        traces += [PERSON] if caller != "another tenant" else []  # where it is the caller's id
        return [trace for trace in traces if trace not in str(request)]


# The callers

Caller = Literal[
    "nobody",
    "a wrong key",
    "a stranger of the tenant",
    "another tenant",
    "a trusted key of another tenant",
    "a key without the right",
    "a shared identity",
    "a browser with an open key",
    "a visitor of the tenant's site",
    "a visitor of another tenant's site",
]
OUTSIDERS = (
    "nobody",
    "a wrong key",
    "another tenant",
    "a trusted key of another tenant",
    "a visitor of another tenant's site",
)
SITES = {
    "a visitor of the tenant's site": SiteSettings(
        key="pk_of-the-same-tenant", origins=("https://shop.example",), tenant=TENANT, files=True
    ),
    "a visitor of another tenant's site": SiteSettings(
        key="pk_of-another-tenant", origins=("https://blog.example",), tenant="another", files=True
    ),
}
WIDGET = WidgetSettings(sites={f"site-{n}": site for n, site in enumerate(SITES.values())})
OWN: tuple[Right, ...] = ("talk", "read", "export", "erase")
PRINCIPALS: dict[str, tuple[str, str, tuple[Right, ...]]] = {
    "owner": (TENANT, PERSON, OWN),
    "stranger": (TENANT, "stranger", OWN),
    "namesake": ("another", PERSON, OWN),
    "trusted": ("another", "", (*OWN, "impersonate")),
    "open": (TENANT, "", OWN),
    "operator": ("operators", "", ("operate", "metrics")),
    **{f"no-{right}": (TENANT, PERSON, tuple(sorted(RIGHTS - {right, "impersonate"})))
       for right in sorted(RIGHTS)},
}  # fmt: skip
"""Tenant, person and rights of each key."""
KEYS = {
    name: AuthKey(
        secret=Secret(f"env:KEY_{name.upper()}"), tenant=tenant, person=person, rights=rights
    )
    for name, (tenant, person, rights) in PRINCIPALS.items()
}


def secret(name: str) -> str:
    return f"the secret key of {name}"


def key_of(caller: Caller, right: Right | None) -> str:
    """Return the name of a caller's key; empty: it has none."""
    return {
        "nobody": "",
        "a wrong key": "nobody knows it",
        "a stranger of the tenant": "stranger",
        "another tenant": "namesake",
        "a trusted key of another tenant": "trusted",
        "a key without the right": f"no-{right}",
        "a shared identity": "open",
        "a browser with an open key": "open",
    }[caller]


def header(key: str) -> dict[str, str]:
    return bearer(secret(key)) if key else {}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


async def token_of(live_server: LiveServer, caller: Caller, right: Right | None) -> str:
    """Return a caller's key, or a visitor's token; empty: it has none."""
    if caller in SITES:
        _, granted = await live_server.post("/v1/widget/token", {"key": SITES[caller].key})
        token: str = granted["token"]
        return token
    key = key_of(caller, right)
    return secret(key) if key else ""


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.setenv(f"KEY_{name.upper()}", secret(name))


# The routes

Kind = Literal["public", "server", "conversation", "person", "own", "operators", "websocket"]
"""``public``: nothing of anybody; ``server``: of the server, for any key with the right;
``conversation``, ``person``: of the members, of the person; ``own``: of the person, and of those
who share an identity; ``operators``: of all tenants."""


@dataclasses.dataclass(frozen=True)
class Row:
    """How to call a route. ``proof``: whether the owner's answer shows that the call worked."""

    kind: Kind
    path: str
    proof: Callable[[str], bool]
    body: Any = None  # JSON
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    needs_conversation: bool = False
    """It answers 404 where one's own conversation does not exist."""
    reads_person_of_body: bool = True


def has(text: str) -> Callable[[str], bool]:
    return lambda answer: text in answer


CONVERSATION = f"/v1/conversations/{THREAD}"
MCP_HEADERS = {"Accept": "application/json, text/event-stream"}
RESPONSE = f"/v1/responses/resp_{'0' * 64}"
KEPT = f"/v1/conversations/conv_{'0' * 32}"
"""Of nobody: others' are in test_openai_responses_api.py."""
COMPLETION = {"model": "parrot", "messages": [{"role": "user", "content": "hello"}]}
AGUI_RUN = {
    "threadId": THREAD,
    "runId": "r",
    "messages": [{"id": "m", "role": "user", "content": "hello"}],
}
A2A = {"A2A-Version": "1.0"}
A2A_MESSAGE = {"message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hello"}]}}
A2A_CALL = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": A2A_MESSAGE}
A2A_TASK = "/a2a/v1/tasks/Yw.abc"


def a2a_row(path: str, proof: str, body: Any = None, *, is_found: bool = True) -> Row:
    """Return the row of a route of A2A, which finds no task of the owner's."""
    return Row(
        "own",
        path,
        has(proof),
        body,
        A2A,
        needs_conversation=not is_found,
        reads_person_of_body=False,
    )


NO_TASK = "TASK_NOT_FOUND"
ROUTES: dict[tuple[str, str], Row] = {
    ("GET", "/"): Row("public", "/", has("<html")),
    ("GET", "/c/{thread}"): Row("public", "/c/anything", has("<html")),
    ("GET", "/s/{share}"): Row("public", "/s/abc", has("<html")),
    ("GET", "/static/{name}"): Row("public", "/static/palaver-client.js", has("export")),
    ("GET", "/service-worker.js"): Row("public", "/service-worker.js", has("fetch")),
    ("GET", "/widget.js"): Row("public", "/widget.js", has("palaver-widget")),
    ("POST", "/v1/widget/token"): Row(
        "public",
        "/v1/widget/token",
        has('"person":"visitor.site-0.'),
        {"key": "pk_of-the-same-tenant"},
        {"Origin": "https://shop.example"},
    ),
    ("GET", "/healthz"): Row("public", "/healthz", has("alive")),
    ("GET", "/readyz"): Row("public", "/readyz", has("ready")),
    ("GET", "/openapi.json"): Row("public", "/openapi.json", has("openapi")),
    ("GET", "/ws"): Row("websocket", "/ws", has("No WebSocket UPGRADE")),
    ("GET", "/metrics"): Row("operators", "/metrics", has(TENANT)),
    ("GET", "/v1/skills"): Row("server", "/v1/skills", has("parrot")),
    ("GET", "/v1/about"): Row("server", "/v1/about", has("model")),
    ("GET", "/v1/me"): Row("server", "/v1/me", has('"person"')),
    ("GET", "/v1/models"): Row("server", "/v1/models", has("parrot")),
    ("GET", "/v1/models/{model}"): Row("server", "/v1/models/parrot", has("parrot")),
    ("GET", "/v1/export"): Row("person", "/v1/export", has(TEXT)),
    ("GET", "/v1/export/summary"): Row(
        "person", "/v1/export/summary", has('"conversations":2,"messages":3,"waiting":1')
    ),
    ("POST", "/v1/erase"): Row("person", "/v1/erase", has('"conversations":2')),
    ("GET", "/v1/conversations/{thread}"): Row("conversation", CONVERSATION, has(TEXT)),
    ("GET", "/v1/conversations/{thread}/history"): Row(
        "conversation", f"{CONVERSATION}/history", has(TEXT)
    ),
    ("GET", "/v1/conversations/{thread}/events"): Row(
        "conversation", f"{CONVERSATION}/events", has(TEXT)
    ),
    ("POST", "/v1/conversations/{thread}/messages"): Row(
        "conversation", f"{CONVERSATION}/messages", has('"turn"'), {"text": "hello", "id": "new"}
    ),
    ("GET", "/v1/conversations"): Row("person", "/v1/conversations", has(THREAD)),
    ("PATCH", "/v1/conversations/{thread}"): Row(
        "conversation", CONVERSATION, has('"title":"T"'), {"title": "T"}, needs_conversation=True
    ),
    ("DELETE", "/v1/conversations/{thread}"): Row(
        "conversation", CONVERSATION, has('"conversations":1'), needs_conversation=True
    ),
    ("POST", "/v1/conversations/{thread}/title"): Row(
        "conversation", f"{CONVERSATION}/title", has('"title":'), needs_conversation=True
    ),
    ("POST", "/v1/conversations/{thread}/select"): Row(
        "conversation",
        f"{CONVERSATION}/select",
        has("there is no turn"),
        {"turn": "abc"},
        needs_conversation=True,
    ),
    ("PATCH", "/v1/conversations/{thread}/turns/{turn}"): Row(
        "conversation",
        f"{CONVERSATION}/turns/abc",
        has("not settled"),
        {"text": "x"},
        needs_conversation=True,
    ),
    ("GET", "/v1/conversations/{thread}/export"): Row(
        "conversation", f"{CONVERSATION}/export", has(TEXT), needs_conversation=True
    ),
    ("GET", "/v1/conversations/{thread}/shares"): Row(
        "conversation", f"{CONVERSATION}/shares", has('"shares":[]')
    ),
    ("POST", "/v1/conversations/{thread}/shares"): Row(
        "conversation",
        f"{CONVERSATION}/shares",
        has('"path":"/s/'),
        needs_conversation=True,
    ),
    ("DELETE", "/v1/conversations/{thread}/shares/{share}"): Row(
        "conversation",
        f"{CONVERSATION}/shares/abc",
        has("there is no share"),
        needs_conversation=True,
    ),
    ("GET", "/v1/conversations/{thread}/feedback"): Row(
        "conversation", f"{CONVERSATION}/feedback", has('"feedback":[]')
    ),
    ("PUT", "/v1/conversations/{thread}/turns/{turn}/feedback"): Row(
        "conversation",
        f"{CONVERSATION}/turns/abc/feedback",
        has("to rate"),
        {"rating": "up"},
        needs_conversation=True,
    ),
    ("DELETE", "/v1/conversations/{thread}/turns/{turn}/feedback"): Row(
        "conversation", f"{CONVERSATION}/turns/abc/feedback", has('"withdrawn":false')
    ),
    ("GET", "/v1/shares/{share}"): Row("public", "/v1/shares/abc", has("no such share")),
    ("POST", "/v1/files"): Row("own", "/v1/files", has('"sha256"'), "content"),
    ("GET", "/v1/files"): Row("person", "/v1/files", has(FILE_NAME)),
    ("GET", "/v1/files/{file}"): Row("own", "/v1/files/{file}", has(CONTENT)),
    ("DELETE", "/v1/files/{file}"): Row("own", "/v1/files/{file}", has('"id"')),
    ("GET", "/v1/channels"): Row("operators", "/v1/channels", has('"problem"')),
    ("GET", "/v1/channels/{channel}/requests"): Row(
        "operators", "/v1/channels/channel-0/requests", has('"requests":[]')
    ),
    ("GET", "/v1/channels/{channel}/people"): Row(
        "operators", "/v1/channels/channel-0/people", has(PAIRED)
    ),
    ("POST", "/v1/channels/{channel}/people"): Row(
        "operators", "/v1/channels/channel-0/people", has("nobody waits"), {"code": "x"}
    ),
    ("DELETE", "/v1/channels/{channel}/people/{person}"): Row(
        "operators", f"/v1/channels/channel-0/people/{PAIRED}?tenant={TENANT}", has(PAIRED)
    ),
    **{
        (method, path): Row("operators", path, has("palaver serve"), body)
        for method, path, body in (
            ("GET", "/v1/setup", None),
            ("POST", "/v1/setup", {"kind": "added", "name": "starter"}),
            ("DELETE", "/v1/setup", None),
            ("GET", "/v1/setup/servers", None),
            ("POST", "/v1/setup/models", {"url": "http://127.0.0.1:1"}),
        )
    },
    ("GET", "/v1/tool-sources"): Row("operators", "/v1/tool-sources", has('"sources":[]')),
    ("POST", "/v1/tool-sources/{source}/approvals"): Row(
        "operators", "/v1/tool-sources/mcp/approvals", has("no tool source"), {"digests": {}}
    ),
    ("POST", "/v1/conversations/{thread}/stop"): Row(
        "conversation", f"{CONVERSATION}/stop", has('"stopping"'), {}
    ),
    ("POST", "/mcp"): Row(
        "server",
        "/mcp",
        has('"parrot"'),
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/list",
            "params": {
                "_meta": {
                    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                    "io.modelcontextprotocol/clientCapabilities": {},
                }
            },
        },
        {**MCP_HEADERS, "MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/list"},
    ),
    ("GET", "/mcp"): Row(
        "server",
        "/mcp",
        has("no such session"),
        headers={**MCP_HEADERS, "Mcp-Session-Id": "x", "Last-Event-ID": "x.1"},
        needs_conversation=True,
    ),
    ("POST", "/agui"): Row(
        "own", "/agui", has("RUN_STARTED"), AGUI_RUN, reads_person_of_body=False
    ),
    ("GET", "/.well-known/agent-card.json"): Row(
        "public", "/.well-known/agent-card.json", has("supportedInterfaces")
    ),
    ("POST", "/a2a"): a2a_row("/a2a", "COMPLETED", A2A_CALL),
    ("POST", "/a2a/v1/message:send"): a2a_row("/a2a/v1/message:send", "COMPLETED", A2A_MESSAGE),
    ("POST", "/a2a/v1/message:stream"): a2a_row("/a2a/v1/message:stream", "task", A2A_MESSAGE),
    ("GET", "/a2a/v1/tasks"): a2a_row("/a2a/v1/tasks", '"tasks":[]'),
    ("GET", "/a2a/v1/tasks/{id}"): a2a_row(A2A_TASK, NO_TASK, is_found=False),
    ("GET", "/a2a/v1/tasks/{id}:subscribe"): a2a_row(
        f"{A2A_TASK}:subscribe", NO_TASK, is_found=False
    ),
    ("POST", "/a2a/v1/tasks/{id}:subscribe"): a2a_row(
        f"{A2A_TASK}:subscribe", NO_TASK, is_found=False
    ),
    ("POST", "/a2a/v1/tasks/{id}:cancel"): a2a_row(f"{A2A_TASK}:cancel", NO_TASK, is_found=False),
    ("GET", "/a2a/v1/tasks/{id}/pushNotificationConfigs"): a2a_row(
        f"{A2A_TASK}/pushNotificationConfigs", NO_TASK, is_found=False
    ),
    ("POST", "/a2a/v1/tasks/{id}/pushNotificationConfigs"): a2a_row(
        f"{A2A_TASK}/pushNotificationConfigs", NO_TASK, {"url": "https://a"}, is_found=False
    ),
    ("GET", "/a2a/v1/tasks/{id}/pushNotificationConfigs/{config}"): a2a_row(
        f"{A2A_TASK}/pushNotificationConfigs/c", NO_TASK, is_found=False
    ),
    ("DELETE", "/a2a/v1/tasks/{id}/pushNotificationConfigs/{config}"): a2a_row(
        f"{A2A_TASK}/pushNotificationConfigs/c", NO_TASK, is_found=False
    ),
    ("GET", "/a2a/v1/extendedAgentCard"): a2a_row("/a2a/v1/extendedAgentCard", "parrot"),
    ("POST", "/agui/stop"): Row("own", "/agui/stop", has('"unknown"'), {"threadId": THREAD}),
    ("POST", "/webhooks/{name}"): Row(
        "public", "/webhooks/abc", has("no endpoint"), {}, needs_conversation=True
    ),
    ("POST", "/v1/embeddings"): Row(
        "server",
        "/v1/embeddings",
        has("does not exist"),
        {"model": "nobody", "input": "x"},
        needs_conversation=True,
    ),
    ("POST", "/v1/responses"): Row(
        "server",
        "/v1/responses",
        has("does not exist"),
        {"model": "nobody", "input": "x"},
        needs_conversation=True,
    ),
    ("GET", "/v1/responses/{response}"): Row(
        "own", RESPONSE, has("there is no response"), needs_conversation=True
    ),
    ("DELETE", "/v1/responses/{response}"): Row(
        "person", RESPONSE, has("there is no response"), needs_conversation=True
    ),
    ("POST", "/v1/responses/{response}/cancel"): Row(
        "own", f"{RESPONSE}/cancel", has("there is no response"), needs_conversation=True
    ),
    ("GET", "/v1/responses/{response}/input_items"): Row(
        "own", f"{RESPONSE}/input_items", has("there is no response"), needs_conversation=True
    ),
    ("POST", "/v1/conversations"): Row("server", "/v1/conversations", has('"conv_'), {}),
    ("GET", "/v1/conversations/{conversation}"): Row("own", KEPT, has('"conversation"')),
    ("DELETE", "/v1/conversations/{conversation}"): Row("person", KEPT, has('"deleted":true')),
    ("GET", "/v1/conversations/{conversation}/items"): Row(
        "own", f"{KEPT}/items", has('"data":[]')
    ),
    ("GET", "/v1/conversations/{conversation}/items/{item}"): Row(
        "own", f"{KEPT}/items/msg_1", has("there is no item"), needs_conversation=True
    ),
    ("POST", "/v1/chat/completions"): Row(
        "conversation",
        "/v1/chat/completions",
        has('"hello "'),
        COMPLETION,
        {"X-Palaver-Thread": THREAD},
    ),
}

Expected = Literal["unauthenticated", "forbidden", "own", "any"]
"""``own``: success, with nothing of the victim; ``any``: it may be refused too."""


def expected(kind: Kind, caller: Caller, *, names_victim: bool) -> Expected:
    """Return what a call must lead to. ``names_victim``: it names the victim as the person."""
    if kind == "public" or (kind == "websocket" and caller != "a wrong key"):
        return "own"
    if caller in ("nobody", "a wrong key"):
        return "unauthenticated"
    if kind == "operators" or caller == "a key without the right":
        return "forbidden"
    if caller in ("a trusted key of another tenant", "a visitor of another tenant's site"):
        return "any"  # it may name the person, but is not a member of what another has begun
    if kind == "server" or caller == "another tenant":
        return "own"
    if names_victim or kind == "conversation":
        return "forbidden"
    if kind == "person" and caller == "a shared identity":
        return "forbidden"
    return "own"


# The server

REGISTRY = load_own_plugins()


def open_channels() -> tuple[Channel, ...]:
    """Build every channel that the project's plugins contribute, with its defaults. One that needs
    more settings has no routes."""
    settings = Settings.model_validate({"channels": {"enabled": sorted(REGISTRY.channels)}})
    return tuple(BackendBuilder(settings, REGISTRY).channels().values())


@pytest_asyncio.fixture(
    params=[
        "memory",
        "sqlite",
        pytest.param("redis", marks=[pytest.mark.redis, pytest.mark.slow]),
    ]
)
async def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ledger]:
    if request.param == "memory":
        yield MemoryLedger()
    elif request.param == "sqlite":
        yield SQLiteLedger(SQLiteLedgerSettings(), tmp_path)
    else:
        async with redis_server() as url:
            yield RedisLedger(RedisLedgerSettings(url=url))


@contextlib.asynccontextmanager
async def victims_server(ledger: Ledger) -> AsyncIterator[tuple[LiveServer, Victim]]:
    async with open_live_server(
        keys=KEYS, widget=WIDGET, ledger=ledger, channels=await asyncio.to_thread(open_channels)
    ) as live_server:
        yield live_server, await store_conversations(live_server)


async def store_conversations(live_server: LiveServer) -> Victim:
    _, file = await live_server.post(
        f"/v1/files?name={FILE_NAME}", json=None, data=CONTENT.encode(), headers=header("owner")
    )
    async with live_server.open_websocket(headers=header("owner")) as client:
        await client.hello(THREAD, person=None)
        settled = await client.send_message(TEXT, id=MESSAGE_ID)
        await client.wait_for_reply(settled)
        running = await client.send_message(f"/scripted {TEXT}", attachments=[{"file": file["id"]}])
        live_server.scripted.emit(REPLY, end=False)
        await eventually(lambda: is_stored(live_server, running))
    headers = header("owner") | {"X-Palaver-Thread": THREAD}
    body = {**COMPLETION, "messages": [{"role": "user", "content": TEXT}]}
    assert (await live_server.post("/v1/chat/completions", body, headers=headers))[0] == 200
    live_server.server.metrics.served(TENANT, 1)
    approved = ApprovedPerson(tenant=TENANT, person=PAIRED, at=1.0)
    await Pairings(live_server.server.records, "channel-0").allow(approved)
    return Victim(settled, running, file["id"])


async def is_stored(live_server: LiveServer, turn: str) -> bool:
    snapshot = await live_server.server.snapshot(Conversation(TENANT, "web", THREAD))
    return any(each.turn == turn and each.reply == REPLY for each in snapshot.pending)


async def state_of_victim(live_server: LiveServer) -> Any:  # Any: JSON
    """Return everything that is stored about the victim, and whether its turn still runs."""
    server = live_server.server
    exported = json.loads(encode(await collect_export(server.export(TENANT, PERSON))))
    del exported["at"]
    conversations = [Conversation(TENANT, channel, THREAD) for channel in ("web", "openai_api")]
    snapshots = [json.loads(encode(await server.snapshot(each))) for each in conversations]
    people = await Pairings(server.records, "channel-0").people()
    return (
        exported,
        snapshots,
        people,
        [sorted(await server.members(each)) for each in conversations],
    )


def served_routes(
    channels: tuple[Channel, ...],
) -> dict[tuple[str, str], tuple[Right | None, bool]]:
    """Return every route of the application, the channels' included, with the right it requires,
    and whether visitors may call it."""
    server = Server(
        Settings(),
        ledger=MemoryLedger(),
        engine=ScriptedEngine(),
        knowledge=ListKnowledge(),
        skills={},
        channels={str(number): channel for number, channel in enumerate(channels)},
    )
    found = {}
    for route in make_application(server).router.routes():
        access = route_access(route.handler)
        assert access is not None
        assert route.resource is not None
        method = "GET" if route.method == "HEAD" else route.method
        found[method, route.resource.canonical] = access.right, is_for_visitors(route.handler)
    return found


# The matrix

CALLERS: tuple[Caller, ...] = get_args(Caller)
SERVED = served_routes(open_channels())
SHARES = "/v1/conversations/{thread}/shares"
OPERATORS = ("/v1/channels", "/v1/tool-sources", "/v1/setup")
NOT_FOR_VISITORS = {
    ("GET", SHARES),
    ("POST", SHARES),
    ("DELETE", f"{SHARES}/{{share}}"),
    ("GET", "/metrics"),
    *(route for route in SERVED if route[1].startswith(OPERATORS)),
    *(route for route in set(SERVED) - set(served_routes(())) if SERVED[route][0] is not None),
}
"""Those of shares, operators and channels: visitors publish nothing, and use no API for programs.
All other routes that require a right are declared with `for_visitors`."""


@pytest.mark.parametrize("route", sorted(SERVED), ids=" ".join)
@pytest.mark.slow
async def test_no_route_reaches_what_belongs_to_another(
    route: tuple[str, str], ledger: Ledger
) -> None:
    row = ROUTES.get(route)
    assert row is not None, f"the route {route} has no row in ROUTES of this module: add it"
    async with victims_server(ledger) as (live_server, victim):
        right, _ = SERVED[route]
        before = await state_of_victim(live_server)
        for caller in CALLERS:
            if caller == "a key without the right" and right is None:
                continue
            for attack in attacks(row, victim):
                wanted = expected(row.kind, caller, names_victim=attack.names_victim)
                if caller in SITES and route in NOT_FOR_VISITORS:
                    wanted = "forbidden"
                await check_attack(live_server, route, victim, caller, attack, wanted, right)
        assert await state_of_victim(live_server) == before
        owner = "operator" if row.kind == "operators" else "owner"
        status, answer = await call(live_server, route[0], attacks(row, victim)[0], header(owner))
        assert row.proof(answer), (status, answer)


@dataclasses.dataclass(frozen=True)
class Attack:
    """One request. ``names_victim``: as the person that it comes from."""

    path: str
    body: Any
    headers: dict[str, str]
    names_victim: bool = False


def attacks(row: Row, victim: Victim) -> list[Attack]:
    """Return the plain request, and those that name the victim, its turn and its message."""
    plain = Attack(row.path.replace("{file}", victim.file), row.body, row.headers)
    found = [plain]
    if row.kind in ("person", "own", "conversation") and "completions" not in row.path:
        named = f"{plain.path}?person={PERSON}"
        found.append(dataclasses.replace(plain, path=named, names_victim=True))
    if isinstance(row.body, dict):
        body = {**row.body, "person": PERSON, "user": PERSON}
        is_read = row.reads_person_of_body and not row.path.endswith("/stop")
        found.append(dataclasses.replace(plain, body=body, names_victim=is_read))
        body = {**row.body, "turn": victim.running, "id": MESSAGE_ID}
        found.append(dataclasses.replace(plain, body=body))
    return found


async def check_attack(
    live_server: LiveServer,
    route: tuple[str, str],
    victim: Victim,
    caller: Caller,
    attack: Attack,
    wanted: Expected,
    right: Right | None,
) -> None:
    async with as_caller(live_server, caller) as seen:
        token = await token_of(seen, caller, right)
        status, answer = await call(seen, route[0], attack, bearer(token))
    about = f"{caller}: {route} {attack} → {status} {answer[:300]}"
    if wanted == "unauthenticated":
        assert (status, '"unauthenticated"' in answer) == (401, True), about
    elif wanted == "forbidden":
        assert (status, '"forbidden"' in answer) == (403, True), about
        assert caller != "a key without the right" or repr(right) in answer, about
    elif wanted == "own":
        names_thing = "{share}" in route[1] or "{file}" in route[1]
        absent = 404 if ROUTES[route].needs_conversation or names_thing else 200
        assert status in (200, 201, 202, absent) or "UPGRADE" in answer, about
    else:
        assert status in (200, 201, 202, 403, 404), about
    for trace in victim.traces((attack, route), caller):
        assert trace not in answer, (trace, about)


@contextlib.asynccontextmanager
async def as_caller(live_server: LiveServer, caller: Caller) -> AsyncIterator[LiveServer]:
    if caller == "a browser with an open key":
        async with live_server.browser() as browser:
            yield browser
    elif caller in SITES:
        async with live_server.browser(visits=False) as browser:
            (origin,) = SITES[caller].origins
            browser.session.headers.update({"Origin": origin, "Sec-Fetch-Site": "cross-site"})
            yield browser
    else:
        yield live_server


async def call(
    live_server: LiveServer, method: str, attack: Attack, authorization: dict[str, str]
) -> tuple[int, str]:
    """Return the status and the body, of a stream its first event."""
    async with (
        asyncio.timeout(TIMEOUT_SECONDS),
        live_server.session.request(
            method,
            live_server.url(attack.path),
            json=attack.body,
            headers=attack.headers | authorization,
        ) as response,
    ):
        if response.content_type == "text/event-stream":
            return response.status, (await response.content.readuntil(b"\n\n")).decode()
        return response.status, await response.text()


# The operations of the websocket

OPERATIONS: dict[type, Callable[[Victim], Frame]] = {
    Hello: lambda victim: {"type": "hello", "thread": THREAD},
    Send: lambda victim: {"type": "send", "id": MESSAGE_ID, "text": TEXT},
    Select: lambda victim: {"type": "select", "turn": victim.settled},
    Stop: lambda victim: {"type": "stop", "turn": victim.running},
    Ping: lambda victim: {"type": "ping"},
    Refresh: lambda victim: {"type": "refresh", "token": "stolen"},
}
"""The frame of each operation, with the ids of the victim."""
ANSWERS = {
    "hello": "error",
    "send": "ack",
    "select": "error",
    "stop": "stopped",
    "ping": "pong",
    "refresh": "error",
}
"""The answer to each frame from its own conversation; a connection has one hello."""


@pytest.mark.parametrize("operation", get_args(AnyClientFrame))
@pytest.mark.slow
async def test_no_operation_reaches_what_belongs_to_another(
    operation: type, ledger: Ledger
) -> None:
    assert operation in OPERATIONS, f"{operation} has no row in OPERATIONS of this module: add it"
    assert operation in FRAME_RIGHTS
    async with victims_server(ledger) as (live_server, victim):
        frame, right = OPERATIONS[operation](victim), FRAME_RIGHTS[operation]
        before = await state_of_victim(live_server)
        for caller in CALLERS:
            if caller == "a key without the right":
                if right is not None:
                    await check_right(live_server, f"no-{right}", frame, right)
                continue
            async with as_caller(live_server, caller) as seen:
                for person in (None, PERSON):
                    await check_hello(seen, victim, caller, person, frame)
                if caller not in ("nobody", "a wrong key"):
                    await check_own_thread(seen, victim, caller, frame)
        assert await state_of_victim(live_server) == before
        await check_owner(live_server, victim, frame)


@dataclasses.dataclass(frozen=True)
class Exchange:
    """What came over one websocket: all frames, the answer to the frame that was sent after the
    welcome, and the close code when there was no welcome."""

    frames: list[Frame]
    answer: Frame | None = None
    close_code: int = 0


async def exchange(
    live_server: LiveServer, token: str, thread: str, person: str | None, frame: Frame
) -> Exchange:
    """Say hello and send ``frame``."""
    hello = {"token": token} if token else {}
    async with live_server.open_websocket() as client:
        await client.send({"type": "hello", "thread": thread, "person": person, **hello})
        try:
            await client.wait_for("welcome")
        except ConnectionEnded as ended:
            return Exchange(client.frames, close_code=ended.args[0].data)
        await client.send(frame)
        await client.send({"type": "ping"})  # frames are answered in their order
        await client.wait_for("pong")
        kinds = ("ack", "stopped", "error", "pong")
        return Exchange(client.frames, next(it for it in client.frames if it["type"] in kinds))


async def check_hello(
    live_server: LiveServer, victim: Victim, caller: Caller, person: str | None, frame: Frame
) -> None:
    """Check that the caller gets nothing from the victim's conversation."""
    token = await token_of(live_server, caller, None)
    found = await exchange(live_server, token, THREAD, person, frame)
    if caller in ("nobody", "a wrong key"):
        assert found.close_code == 4401, found
    elif caller == "another tenant":
        assert found.answer is not None, found  # it has a conversation of the same name
    elif caller not in ("a trusted key of another tenant", "a visitor of another tenant's site"):
        assert found.close_code == 4403, found
    check_traces(found, victim, caller, (THREAD, person, frame))


async def check_own_thread(
    live_server: LiveServer, victim: Victim, caller: Caller, frame: Frame
) -> None:
    """Check that the ids of the victim mean nothing in a conversation of the caller's own."""
    thread = caller.replace(" ", "-")
    token = await token_of(live_server, caller, None)
    found = await exchange(live_server, token, thread, None, frame)
    assert found.answer is not None, found
    assert found.answer["type"] == ANSWERS[frame["type"]], found
    assert found.answer.get("state", "unknown") == "unknown", found
    assert not found.answer.get("duplicate"), found
    assert found.answer.get("turn") not in (victim.settled, victim.running), found
    check_traces(found, victim, caller, (thread, frame))


def check_traces(found: Exchange, victim: Victim, caller: Caller, request: object) -> None:
    for trace in victim.traces(request, caller):
        assert trace not in str(found), (trace, caller, found)


async def check_right(live_server: LiveServer, key: str, frame: Frame, right: Right) -> None:
    """Check that the victim's own key is not enough without the right."""
    found = await exchange(live_server, secret(key), THREAD, None, frame)
    if right == "read":
        assert found.close_code == 4403, found
        assert TEXT not in str(found)
    else:
        assert found.answer is not None, found
        assert found.answer["code"] == "forbidden", found
    assert repr(right) in str(found)


async def check_owner(live_server: LiveServer, victim: Victim, frame: Frame) -> None:
    """Check that the same frame works for the owner."""
    found = await exchange(live_server, secret("owner"), THREAD, None, frame)
    assert TEXT in str(found.frames[0]["snapshot"])
    assert found.answer is not None
    assert found.answer["type"] == ANSWERS[frame["type"]]
    if frame["type"] == "send":  # the id is known here
        assert (found.answer["duplicate"], found.answer["turn"]) == (True, victim.settled)
    if frame["type"] == "stop":
        assert (found.answer["state"], found.answer["turn"]) == ("stopping", victim.running)


def test_a_route_is_for_visitors_or_named_here() -> None:
    closed = {
        route
        for route, (right, for_visitors) in SERVED.items()
        if right is not None and not for_visitors
    }
    assert closed == NOT_FOR_VISITORS


def test_no_row_is_left_over() -> None:
    assert set(ROUTES) <= set(SERVED)
    assert set(OPERATIONS) == set(FRAME_RIGHTS) == set(get_args(AnyClientFrame))
