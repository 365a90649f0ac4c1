"""What a server says about its tools is named, cleaned, bounded and identified."""

import json
from typing import Any

import pytest
from tests.plugins.tools.mcp.support import tool

from palaver import InvalidInput, SchemaTool
from palaver.engine import TOOL_NAME_PATTERN
from palaver_plugins.tools.mcp.definitions import make_name, read_definitions
from palaver_plugins.tools.mcp.schemas import MAX_DEPTH, UnusableSchema, simplify
from palaver_plugins.tools.mcp.settings import McpServerSettings
from palaver_plugins.tools.pinned.definition import Definition
from palaver_plugins.tools.pinned.texts import clean_line, clean_text

HIDDEN = "\x00\x07\x1b[2J\u200b\u202e\u2066\ufeff\U000e0041\ud800"
Json = Any  # JSON values


def read(*listed: Json, **settings: Any) -> tuple[Definition, ...]:
    return read_definitions("s", McpServerSettings(command="x", **settings), listed)


def obj(**properties: Json) -> Json:
    return {"type": "object", "properties": properties}


@pytest.mark.parametrize(
    ("tool", "name"),
    [
        ("add", "s__add"),
        ("files.read/all", "s__files_read_all"),
        ("löschen", "s__l_schen"),
        ("", "s__"),
        ("x" * 61, f"s__{'x' * 61}"),
    ],
)
def test_a_tool_has_the_name_of_its_server_and_its_own(tool: str, name: str) -> None:
    assert make_name("s", tool) == name


def test_names_that_are_too_long_stay_different() -> None:
    first, second = make_name("s", "x" * 200), make_name("s", "x" * 201)
    assert first != second
    assert TOOL_NAME_PATTERN.fullmatch(first)
    assert len(first) == 64


def test_of_two_tools_with_one_name_the_first_is_used() -> None:
    first, second, third = read(tool("a.b"), tool("a/b"), tool("a.b", "Another."))
    assert not first.problem
    assert "'a.b'" in second.problem
    assert third.problem


@pytest.mark.parametrize(
    "change",
    [
        {"description": "Another tool."},
        {"title": "Another"},
        {"inputSchema": obj(a={"type": "string"})},
        {"inputSchema": {**obj(), "$comment": "not even shown"}},
        {"annotations": {"readOnlyHint": True}},
    ],
)
def test_every_change_of_a_definition_changes_its_digest(change: dict[str, Json]) -> None:
    (before,), (again,) = read(tool("a")), read(tool("a"))
    (after,) = read({**tool("a"), **change})
    assert before.digest == again.digest != after.digest


def test_a_description_is_one_line_without_hidden_characters_and_is_cut() -> None:
    (definition,) = read(tool("a", f"Ignore {HIDDEN}\n\n all of it {'x' * 90}"),
                         max_description_characters=40)  # fmt: skip
    assert definition.description == "Ignore [2J all of it xxxxxxxxxxxxxxx […]"
    assert len(definition.description) == 40


def test_a_text_is_cleaned_in_its_whole_length() -> None:
    assert clean_text(f"a{HIDDEN}\nb\tc", 100) == "a[2J\nb\tc"
    assert clean_line("\u200b" * 1_000_000 + "a", 10) == " […]"
    assert clean_text("x" * 1_000, 100).endswith("x […]")


def test_the_settings_allow_tools_and_know_what_they_do() -> None:
    hints = {"readOnlyHint": True, "idempotentHint": True}
    listed = [tool("a", annotations=hints), tool("b"), tool("c")]
    assert [d.tool for d in read(*listed, tools=("a", "c"))] == ["a", "c"]
    distrusted, trusted = read(*listed)[0], read(*listed, trust_annotations=True)[0]
    assert (distrusted.read_only, distrusted.idempotent) == (False, False)
    assert (trusted.read_only, trusted.idempotent) == (True, True)
    marked = read(*listed, read_only=("a",), idempotent=("b",), needs_approval=("*",))
    assert [d.read_only for d in marked] == [True, False, False]
    assert [d.idempotent for d in marked] == [True, True, False]
    assert all(d.needs_approval for d in marked)


def test_a_hint_that_asks_for_more_care_is_believed() -> None:
    (definition,) = read(tool("a", annotations={"destructiveHint": True}))
    assert definition.needs_approval


# Schemas


def test_references_are_put_in_place_and_loops_are_cut() -> None:
    schema = {
        "type": "object",
        "properties": {"node": {"$ref": "#/$defs/Node", "description": "The root"}},
        "$defs": {
            "Node": {
                "type": "object",
                "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/Node"}}},
            }
        },
        "required": ["node", 7],
    }
    assert simplify(schema, 100) == {
        "type": "object",
        "properties": {
            "node": {
                "type": "object",
                "properties": {"children": {"type": "array", "items": {}}},
                "description": "The root",
            }
        },
        "required": ["node"],
    }


def test_only_known_keywords_stay_and_no_patterns() -> None:
    schema = obj(a={"type": "string", "pattern": "(a+)+$", "maxLength": 4, "x-evil": "<script>"})
    assert simplify(schema, 100)["properties"] == {"a": {"type": "string", "maxLength": 4}}


def deep(levels: int) -> Json:
    schema: Json = {"type": "string"}
    for _ in range(levels):
        schema = obj(a=schema)
    return schema


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        (deep(MAX_DEPTH + 1), "levels"),
        (obj(**{f"a{n}": {"type": "string"} for n in range(600)}), "500 parts"),
        (obj(a={"$ref": "https://evil.example/schema.json"}), "another document"),
        (obj(a={"$ref": "file:///etc/passwd"}), "another document"),
        (obj(a={"$ref": "#/$defs/none"}), "not there"),
        (obj(a={"$ref": 7}), "another document"),
        (obj(a="text"), "malformed"),
        ({"type": "string"}, "no object"),
        (obj(**{"a\x1bb": {}}), "hidden characters"),
        (obj(**{"a" * 200: {}}), "too long"),
        # each reference doubles: a billion parts in a few lines
        ({**obj(a={"$ref": "#/$defs/d0"}), "$defs": {
            f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)}}, "levels"),
    ],
)  # fmt: skip
def test_a_schema_that_cannot_be_used_is_refused(schema: Json, problem: str) -> None:
    with pytest.raises(UnusableSchema, match=problem):
        simplify(schema, 100)
    (definition,) = read(tool("a", inputSchema=schema))
    assert problem in definition.problem


def test_a_large_definition_is_refused() -> None:
    (definition,) = read(tool("a", "x" * 100_000))
    assert "larger than" in definition.problem


def test_the_digest_of_a_schema_without_an_end_is_found() -> None:
    schema: Json = json.loads('{"a":' * 150 + "1" + "}" * 150)
    (definition,) = read(tool("a", inputSchema=schema))
    assert definition.digest


# Arguments


async def test_arguments_are_checked_by_name() -> None:
    async def run(arguments: Json, context: Any) -> str:
        return json.dumps(arguments)

    schema = {**obj(a={"type": "string"}), "required": ["a"], "additionalProperties": False}
    checked = SchemaTool(function=run, name="s__t", description="T.", schema=schema)
    assert checked.json_schema == schema
    assert checked.validate({"a": 1}) == {"a": 1}  # the server judges the value
    with pytest.raises(InvalidInput, match="'s__t': argument 'a' is missing; argument 'b'"):
        checked.validate({"b": 1})
