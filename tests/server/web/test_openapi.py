"""``/openapi.json`` describes the running server, and schemathesis finds nothing that differs."""

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import jsonschema_rs
import msgspec
import pytest
import schemathesis
from aiohttp import web
from tests.own_plugins import load_own_plugins
from tests.server.web.live_server import LiveServer, open_live_server

from palaver import Content, Operation, described, public, requires
from palaver.app import BackendBuilder
from palaver.authentication import route_access
from palaver.channels import Channel, ConversationService
from palaver.config.settings import AuthKey, Settings
from palaver.openapi import operation_of
from palaver.server import Server
from palaver.testing import ListKnowledge, MemoryLedger, ScriptedEngine
from palaver.web.application import make_application
from palaver.web.openapi import make_document

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
Json = dict[str, Any]  # JSON values


REGISTRY = load_own_plugins()


def own_channels() -> list[Channel]:
    """Build every channel of the project."""
    settings = Settings.model_validate({"channels": {"enabled": sorted(REGISTRY.channels)}})
    return [*BackendBuilder(settings, REGISTRY).channels().values()]


CHANNELS = tuple(own_channels())


def application_with(*channels: Channel) -> web.Application:
    server = Server(
        Settings(),
        ledger=MemoryLedger(),
        engine=ScriptedEngine(),
        knowledge=ListKnowledge(),
        skills={},
        channels={str(number): channel for number, channel in enumerate(channels)},
    )
    return make_application(server)


def document_of(*channels: Channel, has_keys: bool = True) -> Json:
    return make_document(application_with(*channels), "1.0", has_keys=has_keys)


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


class Refusal(msgspec.Struct):
    """An error in the form of the channel's platform."""

    ok: bool


class Undescribed:
    """A channel of somebody else, which describes one of its routes, and not as it is."""

    async def start(self, service: ConversationService) -> None: ...

    async def close(self) -> None: ...

    def routes(self) -> tuple[web.RouteDef, ...]:
        return (web.post("/hook/{room}", self._call), web.get("/rooms", self._list))

    @requires("talk")
    async def _call(self, request: web.Request) -> web.StreamResponse:
        """Take a message from a room.

        Further words."""
        return web.Response()

    @public
    @described(
        Operation(
            summary="List the rooms",
            responses={200: Content(type=list[str], example=["kitchen"])},
            error=Refusal,
        )
    )
    async def _list(self, request: web.Request) -> web.StreamResponse:
        return web.json_response([7])


def test_every_route_is_described_and_nothing_else() -> None:
    for channels in ((), tuple(own_channels()), (Undescribed(),)):
        routes = application_with(*channels).router.routes()
        served = {
            (info["formatter"] if "formatter" in info else info["path"], route.method.lower())
            for route in routes
            if route.resource is not None and (info := route.get_info())
        }
        found = operations(document_of(*channels))
        assert {(path, method) for path, method, _ in found} == served


def test_the_right_of_each_route_is_described() -> None:
    application = application_with(*own_channels())
    document = make_document(application, "1.0", has_keys=True)
    for route in application.router.routes():
        access, resource = route_access(route.handler), route.resource
        assert access is not None
        assert resource is not None
        operation = document["paths"][resource.canonical][route.method.lower()]
        assert operation.get("x-right") == access.right


def test_every_route_of_the_project_describes_itself() -> None:
    for route in application_with(*own_channels()).router.routes():
        operation = operation_of(route.handler)
        assert operation is not None, f"decorate {route.handler} with @palaver.described"
        assert operation.responses
        contents = [operation.body, *operation.responses.values()]
        assert all(
            it.example is not None for it in contents if it is not None and it.type is not None
        ), route


