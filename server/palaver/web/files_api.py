"""The HTTP API for files: upload, download, list, deletion."""

import contextlib
from collections.abc import AsyncGenerator, Iterable
from urllib.parse import quote

from aiohttp import web

from palaver.authentication import for_visitors, principal_of, requires
from palaver.errors import Forbidden, NotFound, Overloaded, TooMany
from palaver.files.media_types import SAFE_IMAGES
from palaver.messages import StoredFile
from palaver.openapi import described
from palaver.server import Server
from palaver.web import file_operations as operations
from palaver.web.bodies import DeletedFileResponse, FilesResponse
from palaver.web.connection import connection_of
from palaver.web.conversations import find_conversation
from palaver.web.responses import json_response

CONTENT_SECURITY_POLICY = "default-src 'none'; sandbox"
"""A file that a browser opens can run nothing and load nothing."""


class FileHandler:
    """The routes of files."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._files = server.files

    def routes(self) -> Iterable[web.RouteDef]:
        return (
            web.post("/v1/files", self._upload),
            web.get("/v1/files", self._list, allow_head=False),
            web.get("/v1/files/{file}", self._download, allow_head=False),
            web.delete("/v1/files/{file}", self._delete),
        )

    @for_visitors
    @requires("talk", streams_body=True)
    @described(operations.UPLOAD)
    async def _upload(self, request: web.Request) -> web.StreamResponse:
        tenant, person = _person_of(request)
        if self._server.file_limits(principal_of(request).site) is None:
            raise Forbidden("files cannot be uploaded here")
        connection_of(request).stream_body()
        try:
            file = await self._files.upload(
                tenant,
                person,
                request.query.get("name", ""),
                request.content.iter_any(),
                length=request.content_length,
                address=self._server.client_addresses.of(request),
            )
        except (TooMany, Overloaded) as error:
            reason = error.reason if isinstance(error, TooMany) else "files_uploads"
            self._server.metrics.limit_reached(reason)
            raise
        self._server.metrics.uploaded(file.size)
        return json_response(file, 201)

    @for_visitors
    @requires("read")
    @described(operations.FILES)
    async def _list(self, request: web.Request) -> web.StreamResponse:
        principal = principal_of(request)
        person = principal.resolve_data_owner(request.query.get("person"))
        files = await self._files.files(principal.tenant, person)
        return json_response(FilesResponse(files=files))

    @for_visitors
    @requires("read")
    @described(operations.DOWNLOAD)
    async def _download(self, request: web.Request) -> web.StreamResponse:
        tenant, file = principal_of(request).tenant, await self._find(request)
        headers = _download_headers(file)
        if any(tag.value == file.sha256 for tag in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        async with contextlib.aclosing(self._files.read(tenant, file.id)) as pieces:
            try:
                first = await anext(pieces)  # an error so far is answered as any other
            except (FileNotFoundError, StopAsyncIteration) as error:
                raise NotFound("the file is being deleted") from error
            return await _stream(request, headers, file, first, pieces)

    async def _find(self, request: web.Request) -> StoredFile:
        """Return a file of the caller's own, or one that was sent in their conversation."""
        id, thread = request.match_info["file"], request.query.get("thread")
        if not thread:
            return await self._files.find_own(*_person_of(request), id)
        access = find_conversation(
            self._server, principal_of(request), thread, request.query.get("person")
        )
        if not await access.is_member():
            raise NotFound(f"nobody has sent the file {id[:64]!r} in this conversation")
        return await self._files.find_sent(access.conversation, id)

    @for_visitors
    @requires("talk")
    @described(operations.DELETE)
    async def _delete(self, request: web.Request) -> web.StreamResponse:
        id = request.match_info["file"]
        await self._files.delete(*_person_of(request), id)
        return json_response(DeletedFileResponse(id=id))


def _person_of(request: web.Request) -> tuple[str, str]:
    """Return the tenant and the person whose files the request is about."""
    principal = principal_of(request)
    return principal.tenant, principal.resolve_person(request.query.get("person"))


def _download_headers(file: StoredFile) -> dict[str, str]:
    disposition = "inline" if file.media_type in SAFE_IMAGES else "attachment"
    return {
        "Content-Type": file.media_type,
        "Content-Disposition": f"{disposition}; filename*=UTF-8''{quote(file.name, safe='')}",
        "ETag": f'"{file.sha256}"',
        "Cache-Control": "private, no-cache",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
    }


async def _stream(
    request: web.Request,
    headers: dict[str, str],
    file: StoredFile,
    first: bytes,
    rest: AsyncGenerator[bytes, None],
) -> web.StreamResponse:
    """Answer with the content of a file. An error after the first piece cuts the response."""
    response = web.StreamResponse(headers=headers)
    response.content_length = file.size
    await response.prepare(request)
    await response.write(first)
    async for piece in rest:
        await response.write(piece)
    await response.write_eof()
    return response
