"""Catalog: the skills and tools that clients may call, and the prompts."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from mcp_types import INVALID_PARAMS

from palaver import (
    ConfigurationError,
    ConversationService,
    InvalidInput,
    ToolDescription,
    ToolSkill,
)
from palaver_plugins.channels.mcp.protocol import Json, RpcError

TEXT, CONVERSATION, KEY = "text", "conversation", "idempotency_key"
MAX_NAME = 200
"""Characters of the name of a conversation, and of an idempotency key."""
_TEXT_SCHEMA = {"type": "string", "description": "The message, as a person would write it"}
_CONVERSATION_SCHEMA = {
    "type": "string",
    "maxLength": MAX_NAME,
    "description": (
        "Name of a conversation that goes on: the skill sees the earlier calls with this name. "
        "Without it, the call stands alone"
    ),
}
_KEY_SCHEMA = {
    "type": "string",
    "maxLength": MAX_NAME,
    "description": (
        "Choose one for a call that may have to be repeated: a call with the same key is not run "
        "again, its first result is returned"
    ),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a call asks for, as a message has it. ``conversation`` and ``key`` are empty where the
    client names none."""

    text: str
    arguments: Json
    conversation: str
    key: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """Something that clients call as a tool: a skill, or a registered tool."""

    name: str
    kind: Literal["skill", "tool"]
    description: str
    input_schema: Mapping[str, Any]  # a JSON Schema document
    output_schema: Mapping[str, Any] | None = None  # a JSON Schema document
    annotations: Mapping[str, bool] = dataclasses.field(default_factory=dict)
    own_text: bool = False
    """The skill has an argument of the name `TEXT`."""

    @property
    def skill(self) -> str:
        """Return the skill that answers the message of a call."""
        return self.name if self.kind == "skill" else ToolSkill.name

    @property
    def json(self) -> Json:
        """Return the tool as ``tools/list`` has it."""
        shown: Json = {
            "name": self.name,
            "description": self.description,
            "inputSchema": self.input_schema,
        }
        if self.output_schema is not None:
            shown["outputSchema"] = self.output_schema
        if self.annotations:
            shown["annotations"] = self.annotations
        return shown

    def read(self, given: Json) -> Order:
        """Return what a call with these arguments asks for. Raises `InvalidInput`."""
        values = dict(given)
        taken = self.input_schema["properties"]
        key = self._take_name(values, KEY) if taken.get(KEY) is _KEY_SCHEMA else ""
        if self.kind == "tool":
            arguments: Json = {"tool": self.name, "arguments": values}
            return Order(text=self.name, arguments=arguments, conversation="", key=key)
        is_named = taken.get(CONVERSATION) is _CONVERSATION_SCHEMA
        conversation = self._take_name(values, CONVERSATION) if is_named else ""
        text = values.get(TEXT, "") if self.own_text else values.pop(TEXT, None)
        if not isinstance(text, str):
            raise InvalidInput(f"{self.name!r} needs the argument {TEXT!r}, which is a text")
        return Order(text=text, arguments=values, conversation=conversation, key=key)

    def _take_name(self, values: Json, argument: str) -> str:
        value = values.pop(argument, "")
        if not isinstance(value, str) or len(value) > MAX_NAME:
            raise InvalidInput(
                f"the argument {argument!r} is a text of at most {MAX_NAME} characters"
            )
        return value


def _make_skill(name: str, description: str, schema: Json) -> Action:
    own = dict(schema.get("properties", {}))
    own_text = TEXT in own
    properties = {TEXT: _TEXT_SCHEMA, CONVERSATION: _CONVERSATION_SCHEMA, KEY: _KEY_SCHEMA} | own
    return Action(
        name=name,
        kind="skill",
        description=description,
        input_schema=_make_schema(schema, properties, [] if own_text else [TEXT]),
        own_text=own_text,
    )


def _make_tool(tool: ToolDescription) -> Action:
    schema = tool.json_schema
    properties = {KEY: _KEY_SCHEMA} | schema.get("properties", {})
    return Action(
        name=tool.name,
        kind="tool",
        description=tool.description,
        input_schema=_make_schema(schema, properties, schema.get("required", [])),
        output_schema=tool.result_schema,
        annotations={
            "readOnlyHint": tool.read_only,
            "idempotentHint": tool.idempotent,
            "openWorldHint": tool.untrusted,
        },
    )


def _make_schema(schema: Mapping[str, Any], properties: Json, required: list[str]) -> Json:
    """Return the schema of a call's arguments. What a skill needs and a call does not give, the
    skill finds in the text, or asks for."""
    made: Json = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        made["required"] = required
    if "$defs" in schema:
        made["$defs"] = schema["$defs"]
    return made


class Catalog:
    """The actions and the prompts of one server. Raises `ConfigurationError` where the settings
    allow a tool that does not exist, or has the name of a skill."""

    def __init__(self, service: ConversationService, allowed: tuple[str, ...]) -> None:
        skills, tools = service.skills(), service.tools()
        for name in allowed:
            if name not in tools:
                raise ConfigurationError(
                    f"channels.mcp.tools names {name!r}; there are: {', '.join(sorted(tools))}"
                )
            if name in skills:
                raise ConfigurationError(
                    f"channels.mcp.tools names {name!r}, which a skill is called as well"
                )
        made = [
            *(
                _make_skill(name, text, service.argument_schema(name))
                for name, text in sorted(skills.items())
            ),
            *(_make_tool(tools[name]) for name in allowed),
        ]
        self._actions = {action.name: action for action in made}
        self._prompts = {
            f"{skill}.{number}": (skills[skill], prompt)
            for skill in sorted(skills)
            for number, prompt in enumerate(service.prompts(skill), 1)
        }

    def action(self, name: str) -> Action:
        """Return what a client calls by this name. Raises `RpcError`."""
        found = self._actions.get(name)
        if found is None:
            raise RpcError(INVALID_PARAMS, f"there is no tool {name[:60]!r}")
        return found

    def tools(self) -> Json:
        return {"tools": [action.json for action in self._actions.values()]}

    def prompts(self) -> Json:
        return {
            "prompts": [
                {"name": name, "title": text, "description": description}
                for name, (description, text) in self._prompts.items()
            ]
        }

    def prompt(self, name: str) -> Json:
        """Return the message of a prompt. Raises `RpcError`."""
        if name not in self._prompts:
            raise RpcError(INVALID_PARAMS, f"there is no prompt {name[:60]!r}")
        description, text = self._prompts[name]
        content = {"type": "text", "text": text}
        return {"description": description, "messages": [{"role": "user", "content": content}]}