def test_what_a_plugin_does_not_describe_is_described_as_far_as_it_is_known() -> None:
    document = document_of(Undescribed())
    call = document["paths"]["/hook/{room}"]["post"]
    assert call["summary"] == "Take a message from a room."
    assert [(it["name"], it["in"]) for it in call["parameters"]] == [("room", "path")]
    assert {"401", "403", "404", "429", "default"} <= call["responses"].keys()
    rooms = document["paths"]["/rooms"]["get"]
    assert rooms["responses"]["500"]["$ref"] == "#/components/responses/Refusal500"
    assert "Refusal" in document["components"]["schemas"]


@pytest.mark.parametrize("has_keys", [True, False])
def test_the_document_is_valid(has_keys: bool) -> None:
    document = document_of(*own_channels(), Undescribed(), has_keys=has_keys)
    schemathesis.openapi.from_dict(document).validate()
    for _, _, operation in operations(document):
        assert bool(operation["security"]) is (has_keys and "x-right" in operation)
    assert ("securitySchemes" in document["components"]) is has_keys
    identities = [it["operationId"] for _, _, it in operations(document)]
    assert len(set(identities)) == len(identities)


def test_an_invalid_document_is_found() -> None:
    document = document_of()
    document["paths"]["/healthz"]["get"]["responses"] = []
    with pytest.raises(jsonschema_rs.ValidationError):
        schemathesis.openapi.from_dict(document).validate()


def test_every_example_follows_its_schema() -> None:
    document = document_of(*own_channels())
    checked = 0
    for path, method, operation in operations(document):
        for schema, example in examples(operation):
            whole = {**schema, "components": document["components"]}
            assert jsonschema_rs.is_valid(whole, example), (path, method, example)
            checked += 1
    assert checked > 50


def examples(operation: Json) -> Iterator[tuple[Json, object]]:
    """Yield each schema of an operation with its example."""
    for parameter in operation["parameters"]:
        yield parameter["schema"], parameter["example"]
    for part in (operation.get("requestBody", {}), *operation["responses"].values()):
        for media in part.get("content", {}).values():
            yield media["schema"], media["example"]


CHARACTERS = [
    *map(chr, range(0x100)),
    *"\u0130\u0378\u1680\u200b\u202e\u2028\u3000\ufeff\uffff\U0001f600",
]


def schema_of(document: Json, path: str, name: str) -> Json:
    parameters = document["paths"][path]["get"]["parameters"]
    schema: Json = next(it["schema"] for it in parameters if it["name"] == name)
    return schema


async def test_the_characters_of_a_name_are_those_of_its_pattern(live_server: LiveServer) -> None:
    _, document = await live_server.get("/openapi.json")
    schema = schema_of(document, "/v1/conversations/{thread}", "thread")
    for name in (f"a{character}b" for character in CHARACTERS):
        status, _ = await live_server.get(f"/v1/conversations/{quote(name, safe='')}")
        assert (status == 200) is jsonschema_rs.is_valid(schema, name), (name, status)


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("q", ["", "a" * 200, "a" * 201, "\U0001f600" * 200, *CHARACTERS]),
        (
            "before",
            ["", "1.5_a", "12_a\n", "1._a", "1.5_", "_a", "a_1", "-1_a", "nan_a", " 1_a", "1"],
        ),
    ],
)
async def test_parameters_of_the_list_are_refused_as_described(
    live_server: LiveServer, name: str, texts: list[str]
) -> None:
    _, document = await live_server.get("/openapi.json")
    schema = schema_of(document, "/v1/conversations", name)
    for text in texts:
        query = urlencode({"person": "ada", name: text})
        status, _ = await live_server.get(f"/v1/conversations?{query}")
        if jsonschema_rs.is_valid(schema, text):
            assert status == 200, text
        else:
            assert status == 400, text


async def test_the_document_is_served_with_the_channels_that_are_enabled(
    live_server: LiveServer,
) -> None:
    _, document = await live_server.get("/openapi.json")
    assert "/rooms" not in document["paths"]
    assert "securitySchemes" not in document["components"]
    async with open_live_server(channels=(Undescribed(),)) as other:
        _, document = await other.get("/openapi.json")
        assert "/rooms" in document["paths"]


