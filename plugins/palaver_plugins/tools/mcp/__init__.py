"""MCP client: the tools of MCP servers, which skills and models call as any other tool.

Enable it with ``tool_sources.enabled = ["mcp"]`` and name the servers; docs/mcp.md shows how. The
extra ``mcp`` installs the protocol's SDK, which is imported only when the source is built.
"""

from collections.abc import Iterable

import click

from palaver import Backend, BuildContext, ToolSource, hookimpl
from palaver_plugins.optional_packages import import_packages
from palaver_plugins.tools.mcp.commands import mcp
from palaver_plugins.tools.mcp.settings import NAME, McpSettings


def _build(settings: McpSettings, build_context: BuildContext) -> ToolSource:
    import_packages("tool source", NAME, "mcp")
    from palaver_plugins.tools.mcp.source import McpSource

    return McpSource(settings)


@hookimpl
def palaver_register_tool_sources() -> Iterable[Backend[ToolSource]]:
    return [Backend(name=NAME, settings=McpSettings, build=_build)]


@hookimpl
def palaver_register_commands() -> Iterable[click.Command]:
    return [mcp]
