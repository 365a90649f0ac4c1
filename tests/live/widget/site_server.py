"""A web site of another origin, with a strict content security policy and the widget."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from tests.server.web.live_server import LiveServer, open_live_server

from palaver import Skill, Tool
from palaver.config.settings import SiteSettings, WidgetSettings

KEY = "pk_the-key-of-the-shop"
HOSTILE_CSS = """
* { all: unset !important; }
html { font-size: 3px !important; }
body { background: silver !important; display: block !important; }
body *, palaver-widget {
  display: none !important; position: static !important; visibility: hidden !important;
  opacity: 0 !important; transform: scale(0) !important; pointer-events: none !important;
  color: transparent !important; font: 2px fantasy !important; clip-path: circle(0) !important;
  z-index: -1 !important; width: 1px !important;
  --accent: red !important; --surface: red !important;
}
#cover {
  display: block !important; position: fixed !important; inset: 0 !important; opacity: 1 !important;
  visibility: visible !important; transform: none !important; width: auto !important;
  clip-path: none !important; z-index: 2147483647 !important;
  pointer-events: auto !important;
}
"""
"""Hides everything but a cover over the whole page."""


class Site:
    """The pages of a site, by path, and the server whose widget they show."""

    def __init__(self) -> None:
        self.pages: dict[str, str] = {}
        self.scripts: dict[str, str] = {}
        self.styles: dict[str, str] = {"/hostile.css": HOSTILE_CSS}
        self.origin = ""
        self.widget_host = ""

    def show(self, script: str = "", body: str = "", head: str = "", path: str = "/") -> str:
        """Make a page with the widget's script, which has the attributes ``script``; return its
        address."""
        self.pages[path] = (
            f'<!doctype html><html lang="en"><head><title>Shop</title>{head}'
            f'<script src="{self.widget_host}/widget.js" data-site="{KEY}" {script} async></script>'
            f"</head><body><main><h1>Shop</h1>{body}</main></body></html>"
        )
        return self.origin + path

    @property
    def policy(self) -> str:
        """The content security policy of docs/widget.md, and nothing more for the widget."""
        socket = self.widget_host.replace("http", "ws")
        return (
            "default-src 'none'; style-src 'self'; img-src 'self'; "
            f"script-src {self.widget_host} 'self'; connect-src {self.widget_host} {socket}; "
            "base-uri 'none'; form-action 'none'; "
            "require-trusted-types-for 'script'; trusted-types shop"
        )

    async def handle(self, request: web.Request) -> web.Response:
        if request.path in self.styles:
            return web.Response(text=self.styles[request.path], content_type="text/css")
        if request.path in self.scripts:
            return web.Response(text=self.scripts[request.path], content_type="text/javascript")
        if request.path not in self.pages:
            return web.Response(status=204)  # the icon that a browser asks for
        headers = {"Content-Security-Policy": self.policy}
        return web.Response(
            text=self.pages[request.path], content_type="text/html", headers=headers
        )


@contextlib.asynccontextmanager
async def open_site() -> AsyncIterator[Site]:
    """Serve a site at an origin of its own; the test names its ``widget_host``."""
    site = Site()
    application = web.Application()
    application.router.add_get("/{path:.*}", site.handle)
    server = TestServer(application)
    await server.start_server()
    # Another host name than the server's: for browsers, another site.
    site.origin = f"http://localhost:{server.port}"
    try:
        yield site
    finally:
        await server.close()


def widget_settings(*origins: str, **fields: Any) -> WidgetSettings:
    """Return settings with one site; ``fields`` are further ones of it."""
    site = SiteSettings(key=KEY, origins=origins, tenant="shop", **fields)
    return WidgetSettings(sites={"shop": site}, token_requests_per_minute=10_000)


@contextlib.asynccontextmanager
async def open_site_with_server(
    skills: Sequence[Skill] = (),
    tools: Sequence[Tool] = (),
    **fields: Any,  # of the site's settings
) -> AsyncIterator[tuple[Site, LiveServer]]:
    """Serve a site, and a server that it may use."""
    async with open_site() as site:
        settings = widget_settings(site.origin, **fields)
        async with open_live_server(widget=settings, skills=skills, tools=tools) as live_server:
            site.widget_host = live_server.address
            yield site, live_server
