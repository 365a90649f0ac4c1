"""The HTTP API for a person's conversations: list, search, titles, deletion, export, shares."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from datetime import UTC, datetime

import msgspec
from aiohttp import web

from palaver.authentication import for_visitors, principal_of, public, requires
from palaver.channels import ConversationAccess
from palaver.conversations import MAX_LIST_ENTRIES, ConversationChange, ConversationFilter
from palaver.directory import FoundConversation, comparable
from palaver.errors import Forbidden, InvalidInput, NotFound
from palaver.ledger import HistoryEntry
from palaver.messages import check_id, encode
from palaver.openapi import described
from palaver.server import Server
from palaver.web import conversation_operations as operations
from palaver.web.bodies import (
    ConversationChangeRequest,
    ConversationEntry,
    ConversationListResponse,
    ConversationResponse,
    RevisionRequest,
    RevokedResponse,
    SelectRequest,
    ShareResponse,
    SharesResponse,
)
from palaver.web.conversation_operations import MAX_QUERY_LENGTH
from palaver.web.conversations import CHANNEL, open_conversation
from palaver.web.frames import make_snapshot
from palaver.web.requests import decode_body, parse_choice, parse_flag, parse_number
from palaver.web.responses import JSON_HEADERS, json_response

MARKDOWN = "text/markdown"
_decode_select = msgspec.json.Decoder(SelectRequest).decode
_decode_revision = msgspec.json.Decoder(RevisionRequest).decode
_decode_change = msgspec.json.Decoder(ConversationChangeRequest).decode


class ConversationHandler:
    """The routes of a person's conversations."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._ledger = server.ledger

    def routes(self) -> Iterable[web.RouteDef]:
        one = "/v1/conversations/{thread}"
        return (
            web.get("/v1/conversations", self._list, allow_head=False),
            web.patch(one, self._change),
            web.delete(one, self._delete),
            web.post(f"{one}/title", self._make_title),
            web.post(f"{one}/select", self._select),
            web.patch(f"{one}/turns/{{turn}}", self._revise),
            web.get(f"{one}/export", self._export, allow_head=False),
            web.get(f"{one}/shares", self._shares, allow_head=False),
            web.post(f"{one}/shares", self._share),
            web.delete(f"{one}/shares/{{share}}", self._revoke),
            web.get("/v1/shares/{share}", self._shared, allow_head=False),
        )

    async def _open(self, request: web.Request) -> ConversationAccess:
        """Return the access to the request's conversation. Raises `Forbidden`."""
        thread, person = request.match_info["thread"], request.query.get("person")
        return await open_conversation(self._server, principal_of(request), thread, person)

    # Lists

    @requires("read")
    @for_visitors
    @described(operations.LIST)
    async def _list(self, request: web.Request) -> web.StreamResponse:
        principal = principal_of(request)
        person = principal.resolve_data_owner(request.query.get("person"))
        selection = ConversationFilter(
            channel=CHANNEL,
            archived=parse_flag(request, "archived"),
            pinned=parse_flag(request, "pinned"),
        )
        before = request.query.get("before", "")
        limit = parse_number(request, "limit", default=50, highest=MAX_LIST_ENTRIES)
        if "q" in request.query:
            results = await self._server.directory.search(
                principal.tenant,
                person,
                selection,
                _query(request.query["q"]),
                before=before,
                limit=limit,
            )
            found, following = results.found, results.next
        else:
            part = await self._ledger.list_conversations(
                principal.tenant, person, selection, before=before, limit=limit
            )
            found = tuple(FoundConversation(summary=each) for each in part.conversations)
            following = part.next
        entries = tuple(ConversationEntry.of(each.summary, each.excerpt) for each in found)
        return json_response(ConversationListResponse(conversations=entries, next=following))

    # One conversation

    @requires("talk")
    @for_visitors
    @described(operations.CHANGE)
    async def _change(self, request: web.Request) -> web.StreamResponse:
        body = decode_body(_decode_change, await request.read())
        change = ConversationChange(title=body.title, pinned=body.pinned, archived=body.archived)
        access = await self._open(request)
        summary = await self._ledger.change_conversation(access.conversation, access.person, change)
        return json_response(ConversationEntry.of(summary))

    @requires("erase")
    @for_visitors
    @described(operations.DELETE)
    async def _delete(self, request: web.Request) -> web.StreamResponse:
        principal = principal_of(request)
        person = principal.resolve_data_owner(request.query.get("person"))
        access = await self._open(request)
        erasure = await self._server.erase(principal.tenant, person, access.conversation)
        if not erasure.conversations:
            raise NotFound(f"{person!r} has no conversation {access.conversation.thread[:60]!r}")
        return json_response(erasure)

    @requires("talk")
    @for_visitors
    @described(operations.MAKE_TITLE)
    async def _make_title(self, request: web.Request) -> web.StreamResponse:
        access = await self._open(request)
        summary = await self._server.directory.make_title(access.conversation, access.person)
        return json_response(ConversationEntry.of(summary))

    @requires("talk")
    @for_visitors
    @described(operations.SELECT)
    async def _select(self, request: web.Request) -> web.StreamResponse:
        body = decode_body(_decode_select, await request.read())
        access = await self._open(request)
        await access.select(body.turn)
        return await _snapshot_response(access)

    @requires("talk")
    @for_visitors
    @described(operations.REVISE)
    async def _revise(self, request: web.Request) -> web.StreamResponse:
        body = decode_body(_decode_revision, await request.read())
        access = await self._open(request)
        await access.revise(request.match_info["turn"], body.text)
        return await _snapshot_response(access)

    @requires("read")
    @for_visitors
    @described(operations.EXPORT)
    async def _export(self, request: web.Request) -> web.StreamResponse:
        form = parse_choice(request, "format", *_WRITERS) or "json"
        access = await self._open(request)
        summary = await self._ledger.change_conversation(
            access.conversation, access.person, ConversationChange()
        )
        media_type, extension, write = _WRITERS[form]
        response = web.StreamResponse(headers=JSON_HEADERS)
        response.content_type, response.charset = media_type, "utf-8"
        name = f"conversation.{extension}"
        response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
        parts = self._server.directory.read_history(access.conversation)
        await response.prepare(request)
        async for piece in write(summary.title, parts):
            await response.write(piece)
        await response.write_eof()
        return response

    # Shares

    @requires("read")
    @described(operations.SHARES)
    async def _shares(self, request: web.Request) -> web.StreamResponse:
        access = await self._open(request)
        shares = await self._ledger.shares(access.conversation)
        return json_response(
            SharesResponse(shares=tuple(ShareResponse.of(share) for share in shares))
        )

    @requires("talk")
    @described(operations.SHARE)
    async def _share(self, request: web.Request) -> web.StreamResponse:
        self._check_enabled()
        access = await self._open(request)
        share = await self._server.directory.share(access.conversation, access.person)
        return json_response(ShareResponse.of(share), 201)

    @requires("talk")
    @described(operations.REVOKE)
    async def _revoke(self, request: web.Request) -> web.StreamResponse:
        access = await self._open(request)
        share = request.match_info["share"]
        if not await self._ledger.revoke_share(access.conversation, share):
            raise NotFound(f"there is no share {share[:60]!r} of this conversation")
        return json_response(RevokedResponse(id=share))

    @public
    @described(operations.SHARED)
    async def _shared(self, request: web.Request) -> web.StreamResponse:
        self._server.authenticator.check_host(request)
        self._check_enabled()
        share = check_id(request.match_info["share"], "share")
        content = await self._ledger.shared_content(share) if share.isalnum() else None
        if content is None:
            raise NotFound("there is no such share; it may have been revoked")
        return web.Response(body=content, content_type="application/json", headers=JSON_HEADERS)

    def _check_enabled(self) -> None:
        if not self._server.settings.server.sharing:
            raise Forbidden("sharing is switched off here (server.sharing)")


