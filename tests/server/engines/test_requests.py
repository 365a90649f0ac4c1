"""What is wrong with a request is told before an engine gets it."""

from typing import Any

import pytest

from palaver.engine import (
    MAX_TOOLS,
    Capability,
    ChatMessage,
    GenerationRequest,
    JsonSchema,
    NamedTool,
    Sampling,
    ToolCall,
    ToolDefinition,
)
from palaver.engines.requests import check_request
from palaver.errors import InvalidInput, Unsupported

ALL: frozenset[Capability] = frozenset({"generate", "tools", "json_schema"})
OBJECT: dict[str, Any] = {"type": "object", "properties": {}}
ROLL = ToolDefinition("roll", "Roll a die.", OBJECT)


def check(capabilities: frozenset[Capability] = ALL, **options: Any) -> None:
    options = {"messages": (ChatMessage("user", "Hi"),)} | options
    check_request(GenerationRequest(id="r", tenant="t", **options), capabilities)


def tool(**changes: Any) -> ToolDefinition:
    return ToolDefinition(**({"name": "roll", "description": "", "parameters": OBJECT} | changes))


@pytest.mark.parametrize("choice", ["auto", "none", "required", NamedTool("roll")])
def test_tools_are_accepted_with_each_choice(choice: Any) -> None:
    check(tools=(ROLL,), tool_choice=choice)


def test_an_engine_that_calls_no_tools_gets_none() -> None:
    with pytest.raises(Unsupported, match="'tools'"):
        check(ALL - {"tools"}, tools=(ROLL,))
    check(ALL - {"tools"}, tool_choice="none")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"tools": (tool(name="a b"),)}, "'a b': a name is 1 to 64 letters"),
        ({"tools": (tool(name=""),)}, "'': a name is"),
        ({"tools": (tool(name="x" * 65),)}, "a name is"),
        ({"tools": (ROLL, ROLL)}, "two tools have the name 'roll'"),
        ({"tools": (tool(parameters={}),)}, "'roll': its parameters are no schema of an object"),
        (
            {"tools": (tool(parameters=OBJECT | {"required": 1}),)},
            "'roll': its parameters are no schema: required: ",
        ),
        (
            {"tools": (tool(parameters=OBJECT | {"$ref": "http://127.0.0.1/"}),)},
            "may refer only to itself",
        ),
        (
            {"tools": tuple([tool(name=f"t{number}") for number in range(MAX_TOOLS + 1)])},
            f"there are {MAX_TOOLS + 1} tools; the limit is {MAX_TOOLS}",
        ),
        (
            {"tools": (ROLL,), "tool_choice": NamedTool("flip")},
            r"tool_choice: there is no tool 'flip'; there are \['roll'\]",
        ),
        ({"tool_choice": NamedTool("flip")}, "there is no tool 'flip'"),
        ({"tool_choice": "required"}, "tool_choice='required': there are no tools"),
        (
            {"tools": (ROLL,), "sampling": Sampling(structure=JsonSchema(OBJECT))},
            "a structure or tools, not both",
        ),
        (
            {"messages": (ChatMessage("user", "", tool_calls=(ToolCall("1", "roll", "{}"),)),)},
            "a message of role 'user' has calls",
        ),
    ],
)
def test_a_wrong_request_is_refused_by_name(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        check(**options)
