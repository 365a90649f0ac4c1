"""Documents of the knowledge base as resources.

A resource is a document by the name that is shown to people; its address is a digest of the name,
since an id may be a path of the server.
"""

import hashlib
import re

from mcp_types import INVALID_PARAMS

from palaver import ConversationService, DocumentInfo
from palaver_plugins.channels.mcp.protocol import RESOURCE_NOT_FOUND, Json, RpcError

PREFIX = "palaver://documents/"
PAGE = 100
"""Documents in one part of the list."""
MEDIA_TYPE = "text/markdown"
_DIGEST = re.compile(r"[0-9a-f]{32}")


def document_uri(name: str) -> str:
    """Return the address of the document with this name, or this id if it has no name."""
    return PREFIX + _digest(name)


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:32]


class Documents:
    """The documents of all tenants. Each call is about those of one."""

    def __init__(self, service: ConversationService) -> None:
        self._service = service

    async def page(self, tenant: str, cursor: str | None) -> Json:
        """Return a part of the list, after ``cursor``. Raises `RpcError`."""
        if cursor is not None and not _DIGEST.fullmatch(cursor):
            raise RpcError(INVALID_PARAMS, f"the cursor {cursor[:60]!r} is not one of this list")
        found = await self._find(tenant)
        digests = sorted(digest for digest in found if cursor is None or digest > cursor)
        page = digests[:PAGE]
        result: Json = {"resources": [_describe(found[digest][0]) for digest in page]}
        if len(digests) > PAGE:
            result["nextCursor"] = page[-1]
        return result

    async def read(self, tenant: str, uri: str, *, is_modern: bool) -> Json:
        """Return the text of a document. Raises `RpcError`."""
        found = (await self._find(tenant)).get(uri.removeprefix(PREFIX), [])
        read = [await self._service.read_document(tenant, info.id) for info in found]
        contents = [
            {"uri": uri, "mimeType": MEDIA_TYPE, "text": document.text}
            for document in read
            if document is not None
        ]
        if not contents:
            code = INVALID_PARAMS if is_modern else RESOURCE_NOT_FOUND
            raise RpcError(code, f"there is no resource {uri[:200]!r}", data={"uri": uri[:200]})
        return {"contents": contents}

    async def _find(self, tenant: str) -> dict[str, list[DocumentInfo]]:
        """Return the documents by the digests of their names, which several may share."""
        found: dict[str, list[DocumentInfo]] = {}
        for info in await self._service.documents(tenant):
            found.setdefault(_digest(info.name or info.id), []).append(info)
        return found


def _describe(info: DocumentInfo) -> Json:
    name = info.name or info.id
    return {
        "uri": document_uri(name),
        "name": name,
        "title": info.title,
        "mimeType": MEDIA_TYPE,
    }