async def _snapshot_response(access: ConversationAccess) -> web.StreamResponse:
    snapshot = await access.snapshot()
    return json_response(
        ConversationResponse(cursor=str(snapshot.cursor), snapshot=make_snapshot(snapshot))
    )


def _query(text: str) -> str:
    if not comparable(text) or len(text) > MAX_QUERY_LENGTH:
        raise InvalidInput(f"q={text[:40]!r}: expected 1 to {MAX_QUERY_LENGTH} characters")
    return text


HistoryParts = AsyncGenerator[tuple[HistoryEntry, ...], None]


async def _write_json(title: str, parts: HistoryParts) -> AsyncIterator[bytes]:
    yield b'{"title":%b,"messages":[' % encode(title)
    comma = b""
    async for entries in parts:
        if entries:
            yield comma + encode(entries)[1:-1]
            comma = b","
    yield b"]}"


async def _write_markdown(title: str, parts: HistoryParts) -> AsyncIterator[bytes]:
    yield f"# {title or 'Conversation'}\n".encode()
    async for entries in parts:
        yield "".join(map(_entry_as_markdown, entries)).encode()


def _entry_as_markdown(entry: HistoryEntry) -> str:
    at = datetime.fromtimestamp(entry.at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    author = entry.person if entry.role == "user" else entry.skill or "assistant"
    note = f" ({entry.outcome})" if entry.outcome in ("stopped", "failed") else ""
    text = "\n\n".join(filter(None, (entry.text, entry.problem.message if entry.problem else "")))
    sources = "".join(
        f"\n[{each.number}] {each.title}{f', {each.section}' if each.section else ''}"
        for each in entry.citations or ()
    )
    attached = "".join(f"\n[{each.name}]" for each in entry.attachments or ())
    after = sources + attached
    return f"\n**{author}**, {at}{note}\n\n{text}\n{after}" + ("\n" if after else "")


_Writer = Callable[[str, HistoryParts], AsyncIterator[bytes]]
_WRITERS: dict[str, tuple[str, str, _Writer]] = {
    "json": ("application/json", "json", _write_json),
    "markdown": (MARKDOWN, "md", _write_markdown),
}
