"""Qdrant's HTTP interface over the local mode of its client: no server of Qdrant can be installed
by a package. What travels is real, what answers is the client's own imitation of the server.

    python -m tests.plugins.knowledge.qdrant_server PORT
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pydantic
from aiohttp import web
from qdrant_client import AsyncQdrantClient, models

Json = dict[str, Any]  # Any: JSON values
Answer = Callable[[str, Json], Awaitable[Any]]


class QdrantServer:
    """One server in this process. ``fails_after``: requests that are answered before the others
    fail."""

    def __init__(self, *, api_key: str = "", version: str = "1.19.0") -> None:
        self.client: Any = AsyncQdrantClient(":memory:")  # Any: as in the store
        self.api_key = api_key
        self.version = version
        self.requests: list[str] = []
        self.hangs = False
        self.fails_after: int | None = None
        self._routes: dict[tuple[str, str], Answer] = {
            ("GET", "/exists"): self._exists,
            ("PUT", ""): self._create,
            ("GET", ""): self._describe,
            ("DELETE", ""): self._drop,
            ("PUT", "/index"): self._index,
            ("PUT", "/points"): self._upsert,
            ("POST", "/points"): self._retrieve,
            ("POST", "/points/scroll"): self._scroll,
            ("POST", "/points/query"): self._query,
            ("POST", "/points/count"): self._count,
            ("POST", "/points/delete"): self._delete,
            ("POST", "/points/payload"): self._set_payload,
        }

    async def handle(self, request: web.Request) -> web.Response:
        self.requests.append(f"{request.method} {request.path}")
        if self.hangs:
            await asyncio.Event().wait()
        if self.api_key and request.headers.get("api-key") != self.api_key:
            return web.Response(status=401, text="Must provide an API key")
        if self.fails_after is not None:
            self.fails_after -= 1
            if self.fails_after < 0:
                return web.json_response({"status": {"error": "disk is full"}}, status=500)
        if request.path == "/":
            return web.json_response({"title": "qdrant", "version": self.version})
        _, _, name, *rest = request.path.split("/")
        answer = self._routes[request.method, "/".join(["", *rest])]
        body = await request.json() if request.can_read_body else {}
        try:
            result = await answer(name, body)
        except ValueError as error:
            is_missing = "not found" in str(error)
            return _respond({"status": {"error": str(error)}}, status=404 if is_missing else 400)
        return _respond({"result": result, "status": "ok", "time": 0.0})

    async def _exists(self, name: str, body: Json) -> Any:
        return {"exists": await self.client.collection_exists(name)}

    async def _create(self, name: str, body: Json) -> Any:
        wanted = models.CreateCollection(**body)
        return await self.client.create_collection(
            name, vectors_config=wanted.vectors, sparse_vectors_config=wanted.sparse_vectors
        )

    async def _describe(self, name: str, body: Json) -> Any:
        return await self.client.get_collection(name)

    async def _drop(self, name: str, body: Json) -> Any:
        return await self.client.delete_collection(name)

    async def _index(self, name: str, body: Json) -> Any:
        models.CreateFieldIndex(**body)
        return {"operation_id": 0, "status": "completed"}  # local mode has no indexes

    async def _upsert(self, name: str, body: Json) -> Any:
        return await self.client.upsert(name, models.PointsList(**body).points)

    async def _retrieve(self, name: str, body: Json) -> Any:
        wanted = models.PointRequest(**body)
        return await self.client.retrieve(
            name, wanted.ids, wanted.with_payload, wanted.with_vector or False
        )

    async def _scroll(self, name: str, body: Json) -> Any:
        wanted = models.ScrollRequest(**body)
        points, offset = await self.client.scroll(
            name,
            wanted.filter,
            limit=wanted.limit,
            offset=wanted.offset,
            with_payload=wanted.with_payload,
            with_vectors=wanted.with_vector or False,
        )
        return {"points": points, "next_page_offset": offset}

    async def _query(self, name: str, body: Json) -> Any:
        wanted = models.QueryRequest(**body)
        return await self.client.query_points(
            name,
            query=getattr(wanted.query, "nearest", wanted.query),
            using=wanted.using,
            query_filter=wanted.filter,
            search_params=wanted.params,
            limit=wanted.limit,
            with_payload=wanted.with_payload,
            with_vectors=wanted.with_vector or False,
        )

    async def _count(self, name: str, body: Json) -> Any:
        return await self.client.count(name, models.CountRequest(**body).filter)

    async def _delete(self, name: str, body: Json) -> Any:
        is_list = "points" in body
        kind = models.PointIdsList if is_list else models.FilterSelector
        return await self.client.delete(name, kind(**body))

    async def _set_payload(self, name: str, body: Json) -> Any:
        wanted = models.SetPayload(**body)
        return await self.client.set_payload(name, wanted.payload, wanted.points or wanted.filter)


def _respond(body: Json, status: int = 200) -> web.Response:
    text = json.dumps(pydantic.TypeAdapter(Any).dump_python(body, mode="json", exclude_none=True))
    return web.Response(text=text, status=status, content_type="application/json")


@contextlib.asynccontextmanager
async def serve(server: QdrantServer, port: int = 0) -> AsyncIterator[str]:
    """Serve on the loopback interface and return the address."""
    application = web.Application(client_max_size=1 << 26)
    application.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def _main(port: int) -> None:
    async with serve(QdrantServer(), port):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1])))
