"""Results: what a call returns, as text that a model reads."""

import json
from collections.abc import Iterator

from mcp.types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)

from palaver_plugins.tools.pinned.texts import clean_line, clean_text

MAX_URI_CHARACTERS = 2_000
MAX_NAME_CHARACTERS = 200


def render(result: CallToolResult, limit: int) -> str:
    """Return a result as text of at most ``limit`` characters.

    Structured content stands for a result without text; otherwise the text says the same. What is
    no text is named.
    """
    parts = list(map(_render_block, result.content))
    if result.structured_content is not None and not any(
        isinstance(block, TextContent) for block in result.content
    ):
        parts.append(json.dumps(result.structured_content, ensure_ascii=False))
    return clean_text("\n\n".join(parts), limit)


def _render_block(block: ContentBlock) -> str:
    if isinstance(block, TextContent):
        return block.text
    if isinstance(block, ResourceLink):
        return _note("link", block.name, str(block.uri), block.mime_type)
    if isinstance(block, EmbeddedResource):
        return _render_resource(block.resource)
    kind = "image" if isinstance(block, ImageContent) else "audio"
    return _note(kind, block.mime_type, _describe_size(block), "not shown")


def _render_resource(resource: TextResourceContents | BlobResourceContents) -> str:
    head = _note("resource", str(resource.uri), resource.mime_type)
    if isinstance(resource, TextResourceContents):
        return f"{head}\n{resource.text}"
    return _note("resource", str(resource.uri), resource.mime_type, "no text, not shown")


def _describe_size(block: ImageContent | AudioContent) -> str:
    characters = len(block.data.rstrip("="))
    return f"{characters * 3 // 4} bytes"


def _note(*parts: str | None) -> str:
    return f"[{', '.join(_clean(parts))}]"


def _clean(parts: tuple[str | None, ...]) -> Iterator[str]:
    for part in parts:
        if part:
            yield clean_line(part, MAX_URI_CHARACTERS)
