"""MCP client: the tools of MCP servers, which skills and models call as any other tool.

Enable it with ``tool_sources.enabled = ["mcp"]`` and name the servers; docs/mcp.md shows how. The
extra ``mcp`` installs the protocol's SDK, which is imported only when the source is built.
"""

from collections.abc import Iterable
from typing import Any

import click

from palaver import Backend, BuildContext, ToolSource, hookimpl
from palaver_plugins.optional_packages import import_packages
from palaver_plugins.tools.mcp.settings import KIND, NAME, McpSettings
from palaver_plugins.tools.pinned.commands import make_commands
from palaver_plugins.tools.pinned.source import PinnedSource


def _make_source(settings: McpSettings) -> PinnedSource[Any]:
    import_packages("tool source", NAME, "mcp")
    from palaver_plugins.tools.mcp.source import McpSource

    return McpSource(settings)


def _build(settings: McpSettings, build_context: BuildContext) -> ToolSource:
    return _make_source(settings)


@hookimpl
def palaver_register_tool_sources() -> Iterable[Backend[ToolSource]]:
    return [Backend(name=NAME, settings=McpSettings, build=_build)]


@hookimpl
def palaver_register_commands() -> Iterable[click.Command]:
    return [make_commands(KIND, McpSettings, "servers", _make_source)]
