"""Pages: the page at ``/`` and ``/c/{thread}``, that of a share at ``/s/{share}``, their static
files and the service worker, from memory.

The files are built from ``frontend/`` by ``scripts/frontend``.
"""

import asyncio
import gzip
import hashlib
import mimetypes
import re
from collections.abc import Iterable
from importlib import resources

import msgspec
from aiohttp import web

from palaver.authentication import public
from palaver.errors import NotFound
from palaver.openapi import Content, Operation, Parameter, described
from palaver.server import Server
from palaver.web.access import AccessControl

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; manifest-src 'self'; worker-src {worker}; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types {policies}"
)
STRICT_POLICY = CONTENT_SECURITY_POLICY.format(worker="'none'", policies="'none'")
INDEX_POLICY = CONTENT_SECURITY_POLICY.format(worker="'self'", policies="palaver-worker")
"""That of the page, which registers its service worker: the browser demands a Trusted Types policy
for the worker's address. That policy knows this address only."""
SECURITY_HEADERS = {
    "Content-Security-Policy": STRICT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
INDEX = "index.html"
"""The page, which makes each browser a person of its own."""
SHARE = "share.html"
"""The page of a shared conversation. Its readers stay strangers: it sets no cookie."""
SERVICE_WORKER = "service-worker.js"
WIDGET = "widget.js"
WIDGET_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "Cache-Control": "public, max-age=300",
}
"""Those of the widget's script: any page may load it, also with SRI, and it is for nobody in
particular."""
MEDIA_TYPES = {".md": "text/markdown", ".webmanifest": "application/manifest+json"}
"""Those that Python does not know on every machine."""
_HASHED_NAME = re.compile(r"-[\w-]{8}\.(?:js|css)$")


FOLDER = resources.files("palaver.web") / "static"
NAMES = sorted(entry.name for entry in FOLDER.iterdir() if entry.is_file())
_IF_NONE_MATCH = Parameter(
    name="If-None-Match",
    place="header",
    description="The `ETag` of the copy that the client has.",
    schema={"type": "string"},
    example='"0123456789abcdef0123"',
)
_UNCHANGED = Content(description="The client's copy is still the right one")


class File(msgspec.Struct, frozen=True):
    """A static file, plain and gzipped."""

    media_type: str
    body: bytes
    gzipped: bytes
    etag: str
    cache_control: str


def load_files() -> dict[str, File]:
    """Return the static files by name. Blocks."""
    return {name: _file(name, (FOLDER / name).read_bytes()) for name in NAMES}


def _file(name: str, body: bytes) -> File:
    suffix = name[name.rfind(".") :]
    media_type = MEDIA_TYPES.get(suffix) or mimetypes.guess_type(name)[0]
    media_type = media_type or "application/octet-stream"
    if media_type.startswith("text/"):
        media_type += "; charset=utf-8"
    zipped = gzip.compress(body, mtime=0)
    # A name with a hash never gets another content.
    cache = "public, max-age=31536000, immutable" if _HASHED_NAME.search(name) else "no-cache"
    return File(media_type, body, zipped, hashlib.sha256(body).hexdigest()[:20], cache)


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
            web.get("/c/{thread}", self._index),
            web.get("/s/{share}", self._share),
            web.get("/static/{name}", self._static),
            web.get("/service-worker.js", self._service_worker),
            web.get("/widget.js", self._widget),
        )

    @public
    @described(
        Operation(
            summary="The chat page, which makes each browser a person of its own",
            parameters=(_IF_NONE_MATCH,),
            responses={
                200: Content(
                    type={"type": "string"}, example="<!doctype html>…", media_type="text/html"
                ),
                304: _UNCHANGED,
            },
        )
    )
    async def _index(self, request: web.Request) -> web.StreamResponse:
        response = self._send(request, INDEX)
        response.headers["Content-Security-Policy"] = INDEX_POLICY
        self._access_control.set_cookie(request, response)
        response.headers["Cache-Control"] = "private, no-cache"  # the cookie is for one browser
        return response

    @public
    @described(
        Operation(
            summary="The page of a shared conversation, which search engines must not list",
            parameters=(_IF_NONE_MATCH,),
            responses={
                200: Content(
                    type={"type": "string"}, example="<!doctype html>…", media_type="text/html"
                ),
                304: _UNCHANGED,
            },
        )
    )
    async def _share(self, request: web.Request) -> web.StreamResponse:
        response = self._send(request, SHARE)
        response.headers["X-Robots-Tag"] = "noindex, nofollow"
        return response

    @public
    @described(
        Operation(
            summary="A file of the page, among them the JavaScript client",
            parameters=(
                Parameter(
                    name="name",
                    place="path",
                    description="The file's name.",
                    schema={"type": "string", "enum": NAMES},
                    example="palaver-client.js",
                ),
                _IF_NONE_MATCH,
            ),
            responses={
                200: Content(type={}, example="export class Client {…}", media_type="*/*"),
                304: _UNCHANGED,
            },
        )
    )
    async def _static(self, request: web.Request) -> web.StreamResponse:
        pages = {INDEX: self._index, SHARE: self._share}
        name = request.match_info["name"]
        return await pages[name](request) if name in pages else self._send(request, name)

    @public
    @described(
        Operation(
            summary="The service worker, with which the chat page opens without a network",
            parameters=(_IF_NONE_MATCH,),
            responses={
                200: Content(
                    type={"type": "string"}, example="(() => {…})()", media_type="text/javascript"
                ),
                304: _UNCHANGED,
            },
        )
    )
    async def _service_worker(self, request: web.Request) -> web.StreamResponse:
        return self._send(request, SERVICE_WORKER)

    @public
    @described(
        Operation(
            summary="The widget's script, which pages of all origins may load",
            parameters=(_IF_NONE_MATCH,),
            responses={
                200: Content(
                    type={"type": "string"}, example="(() => {…})()", media_type="text/javascript"
                ),
                304: _UNCHANGED,
            },
            errors=(404,),
        )
    )
    async def _widget(self, request: web.Request) -> web.StreamResponse:
        response = self._send(request, WIDGET)
        response.headers.update(WIDGET_HEADERS)
        return response

    def _send(self, request: web.Request, name: str) -> web.Response:
        self._authenticator.check_host(request)
        file = self._files.get(name)
        if file is None:
            raise NotFound(f"there is no file {name[:100]!r}")
        headers = {
            **SECURITY_HEADERS,
            "Cache-Control": file.cache_control,
            "ETag": f'"{file.etag}"',
            "Vary": "Accept-Encoding",
        }
        if any(tag.value == file.etag for tag in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        headers["Content-Type"] = file.media_type
        body = file.body
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            headers["Content-Encoding"] = "gzip"
            body = file.gzipped
        return web.Response(body=body, headers=headers)