# Schemathesis

CONFIGURATION = """\
[[operations]]
include-path = "/ws"  # it answers with 101, which is no response to a program of HTTP
checks.positive_data_acceptance.enabled = false

[[operations]]
include-path-regex = "^/a2a/"  # only requests that name the version 1.0 are accepted
checks.positive_data_acceptance.enabled = false

[[operations]]
include-path-regex = "^/a2a/v1/tasks/[^/]*:"  # a task with such an id has other methods
checks.allow_header_conformance.enabled = false

[[operations]]
include-path = "/a2a"  # errors of JSON-RPC have the status 200
checks.positive_data_acceptance.enabled = false
checks.negative_data_rejection.enabled = false

[[operations]]
include-path = "/agui"  # what a message may hold depends on its role
checks.positive_data_acceptance.enabled = false

[[operations]]
include-path = "/v1/chat/completions"  # what a parameter may be depends on the model
checks.positive_data_acceptance.enabled = false

[[operations]]
include-path-regex = "^/v1/(responses|embeddings)$"  # the same
checks.positive_data_acceptance.enabled = false

[[operations]]
include-path = "/v1/responses/{response}/cancel"  # only of one that is made in the background
checks.positive_data_acceptance.enabled = false

[[operations]]
include-path = "/v1/conversations/{conversation}"  # other ids are threads of the own API
checks.negative_data_rejection.enabled = false
checks.response_schema_conformance.enabled = false
checks.allow_header_conformance.enabled = false

[[operations]]
include-path = "/v1/conversations"  # a new one takes no items and no metadata
include-method = "POST"
checks.positive_data_acceptance.enabled = false

[[operations]]
include-path = "/mcp"  # what a message may be depends on its method, and a client has a session
checks.positive_data_acceptance.enabled = false
"""
EXAMPLES = 5
"""Generated requests of each operation, besides the examples and the edges of each schema."""
TIMEOUT_SECONDS = 480.0


@pytest.mark.parametrize("has_keys", [True, False])
async def test_schemathesis_finds_nothing(
    has_keys: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "the secret key of schemathesis")
    every_right = AuthKey.model_validate({"secret": "env:KEY", "rights": RIGHTS})
    keys = {"schemathesis": every_right} if has_keys else {}
    async with open_live_server(
        keys=keys,
        auth={"failures_per_minute": 1_000.0},  # each operation is tried with wrong keys
        channels=CHANNELS,
        engine=ScriptedEngine(lambda request: "Hello."),
        has_scripted_skill=False,  # which waits for the test
    ) as live_server:
        code, output = await run_schemathesis(live_server.url("/openapi.json"), tmp_path)
    assert code == 0, output
    count = sum(path != "/openapi.json" for path, _, _ in operations(document_of(*CHANNELS)))
    assert f"Tested: {count}" in output, output


async def test_schemathesis_finds_a_wrong_description(tmp_path: Path) -> None:
    async with open_live_server(channels=(Undescribed(),)) as live_server:
        url = live_server.url("/openapi.json")
        code, output = await run_schemathesis(url, tmp_path, "--include-path", "/rooms")
    assert code == 1, output
    assert "Response violates schema" in output, output


RIGHTS = ["talk", "read", "export", "erase", "operate", "metrics", "impersonate"]


async def run_schemathesis(url: str, folder: Path, *options: str) -> tuple[int | None, str]:
    """Run schemathesis on a server; return its exit code and what it prints."""
    (folder / "schemathesis.toml").write_text(CONFIGURATION, "utf-8")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "schemathesis.cli", "run", url,
        "--header", "Authorization: Bearer the secret key of schemathesis",
        "--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES),
        "--generation-deterministic", "--continue-on-failure",
        "--request-timeout", "10", *options,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
             "SCHEMATHESIS_HOOKS": "tests.server.web.schemathesis_hooks"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        raise
    return process.returncode, output.decode()
