"""The result of a call is text of bounded length."""

from typing import Any

import pytest
from mcp.types import CallToolResult

from palaver_plugins.tools.mcp.results import render


def result(*content: Any, **about: Any) -> CallToolResult:
    return CallToolResult.model_validate({"content": list(content), **about})


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


@pytest.mark.parametrize(
    ("given", "rendered"),
    [
        (result(), ""),
        (result(text("a"), text("b")), "a\n\nb"),
        (result(structuredContent={"x": 1}), '{"x": 1}'),
        (result(text("one"), structuredContent={"x": 1}), "one"),
        (
            result({"type": "image", "data": "iVBORw0KGgo=", "mimeType": "image/png"}),
            "[image, image/png, 8 bytes, not shown]",
        ),
        (
            result({"type": "audio", "data": "AAAA", "mimeType": "audio/wav"}),
            "[audio, audio/wav, 3 bytes, not shown]",
        ),
        (
            result({"type": "resource_link", "name": "P\x1bage", "uri": "https://example.org/"}),
            "[link, Page, https://example.org/]",
        ),
        (
            result({"type": "resource", "resource": {"uri": "file:///a.txt", "text": "Hello"}}),
            "[resource, file:///a.txt]\nHello",
        ),
        (
            result({"type": "resource", "resource": {"uri": "file:///a", "blob": "AAAA"}}),
            "[resource, file:///a, no text, not shown]",
        ),
        (result(text("a\x1b[2J\u202eb\n\tc")), "a[2Jb\n\tc"),
    ],
)
def test_each_kind_of_content_becomes_text(given: CallToolResult, rendered: str) -> None:
    assert render(given, 1_000) == rendered


def test_a_long_result_is_cut() -> None:
    assert render(result(text("x" * 3_000_000)), 10) == "xxxxxx […]"
