"""Files: ``files.*``, the upload URL, and downloads by ``url_private``."""

import dataclasses
import mimetypes

import msgspec
from aiohttp import web

from palaver.testing.fakes.slack.blocks import check_blocks
from palaver.testing.fakes.slack.chat import check_thread
from palaver.testing.fakes.slack.errors import SlackError, invalid
from palaver.testing.fakes.slack.limits import TIER_3, TIER_4
from palaver.testing.fakes.slack.methods import Arguments, Call, Method, Services
from palaver.testing.fakes.slack.objects import Channel, Json, Message, SharedFile, Upload
from palaver.testing.fakes.slack.world import World

UPLOAD_SECONDS = 3600.0
"""Seconds for which an upload URL is valid."""
_LOGIN_PAGE = "<!DOCTYPE html><html><head><title>Sign in to Slack</title></head></html>"


class GetUploadUrl(Arguments, kw_only=True):
    filename: str
    length: int
    alt_txt: str = ""
    snippet_type: str = ""


class UploadedFile(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    title: str = ""
    highlight_type: str = ""


class CompleteUpload(Arguments, kw_only=True):
    files: list[UploadedFile]
    channel_id: str = ""
    channels: str = ""
    initial_comment: str = ""
    thread_ts: str | None = None
    blocks: list[Json] | None = None


class FileInfo(Arguments, kw_only=True):
    file: str
    count: int = 0
    cursor: str = ""
    limit: int = 0
    page: int = 0


class DeleteFile(Arguments, kw_only=True):
    file: str


def media_type_of(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def get_upload_url(call: Call, arguments: GetUploadUrl) -> Json:
    if arguments.length <= 0:
        raise invalid("`length` must be greater than 0")
    file = SharedFile(
        id=call.world.new_id("F"),
        name=arguments.filename,
        media_type=media_type_of(arguments.filename),
        content=b"",
        user=call.token.user,
        team=call.token.team,
    )
    upload = Upload(
        file=file, length=arguments.length, expires_at=call.world.clock.now() + UPLOAD_SECONDS
    )
    call.world.uploads[file.id] = upload
    return {"upload_url": f"{call.services.url}/upload/v1/{file.id}", "file_id": file.id}


def complete_upload(call: Call, arguments: CompleteUpload) -> Json:
    channels = [call.open_channel(id) for id in _channel_ids(arguments)]
    check_blocks(arguments.blocks or ())
    threads = [check_thread(call, channel, arguments.thread_ts) for channel in channels]
    files = [_finish(call, uploaded) for uploaded in arguments.files]
    seconds = call.services.rules.file_seconds
    for channel, thread in zip(channels, threads, strict=True):
        share = _Share(call, arguments, channel, thread, files)
        if seconds > 0:
            call.world.clock.call_later(seconds, share.post)
        else:
            share.post()
    for file in files:
        file.ready_at = call.world.clock.now() + seconds
    return {"files": [{"id": file.id, "title": file.title} for file in files]}


def _channel_ids(arguments: CompleteUpload) -> list[str]:
    ids = [*arguments.channels.split(","), arguments.channel_id]
    return [id for id in ids if id]


def _finish(call: Call, uploaded: UploadedFile) -> SharedFile:
    upload = call.world.uploads.get(uploaded.id)
    if upload is None or upload.file.user != call.token.user or not upload.file.content:
        raise SlackError("file_not_found")
    del call.world.uploads[uploaded.id]
    upload.file.title = uploaded.title
    call.world.files[uploaded.id] = upload.file
    return upload.file


@dataclasses.dataclass(frozen=True, slots=True)
class _Share:
    """Posts uploaded files when Slack has processed them."""

    call: Call
    arguments: CompleteUpload
    channel: Channel
    thread: str
    files: list[SharedFile]

    def post(self) -> None:
        message = Message(
            ts=self.call.world.new_ts(),
            channel=self.channel.id,
            user=self.call.token.user,
            app=self.call.token.app,
            bot=self.call.token.bot,
            subtype="file_share",
            text=self.arguments.initial_comment,
            thread_ts=self.thread,
            blocks=list(self.arguments.blocks or ()),
            files=self.files,
        )
        self.channel.add(message)
        self.call.services.events.post(message)
        self.call.world.changes.notify()


def file_info(call: Call, arguments: FileInfo) -> Json:
    file = find_file(call.world, arguments.file)
    if file.ready_at > call.world.clock.now():
        return {"file": {"id": file.id, "name": file.name, "shares": {}}, "content": ""}
    return {"file": call.services.payloads.file(file) | {"shares": _shares(call.world, file)}}


def find_file(world: World, id: str) -> SharedFile:
    file = world.files.get(id)
    if file is None:
        raise SlackError("file_not_found")
    return file


def _shares(world: World, file: SharedFile) -> Json:
    """Return the messages with a file, by kind and id of their channels."""
    shares: dict[str, dict[str, list[Json]]] = {}
    for channel in world.channels.values():
        kind = "public" if channel.kind == "channel" else "private"
        for message in channel.messages.values():
            if file in message.files:
                found = shares.setdefault(kind, {}).setdefault(channel.id, [])
                found.append({"ts": message.ts, "thread_ts": message.thread_ts})
    return shares


def delete_file(call: Call, arguments: DeleteFile) -> Json:
    file = find_file(call.world, arguments.file)
    if file.user != call.token.user:
        raise SlackError("cant_delete_file")
    del call.world.files[file.id]
    return {}


class FileServer:
    """The URLs of files."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._world = services.world

    async def upload(self, request: web.Request) -> web.Response:
        """Receive the bytes of a file, as the body or as a form's only file."""
        upload = self._world.uploads.get(request.match_info["file"])
        if upload is None or upload.expires_at <= self._world.clock.now():
            return web.Response(status=404, text="unknown or expired upload URL")
        content = await _uploaded_bytes(request)
        if len(content) != upload.length:
            self._world.violate(f"an upload has {len(content)} bytes, not {upload.length}")
            return web.Response(status=400, text="the length is wrong")
        upload.file.content = content
        return web.Response(text=f"OK - {len(content)}")

    async def download(self, request: web.Request) -> web.Response:
        """Send a file to a token that may read it; to others, the login page with status 200."""
        file = self._world.files.get(request.match_info["file"].partition("-")[2])
        if file is None:
            return web.Response(status=404)
        if not self._may_read(request, file):
            return web.Response(text=_LOGIN_PAGE, content_type="text/html")
        return web.Response(body=file.content, content_type=file.media_type)

    def _may_read(self, request: web.Request, file: SharedFile) -> bool:
        value = request.headers.get("Authorization", "").removeprefix("Bearer ")
        token = self._world.tokens.get(value)
        if token is None or token.error or "files:read" not in token.scopes:
            return False
        return token.user == file.user or any(
            token.user in channel.members and file in message.files
            for channel in self._world.channels.values()
            for message in channel.messages.values()
        )


async def _uploaded_bytes(request: web.Request) -> bytes:
    if not request.content_type.startswith("multipart/"):
        return await request.read()
    for value in (await request.post()).values():
        if isinstance(value, web.FileField):
            return value.file.read()
    return b""


METHODS = (
    Method(
        name="files.getUploadURLExternal",
        arguments=GetUploadUrl,
        handler=get_upload_url,
        scopes=("files:write",),
        per_minute=TIER_4,
    ),
    Method(
        name="files.completeUploadExternal",
        arguments=CompleteUpload,
        handler=complete_upload,
        scopes=("files:write",),
        per_minute=TIER_4,
    ),
    Method(
        name="files.info",
        arguments=FileInfo,
        handler=file_info,
        scopes=("files:read",),
        per_minute=TIER_4,
    ),
    Method(
        name="files.delete",
        arguments=DeleteFile,
        handler=delete_file,
        scopes=("files:write",),
        per_minute=TIER_3,
    ),
)
