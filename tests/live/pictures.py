"""Pictures of the documentation: screenshots in HTML, with captions, as PNG or WebP."""

import base64
import html
import re
from collections.abc import Iterator

from playwright.async_api import Browser, FloatRect, Page

QUALITY = 0.8
MARGIN = 24
"""Pixels below the last turn of a screenshot."""


def data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


TO_WEBP = """
async ([url, quality]) => {
  const image = await createImageBitmap(await (await fetch(url)).blob());
  const canvas = new OffscreenCanvas(image.width, image.height);
  canvas.getContext("2d").drawImage(image, 0, 0);
  const blob = await canvas.convertToBlob({ type: "image/webp", quality });
  const bytes = new Uint8Array(await blob.arrayBuffer());
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}
"""


async def to_webp(browser: Browser, png: bytes) -> bytes:
    page = await browser.new_page()
    encoded: str = await page.evaluate(TO_WEBP, [data_url(png), QUALITY])
    await page.close()
    return base64.b64decode(encoded)


async def render(browser: Browser, content: str, *, width: int, scale: float) -> bytes:
    """Return a document as PNG. ``width``: in pixels, of which ``scale`` make one of the layout."""
    page = await browser.new_page(
        viewport={"width": width, "height": 200}, device_scale_factor=scale
    )
    await page.set_content(content)
    picture = await page.screenshot(full_page=True)
    await page.close()
    return picture


async def screenshot_turns(page: Page) -> bytes:
    """Return the page between its header and the end of the last turn, as PNG."""
    head = await page.locator("header").bounding_box()
    turn = await page.locator(".turn").last.bounding_box()
    assert head is not None
    assert turn is not None
    top, bottom = head["y"] + head["height"], turn["y"] + turn["height"] + MARGIN
    return await page.screenshot(
        clip=FloatRect(x=0, y=top, width=head["width"], height=bottom - top)
    )


# The terminal

_STYLE_SEQUENCE = re.compile(r"\x1b\[([0-9;]*)m")
_STYLES = {
    "1": "font-weight: bold",
    "2": "opacity: 0.65",
    "3": "font-style: italic",
    "9": "text-decoration: line-through",
    "31": "color: #ff7b72",
    "36": "color: #79c0ff",
}
"""By the parameter of an escape sequence that selects a style. 0 ends all of them."""


def render_terminal(title: str, text: str, columns: int) -> str:
    """Return what a terminal shows, as HTML in the style `TERMINAL_STYLE`."""
    spans = "".join(_render_spans(text))
    head = f"<header><i></i><i></i><i></i>{html.escape(title)}</header>"
    style = f"width: {columns}ch"
    return f'<div class="terminal">{head}<pre style="{style}">{spans}</pre></div>'


def _render_spans(text: str) -> Iterator[str]:
    styles: list[str] = []
    for position, part in enumerate(_STYLE_SEQUENCE.split(text)):
        if position % 2 == 0:
            yield f'<span style="{"; ".join(styles)}">{html.escape(part)}</span>' if part else ""
        elif part in ("", "0"):
            styles = []
        else:
            styles += [_STYLES[number] for number in part.split(";")]


TERMINAL_STYLE = """
.terminal { border-radius: 12px; overflow: hidden; background: #17191c; color: #e8e6e1; }
.terminal header {
  display: flex; gap: 7px; align-items: center; padding: 10px 14px; background: #2a2d31;
  color: #b8b5ae; font: 13px system-ui, sans-serif;
}
.terminal header i { width: 11px; height: 11px; border-radius: 50%; background: #55585d; }
.terminal header i:last-of-type { margin-inline-end: 8px; }
.terminal pre {
  box-sizing: content-box; margin: 0; padding: 14px 16px; font: 14px/1.45 monospace;
  white-space: pre-wrap; word-break: break-all;
}
"""

# Steps of servers


def render_step(
    number: int,
    title: str,
    clock: str,
    servers: tuple[tuple[int, str], tuple[int, str]],
    screenshot: bytes,
) -> str:
    """Return a screenshot with its caption, in the style `STEPS_STYLE`. ``servers``: the process
    and the state of each."""
    states = "\n".join(
        f'<span class="{place} {state}"><i></i>{pid} {state}</span>'
        for place, (pid, state) in zip(("first", "second"), servers, strict=True)
    )
    return f"""
<figure>
  <h2><b>{number}</b>{title}<time>{clock}</time></h2>
  <p>{states}</p>
  <img src="{data_url(screenshot)}">
</figure>"""


STEPS_STYLE = """<!doctype html><meta charset="utf-8"><style>
* { box-sizing: border-box; margin: 0; }
body {
  display: grid; grid-template-columns: 1fr 1fr; gap: 16px; padding: 16px;
  background: #fff; color: #1d1e20; font: 15px/1.4 system-ui, sans-serif;
}
figure { border: 1px solid #dcd8d0; border-radius: 14px; overflow: hidden; background: #fbfaf8; }
h2 {
  display: flex; align-items: center; gap: 10px; height: 46px; padding: 10px 14px 0; font: inherit;
  background: #fff;
}
h2 > b {
  display: grid; place-items: center; width: 24px; height: 24px; border-radius: 50%;
  background: #2f6f5e; color: #fff; font-size: 13px;
}
h2 > code {
  padding: 3px 12px; border-radius: 7px; background: #1d1e20; color: #fff; font: 14px monospace;
}
time { margin: 2px 0 0 auto; color: #62656a; font-size: 13px; white-space: nowrap; }
p {
  display: flex; gap: 16px; padding: 3px 14px 12px 48px; border-bottom: 1px solid #e2dfd8;
  background: #fff;
}
span { display: flex; align-items: center; gap: 6px; color: #62656a; font: 13px monospace; }
i { width: 9px; height: 9px; border: 2px solid #b9b6ae; border-radius: 50%; }
.writes { color: #1d1e20; }
.first.writes i { border-color: #2f6f5e; background: #2f6f5e; }
.second.writes i { border-color: #e0a100; background: #e0a100; }
.killed { color: #a93226; }
.killed i { border-color: #a93226; background: #a93226; }
img { display: block; width: 100%; }
footer { grid-column: 1 / 3; color: #62656a; font-size: 13px; text-align: center; }
footer code { font: 13px monospace; }
mark {
  display: inline-block; width: 26px; height: 12px; border-radius: 2px; background: #ffe3a0;
  vertical-align: -1px;
}
</style>"""
