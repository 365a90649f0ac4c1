"""Tools in requests of OpenAI's API: those that the program runs, and the choice between them."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from palaver import ClientTool, EngineInfo
from palaver_plugins.channels.openai_api.errors import InvalidParameter, UnsupportedParameter
from palaver_plugins.channels.openai_api.schema import check_schema

MAX_TOOLS = 128
MAX_TOOL_BYTES = 131_072
"""Bytes of all tools of a request, as JSON."""
MAX_DESCRIPTION = 4_096
NO_PARAMETERS = {"type": "object", "properties": {}}

Json = dict[str, Any]  # JSON values
Mode = Literal["auto", "none", "required"]
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_MODES: Mapping[str, Mode] = {"auto": "auto", "none": "none", "required": "required"}


class Function(msgspec.Struct, frozen=True):
    """A tool that the program runs."""

    name: str
    description: str | None = None
    parameters: Json | None = None


class OfferedTools(NamedTuple):
    """Tools that a request offers, and its choice; `forced` is the name of the one to call."""

    tools: tuple[ClientTool, ...] = ()
    choice: Mode = "auto"
    forced: str = ""

    @property
    def forces_call(self) -> bool:
        return self.choice == "required" or bool(self.forced)

    @property
    def may_answer_in_text(self) -> bool:
        """Return whether the model chooses between a call and a text."""
        return bool(self.tools) and self.choice != "none" and not self.forces_call


NO_TOOLS = OfferedTools()


def read_tools(
    functions: Sequence[tuple[str, Function]], choice: str | Json | None
) -> OfferedTools:
    """Return the tools and the choice of a request; ``functions`` are named by their parameter.

    Raises `InvalidParameter`.
    """
    tools: dict[str, ClientTool] = {}
    if len(functions) > MAX_TOOLS:
        raise InvalidParameter("tools", f"expected at most {MAX_TOOLS}")
    for param, function in functions:
        tool = _read_tool(param, function)
        if tool.name in tools:
            raise InvalidParameter(f"{param}.name", f"two tools have the name {tool.name!r}")
        tools[tool.name] = tool
    if len(msgspec.json.encode(list(tools.values()))) > MAX_TOOL_BYTES:
        raise InvalidParameter("tools", f"expected at most {MAX_TOOL_BYTES} bytes together")
    return _choose(tools, choice)


def _read_tool(param: str, function: Function) -> ClientTool:
    if not _NAME.fullmatch(function.name):
        raise InvalidParameter(f"{param}.name", "expected 1 to 64 letters, digits, _ and -")
    description = function.description or ""
    if len(description) > MAX_DESCRIPTION:
        raise InvalidParameter(
            f"{param}.description", f"expected at most {MAX_DESCRIPTION} characters"
        )
    parameters = function.parameters or NO_PARAMETERS
    check_schema(parameters, f"{param}.parameters")
    return ClientTool(name=function.name, description=description, parameters=parameters)


def _choose(tools: Mapping[str, ClientTool], choice: str | Json | None) -> OfferedTools:
    every = tuple(tools.values())
    if choice is None or isinstance(choice, str):
        mode = _read_mode("tool_choice", choice or "auto")
        if mode == "required" and not tools:
            raise InvalidParameter("tool_choice", "'required' needs tools")
        return OfferedTools(every, mode)
    kind = choice.get("type")
    if kind == "function":
        return OfferedTools(every, forced=_read_name("tool_choice", choice, tools))
    if kind == "allowed_tools":
        allowed = choice.get("allowed_tools", choice)
        names = _read_allowed(allowed, tools)
        kept = tuple(tool for tool in every if tool.name in names)
        return OfferedTools(kept, _read_mode("tool_choice.mode", allowed.get("mode")))
    raise UnsupportedParameter(
        "tool_choice", "expected 'auto', 'none', 'required', a function or allowed_tools"
    )


def _read_mode(param: str, mode: object) -> Mode:
    found = _MODES.get(mode) if isinstance(mode, str) else None
    if found is None:
        raise InvalidParameter(param, f"expected one of {', '.join(_MODES)}")
    return found


def _read_name(param: str, choice: Json, tools: Collection[str]) -> str:
    """Return the name of a function: beside its type, or within ``function``."""
    inner = choice.get("function", choice)
    name = inner.get("name") if isinstance(inner, dict) else None
    if not isinstance(name, str) or name not in tools:
        raise InvalidParameter(param, f"there is no tool {str(name)[:64]!r} in tools")
    return name


def _read_allowed(allowed: object, tools: Collection[str]) -> set[str]:
    found = allowed.get("tools") if isinstance(allowed, dict) else None
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise InvalidParameter("tool_choice.tools", "expected a list of functions")
    return {_read_name(f"tool_choice.tools[{at}]", each, tools) for at, each in enumerate(found)}


def check_tools(
    offered: OfferedTools, model: str, *, engine: EngineInfo, is_engine: bool, takes_tools: bool
) -> None:
    """Refuse tools that the model cannot call. ``takes_tools``: the skill runs tools of clients."""
    if not offered.tools or offered.choice == "none":
        return
    if is_engine and "tools" not in engine.capabilities:
        raise UnsupportedParameter("tools", f"the model {engine.model!r} calls no tools")
    if not is_engine and not takes_tools:
        raise UnsupportedParameter(
            "tools",
            f"the model {model[:60]!r} is a skill that calls no tools of a program; leave them "
            f"out, or use the model {engine.model!r}",
        )
    if not is_engine and offered.forces_call:
        raise UnsupportedParameter(
            "tool_choice", f"the model {model[:60]!r} is a skill, which chooses its tools itself"
        )
