"""Pages: the page at ``/`` and its static files, from memory."""

import asyncio
import gzip
import hashlib
import mimetypes
from collections.abc import Iterable
from importlib import resources

import msgspec
from aiohttp import web

from palaver.authentication import public
from palaver.errors import NotFound
from palaver.server import Server
from palaver.web.access import AccessControl

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


INDEX = "index.html"
"""The page, which makes each browser a person of its own."""


class File(msgspec.Struct, frozen=True):
    """A static file, plain and gzipped."""

    media_type: str
    body: bytes
    gzipped: bytes
    etag: str


def load_files() -> dict[str, File]:
    """Return the static files by name. Blocks."""
    folder = resources.files("palaver.web") / "static"
    return {
        entry.name: _file(entry.name, entry.read_bytes())
        for entry in folder.iterdir()
        if entry.is_file()
    }


def _file(name: str, body: bytes) -> File:
    media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
    if media_type.startswith("text/"):
        media_type += "; charset=utf-8"
    zipped = gzip.compress(body, mtime=0)
    return File(media_type, body, zipped, hashlib.sha256(body).hexdigest()[:20])


class PageHandler:
    """The routes of the page."""

    def __init__(self, server: Server, access_control: AccessControl) -> None:
        self._authenticator = server.authenticator
        self._access_control = access_control
        self._files: dict[str, File] = {}

    async def load(self, application: web.Application) -> None:
        """Read the static files."""
        self._files = await asyncio.to_thread(load_files)

    def routes(self) -> Iterable[web.RouteDef]:
        return (
            web.get("/", self._index),
            web.get("/static/{name}", self._static),
        )

    @public
    async def _index(self, request: web.Request) -> web.StreamResponse:
        response = self._send(request, INDEX)
        self._access_control.set_cookie(request, response)
        response.headers["Cache-Control"] = "private, no-cache"  # the cookie is for one browser
        return response

    @public
    async def _static(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        return await self._index(request) if name == INDEX else self._send(request, name)

    def _send(self, request: web.Request, name: str) -> web.Response:
        self._authenticator.check_host(request)
        file = self._files.get(name)
        if file is None:
            raise NotFound(f"there is no file {name[:100]!r}")
        headers = {**SECURITY_HEADERS, "ETag": f'"{file.etag}"', "Vary": "Accept-Encoding"}
        if any(tag.value == file.etag for tag in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        headers["Content-Type"] = file.media_type
        body = file.body
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            headers["Content-Encoding"] = "gzip"
            body = file.gzipped
        return web.Response(body=body, headers=headers)
