"""JSON schemas in requests of the OpenAI channel: a wrong one is refused before any work."""

import json
from typing import Any

import openai
import pytest
from tests.plugins.channels.openai_support import MODEL, NamedEngine, ask, open_openai_server, user

from palaver import InvalidInput, PalaverError
from palaver.testing import ScriptedReply
from palaver_plugins.channels.openai_api.errors import error_body
from palaver_plugins.channels.openai_api.schema import check_schema


def wanted(schema: Any) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}


WRONG: tuple[Any, ...] = (
    {"type": "strnig"},
    {"type": 5},
    {"type": []},
    {"type": ["string", 5]},
    {"type": "object", "properties": []},
    {"type": "object", "properties": {"a": 5}},
    {"type": "object", "properties": {"a": {"enum": 5}}},
    {"type": "object", "properties": {"a": {}}, "required": 5},
    {"type": "object", "properties": {"a": {}}, "required": [5]},
    {"type": "object", "additionalProperties": 3},
    {"type": "array", "items": 5},
    {"type": "array", "items": [{"type": "string"}]},
    {"anyOf": 5},
    {"anyOf": []},
    {"allOf": [3]},
    {"enum": []},
    {"type": "string", "pattern": 3},
    {"type": "string", "minLength": "x"},
    {"type": "string", "minLength": -1},
    {"type": "array", "maxItems": 1.5},
    {"type": "integer", "minimum": "a"},
    {"type": "integer", "maximum": True},
    {"$ref": 5},
    {"$ref": "#/$defs/x"},
    {"$ref": "#"},
    {"$ref": "https://example.org/schema"},
    {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    {
        "$ref": "#/$defs/c",
        "$defs": {name: {"$ref": f"#/$defs/{to}"} for name, to in ("ab", "ba", "ca")},
    },
    {"$ref": "#/$defs/a", "$defs": {"a": 5}},
    {"$ref": "#/definitions/0", "definitions": [{}]},
)


@pytest.mark.parametrize("schema", WRONG, ids=json.dumps)
def test_a_wrong_schema_is_refused_with_what_is_wrong(schema: Any) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_schema(schema)
    error = error_body(refused.value)["error"]
    assert (error["param"], error["type"]) == ("response_format", "invalid_request_error")
    assert "expected" in error["message"]


RIGHT: tuple[Any, ...] = (
    {},
    {"type": ["string", "null"], "description": "x", "default": [], "examples": [{"type": 5}]},
    {"enum": [None, {"type": "strnig"}]},
    {"const": {"required": 5}},
    {
        "type": "object",
        "properties": {"type": {"type": "string"}, "enum": True, "$ref": {"const": 1}},
        "required": ["type"],
        "additionalProperties": False,
    },
    {
        "$defs": {"node": {"type": "array", "items": {"$ref": "#/$defs/node"}}, "a/b c": {}},
        "anyOf": [{"$ref": "#/$defs/node"}, {"$ref": "#/$defs/a~1b%20c"}],
    },
    {"type": "array", "items": {"$ref": "#"}, "minItems": 2.0},
    {"type": "number", "exclusiveMinimum": -0.5, "multipleOf": 0.1},
    {"type": "array", "prefixItems": [{"$ref": "#/prefixItems/1"}, {"type": "null"}]},
)


@pytest.mark.parametrize("schema", RIGHT, ids=json.dumps)
def test_a_right_schema_is_taken(schema: Any) -> None:
    check_schema(schema)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_engine_never_sees_a_wrong_schema(stream: bool) -> None:
    engine = NamedEngine("hi")
    async with open_openai_server(engine=engine) as (_, client):
        for schema in WRONG[:3]:
            with pytest.raises(openai.BadRequestError) as refused:
                await ask(
                    client, user("x"), model=MODEL, stream=stream, response_format=wanted(schema)
                )
            assert refused.value.param == "response_format"
        assert engine.requests == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_schema_that_only_the_engine_refuses(stream: bool) -> None:
    refusal: PalaverError = InvalidInput("HTTP 400 of 10.0.0.7: no grammar")
    engine = NamedEngine(lambda request: ScriptedReply(text="", error=refusal))
    async with open_openai_server(engine=engine) as (_, client):
        for response_format, param in (
            (wanted({"type": "string"}), "response_format"),
            ({"type": "json_object"}, "response_format"),
            ({"type": "text"}, None),
        ):
            with pytest.raises(openai.BadRequestError) as refused:
                await ask(
                    client, user("x"), model=MODEL, stream=stream, response_format=response_format
                )
            assert refused.value.param == param
            assert "10.0.0.7" not in str(refused.value)
