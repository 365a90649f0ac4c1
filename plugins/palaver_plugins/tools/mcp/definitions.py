"""Definitions: what a server says about its tools, cleaned, named and identified by a digest."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from palaver_plugins.tools.mcp.schemas import UnusableSchema, simplify
from palaver_plugins.tools.mcp.settings import McpServerSettings, names
from palaver_plugins.tools.pinned.definition import Definition
from palaver_plugins.tools.pinned.texts import clean_line

Json = Any  # JSON values
MAX_DEFINITION_BYTES = 65_536
MAX_NAME_LENGTH = 64
SEPARATOR = "__"
_UNUSABLE_CHARACTER = re.compile(r"[^a-zA-Z0-9_-]")
_HASHED = ("name", "title", "description", "inputSchema", "annotations")
"""The parts of a definition that its digest covers: all that a model or an operator sees of it."""


def read_definitions(
    server: str, settings: McpServerSettings, listed: Sequence[Mapping[str, Json]]
) -> tuple[Definition, ...]:
    """Return the tools of a list that the settings allow. Of two with the same name here, the
    second is unusable."""
    found: dict[str, Definition] = {}
    doubles: list[Definition] = []
    for item in listed:
        if settings.tools and item["name"] not in settings.tools:
            continue
        definition = _read(server, settings, item)
        if definition.name in found:
            other = found[definition.name].tool
            problem = f"the server lists {cut_name(other)!r} before, which has the same name here"
            doubles.append(dataclasses.replace(definition, problem=problem))
        else:
            found[definition.name] = definition
    return (*found.values(), *doubles)


def _read(server: str, settings: McpServerSettings, item: Mapping[str, Json]) -> Definition:
    limit, tool = settings.max_description_characters, item["name"]
    hashed = json.dumps({key: item.get(key) for key in _HASHED}, sort_keys=True).encode()
    description = clean_line(str(item.get("description") or item.get("title") or ""), limit)
    problem, schema = "", {}
    try:
        if len(hashed) > MAX_DEFINITION_BYTES:
            raise UnusableSchema(f"its definition is larger than {MAX_DEFINITION_BYTES} bytes")
        schema = simplify(item["inputSchema"], limit)
    except UnusableSchema as error:
        problem = str(error)
    hints = item.get("annotations") or {}
    is_believed = settings.trust_annotations
    read_only = names(settings.read_only, tool) or (is_believed and _hint(hints, "readOnlyHint"))
    return Definition(
        tool=tool,
        name=make_name(server, tool),
        description=description or f"The tool {cut_name(tool)} of {server}.",
        schema=schema,
        digest=hashlib.sha256(hashed).hexdigest()[:32],
        problem=problem,
        read_only=read_only,
        idempotent=read_only
        or names(settings.idempotent, tool)
        or (is_believed and _hint(hints, "idempotentHint")),
        needs_approval=names(settings.needs_approval, tool) or _hint(hints, "destructiveHint"),
    )


def _hint(hints: Mapping[str, Json], name: str) -> bool:
    return hints.get(name) is True


def make_name(server: str, tool: str) -> str:
    """Return the name of a server's tool here. One that is too long is cut, and ends in a hash."""
    name = f"{server}{SEPARATOR}{_UNUSABLE_CHARACTER.sub('_', tool)}"
    if len(name) > MAX_NAME_LENGTH:
        digest = hashlib.sha256(tool.encode()).hexdigest()[:8]
        name = f"{name[: MAX_NAME_LENGTH - len(digest) - 1]}_{digest}"
    return name


def cut_name(tool: str) -> str:
    """Return a server's name of a tool for a sentence."""
    return clean_line(tool, MAX_NAME_LENGTH)
