"""A fake of the Hugging Face hub: enough of it to download a model.

It can refuse requests, answer 503 for a while, or stop in the middle of a file.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclasses.dataclass
class Repository:
    """A model's files at one commit; ``token``: the token of a gated model.

    ``plain``: the files that are not in LFS. ``sha``: what the hub names as the commit.
    """

    files: dict[str, bytes]
    token: str = ""
    plain: frozenset[str] = frozenset()
    sha: str = COMMIT

    @classmethod
    def of(cls, directory: Path, token: str = "") -> "Repository":
        return cls({file.name: file.read_bytes() for file in directory.iterdir()}, token)


class FakeHub:
    """``busy``: file name → number of 503 responses to come. ``stall``: the file of which only half
    is sent; then ``stalled`` is set. ``reached`` is called before weights are sent."""

    def __init__(self, **repositories: Repository) -> None:
        self.repositories = {name.replace("__", "/"): r for name, r in repositories.items()}
        self.busy: Counter[str] = Counter()
        self.stall = ""
        self.stalled = asyncio.Event()
        self.reached: Callable[[], object] = lambda: None
        self.gets: list[tuple[str, str]] = []
        """File names and Range headers of the requests."""
        self._ended = asyncio.Event()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        application = web.Application()
        application.add_routes(
            [
                web.get("/api/models/{owner}/{name}", self._info),
                web.get("/api/models/{owner}/{name}/revision/{revision}", self._info),
                web.get("/api/models/{owner}/{name}/tree/{revision}", self._tree),
                web.get("/{owner}/{name}/resolve/{revision}/{file:.+}", self._file),
            ]
        )
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            self._ended.set()
            await runner.cleanup()

    def _repository(self, request: web.Request) -> tuple[str, Repository]:
        name = f"{request.match_info['owner']}/{request.match_info['name']}"
        repository = self.repositories.get(name)
        if repository is None:
            raise web.HTTPNotFound(headers={"X-Error-Code": "RepoNotFound"})
        revision = request.match_info.get("revision", "main")
        if revision not in (COMMIT, "main", "v1"):
            raise web.HTTPNotFound(headers={"X-Error-Code": "RevisionNotFound"})
        return name, repository

    async def _info(self, request: web.Request) -> web.Response:
        name, repository = self._repository(request)
        return web.json_response(
            {"id": name, "sha": repository.sha, "siblings": _siblings(repository)}
        )

    async def _tree(self, request: web.Request) -> web.Response:
        _, repository = self._repository(request)
        return web.json_response(
            [
                {"type": "file", "path": path, "size": len(data), "oid": _sha256(data)}
                for path, data in repository.files.items()
            ]
        )

    async def _file(self, request: web.Request) -> web.StreamResponse:
        _, repository = self._repository(request)
        name = request.match_info["file"]
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if repository.token and given != repository.token:
            raise web.HTTPUnauthorized(headers={"X-Error-Code": "GatedRepo"})
        if name not in repository.files:
            raise web.HTTPNotFound(headers={"X-Error-Code": "EntryNotFound"})
        if self.busy[name] > 0:
            self.busy[name] -= 1
            raise web.HTTPServiceUnavailable
        return await self._send(request, name, repository.files[name])

    async def _send(self, request: web.Request, name: str, data: bytes) -> web.StreamResponse:
        wanted = request.headers.get("Range", "")
        first = int(wanted.removeprefix("bytes=").partition("-")[0] or 0) if wanted else 0
        response = web.StreamResponse(
            status=206 if wanted else 200,
            headers={
                "ETag": f'"{_sha256(data)}"',
                "X-Repo-Commit": COMMIT,
                "X-Linked-Size": str(len(data)),
                "Accept-Ranges": "bytes",
                "Content-Length": str(len(data) - first),
                "Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}",
            },
        )
        await response.prepare(request)
        if request.method == "GET":
            self.gets.append((name, wanted))
            if name.endswith(".safetensors"):
                await asyncio.to_thread(self.reached)
            if name == self.stall:
                await response.write(data[first : len(data) // 2])
                self.stalled.set()
                await self._ended.wait()
            await response.write(data[first:])
        return response


def _siblings(repository: Repository) -> list[dict[str, Any]]:  # Any: JSON values
    return [
        {"rfilename": path, "size": len(data), **_checksum(repository, path, data)}
        for path, data in repository.files.items()
    ]


def _checksum(repository: Repository, path: str, data: bytes) -> dict[str, Any]:
    if path in repository.plain:
        return {"blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}
    return {"lfs": {"sha256": _sha256(data), "size": len(data), "pointerSize": 100}}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
