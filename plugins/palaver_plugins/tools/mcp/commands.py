"""Commands ``palaver mcp``."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from palaver import (
    ConfigurationError,
    Console,
    Ledger,
    NotFound,
    ask_server,
    echo,
    token_option,
    url_option,
)
from palaver_plugins.optional_packages import import_packages
from palaver_plugins.tools.mcp.settings import NAME, McpSettings

if TYPE_CHECKING:
    from palaver_plugins.tools.mcp.definitions import Definition
    from palaver_plugins.tools.mcp.source import McpSource

T = TypeVar("T")
Json = Any  # JSON values
EXIT_UNREACHABLE = 69
"""EX_UNAVAILABLE of sysexits.h."""


@click.group()
def mcp() -> None:
    """List and test MCP servers; approve their tools.

    The commands ask the server that runs at the address of the settings, or at --url. When none
    runs, they connect to the MCP servers and open the ledger themselves.
    """


@mcp.command("list")
@url_option
@token_option
@click.pass_obj
def list_tools(console: Console, url: str | None, token: str | None) -> None:
    """List the tools of the MCP servers, with the state of each.

    ready: it is used. new: approve it. changed: look at it and approve it again. unusable: its
    definition cannot be used.
    """
    source = _read_source(console, url, token)
    for tool in source["tools"]:
        echo(f"{tool['state']:<9} {tool['name']}  {tool['problem'] or tool['description']}")
    for problem in source["problems"]:
        echo(f"! {problem}")
    if not source["tools"] and not source["problems"]:
        echo("No MCP server is configured.")


@mcp.command()
@click.argument("name")
@click.pass_obj
def test(console: Console, name: str) -> None:
    """Connect to the MCP server NAME and show its tools.

    They are shown as a model gets them. The exit code is 69 when the server cannot be reached.
    """
    settings = _settings(console, name)
    description, problems, definitions = asyncio.run(_inspect(settings))
    for problem in problems:
        echo(f"! {problem}")
    if not description:
        raise SystemExit(EXIT_UNREACHABLE)
    echo(f"{name}: {description}")
    for definition in definitions:
        _show(definition)


@mcp.command()
@click.argument("name")
@click.argument("tools", nargs=-1)
@click.option("--yes", is_flag=True, help="Do not ask.")
@url_option
@token_option
@click.pass_obj
def approve(
    console: Console,
    name: str,
    tools: tuple[str, ...],
    yes: bool,
    url: str | None,
    token: str | None,
) -> None:
    """Let the tools of the MCP server NAME be used, as they are defined now.

    Without TOOL, all that are new or changed. Read the definitions before: a model follows them.
    """
    settings = _settings(console, name)
    _, problems, definitions = asyncio.run(_inspect(settings))
    for problem in problems:
        echo(f"! {problem}")
    chosen = _choose(name, definitions, tools)
    if not tools:
        listed = _read_source(console, url, token)["tools"]
        ready = {tool["name"] for tool in listed if tool["state"] == "ready"}
        chosen = [each for each in chosen if each.name not in ready]
    if not chosen:
        echo("There is nothing to approve.")
        return
    for definition in chosen:
        _show(definition)
    if not yes:
        click.confirm(f"Approve {len(chosen)}?", abort=True)
    _approve(console, settings, url, token, {each.name: each.digest for each in chosen})
    echo(f"Approved {len(chosen)} tools of {name}.")


def _choose(
    name: str, definitions: Sequence["Definition"], tools: Sequence[str]
) -> list["Definition"]:
    """Return the usable definitions with these names, here or at the server; all without names."""
    usable = [definition for definition in definitions if not definition.problem]
    for tool in tools:
        if not any(tool in (each.name, each.tool) for each in usable):
            raise NotFound(f"the MCP server {name!r} offers no usable tool {tool!r}")
    return [each for each in usable if not tools or each.name in tools or each.tool in tools]


def _show(definition: "Definition") -> None:
    properties = [
        word
        for word, holds in (
            ("read-only", definition.read_only),
            ("idempotent", definition.idempotent),
            ("asks before each call", definition.needs_approval),
        )
        if holds
    ]
    echo()
    echo(f"{definition.name}" + (f" ({', '.join(properties)})" if properties else ""))
    if definition.problem:
        echo(f"  unusable: {definition.problem}")
        return
    echo(f"  {definition.description}")
    echo(f"  {json.dumps(definition.schema, ensure_ascii=False)}")


# Where the state comes from


def _settings(console: Console, name: str) -> McpSettings:
    """Return the settings of one server. Raises `NotFound`."""
    settings = console.plugin_settings("tool_sources", NAME, McpSettings)
    if name not in settings.servers:
        known = ", ".join(sorted(settings.servers)) or "none"
        raise NotFound(f"there is no MCP server {name!r}; the settings name: {known}")
    return settings.model_copy(update={"servers": {name: settings.servers[name]}})


def _make_source(settings: McpSettings) -> "McpSource":
    import_packages("tool source", NAME, "mcp")
    from palaver_plugins.tools.mcp.source import McpSource

    return McpSource(settings)


async def _inspect(settings: McpSettings) -> tuple[str, Sequence[str], Sequence["Definition"]]:
    """Return what a server is, what is wrong with it, and its tools."""
    return await _make_source(settings).inspect()


def _read_source(console: Console, url: str | None, token: str | None) -> Json:
    """Return the state of the source, as the HTTP API has it."""
    address = url or console.find_server()
    if address:
        asking = ask_server("GET", f"{address.rstrip('/')}/v1/tool-sources", token=token)
        for source in asyncio.run(asking)["sources"]:
            if source["name"] == NAME:
                return source
        raise ConfigurationError("tool_sources.enabled of the server that runs has no 'mcp'")

    async def read(source: "McpSource") -> Json:
        tools = [
            {"name": t.name, "state": t.state, "description": t.description, "problem": t.problem}
            for t in source.offered()
        ]
        return {"tools": tools, "problems": source.problems}

    settings = console.plugin_settings("tool_sources", NAME, McpSettings)
    return _run_source(console, settings, read)


def _approve(
    console: Console,
    settings: McpSettings,
    url: str | None,
    token: str | None,
    digests: Mapping[str, str],
) -> None:
    address = url or console.find_server()
    if address:
        path = f"{address.rstrip('/')}/v1/tool-sources/{NAME}/approvals"
        asyncio.run(ask_server("POST", path, token=token, body={"digests": digests}))
        return
    _run_source(console, settings, lambda source: source.approve(digests))


def _run_source(
    console: Console, settings: McpSettings, use: Callable[["McpSource"], Awaitable[T]]
) -> T:
    """Run ``use`` with a source that has tried to connect, and return its result."""
    source = _make_source(settings)

    async def run(ledger: Ledger) -> T:
        await source.start(ledger)
        try:
            await source.connected()
            return await use(source)
        finally:
            await source.close()

    return console.run_with_ledger(run)
