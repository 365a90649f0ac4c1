"""A real MCP server, made with the official SDK, for tests: by stdio, or over HTTP with a port.

It counts its effects in the file that ``EFFECTS`` names, one line for each.
"""

import asyncio
import os
import sys
from typing import Annotated

from mcp.server.mcpserver import Context, MCPServer
from mcp.types import CallToolResult, ImageContent, ResourceLink, TextContent, ToolAnnotations
from pydantic import Field

server = MCPServer("friendly", version="1.0")
PIXEL = "iVBORw0KGgo="


@server.tool(annotations=ToolAnnotations(readOnlyHint=True))
def add(a: int, b: Annotated[int, Field(description="The second number")]) -> str:
    """Add two numbers."""
    return str(a + b)


@server.tool()
def note(text: str) -> str:
    """Write a line into the file of effects."""
    with open(os.environ["EFFECTS"], "a", encoding="utf-8") as file:
        file.write(f"{text}\n")
    return "noted"


@server.tool(annotations=ToolAnnotations(destructiveHint=True))
def wipe() -> str:
    """Remove everything."""
    return "wiped"


@server.tool()
def fail(reason: str) -> str:
    """Fail."""
    raise ValueError(reason)


@server.tool()
def exits(text: str) -> str:
    """Write the effect, and die before the answer."""
    note(text)
    os._exit(3)


@server.tool()
async def wait(ctx: Context, steps: int, seconds: float) -> str:
    """Report progress and answer at the end."""
    try:
        for step in range(steps):
            await ctx.report_progress(step, steps)
            await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        note("cancelled")
        raise
    return "waited"


@server.tool()
def environment() -> str:
    """Return the names of the environment variables."""
    return " ".join(sorted(os.environ))


@server.tool()
def pictures() -> CallToolResult:
    """Return an image and a link."""
    return CallToolResult(
        content=[
            TextContent(type="text", text="Look:"),
            ImageContent(type="image", data=PIXEL, mime_type="image/png"),
            ResourceLink(type="resource_link", uri="https://example.org/a", name="The page"),
        ]
    )


@server.tool()
def point() -> dict[str, int]:
    """Return a structure."""
    return {"x": 1, "y": 2}


@server.tool()
async def grow(ctx: Context, tool: str) -> str:
    """Add a tool, and say so in the way of both protocol eras."""
    server.add_tool(point, name=tool)
    await ctx.notify_tools_changed()
    await ctx.session.send_tool_list_changed()
    return "grown"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
    else:
        server.run("stdio")
