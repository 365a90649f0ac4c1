"""Conversations, to which responses add one after the other.

An id is made by this server, and the conversation begins with the first response that names it.
"""

from collections.abc import Iterable

import msgspec
from aiohttp import web

from palaver import Conversation, ConversationService, HistoryEntry, described, requires
from palaver_plugins.channels.openai_api.errors import (
    Json,
    NoSuchObject,
    UnsupportedParameter,
    error_response,
    json_response,
)
from palaver_plugins.channels.openai_api.items import input_items, page_of
from palaver_plugins.channels.openai_api.models import Models
from palaver_plugins.channels.openai_api.operations import (
    CREATE_CONVERSATION,
    DELETE_CONVERSATION,
    LIST_ITEMS,
    RETRIEVE_CONVERSATION,
    RETRIEVE_ITEM,
)
from palaver_plugins.channels.openai_api.reading import ConversationRequest, decode_request
from palaver_plugins.channels.openai_api.response_ids import ResponseId, new_conversation_id
from palaver_plugins.channels.openai_api.response_reading import (
    ResponseReader,
    StoredResponse,
    history_output,
)

ID = "{conversation:conv_[0-9a-f]{32}}"
"""Only ids of this form: other paths are those of the server's own API."""


_decode = msgspec.json.Decoder(ConversationRequest).decode


class ConversationsHandler:
    """The routes of conversations."""

    def __init__(self, models: Models, channel: str) -> None:
        self._models = models
        self._channel = channel

    @property
    def _service(self) -> ConversationService:
        return self._models.service

    def routes(self) -> Iterable[web.RouteDef]:
        one = f"/v1/conversations/{ID}"
        return (
            web.post("/v1/conversations", self._create),
            web.get(one, self._retrieve, allow_head=False),
            web.delete(one, self._delete),
            web.get(f"{one}/items", self._list, allow_head=False),
            web.get(f"{one}/items/{{item}}", self._item, allow_head=False),
        )

    async def _open(self, request: web.Request) -> tuple[ResponseReader, Conversation, bool]:
        """Return the conversation of a request, and whether it has begun. Raises `NoSuchObject`."""
        principal = self._service.authenticate(request)
        reader = ResponseReader(
            self._service, principal.resolve_person(request.query.get("person"))
        )
        thread = request.match_info["conversation"]
        conversation = Conversation(principal.tenant, self._channel, thread)
        return reader, conversation, await reader.check_member(conversation)

    @requires("talk", error_response=error_response)
    @described(CREATE_CONVERSATION)
    async def _create(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        asked = decode_request(_decode, body) if body.strip() else ConversationRequest()
        for param, wanted in (("items", asked.items), ("metadata", asked.metadata)):
            if wanted:
                raise UnsupportedParameter(
                    param, "not supported here; send it with the first response"
                )
        return json_response(_object(new_conversation_id(), 0.0))

    @requires("talk", error_response=error_response)
    @described(RETRIEVE_CONVERSATION)
    async def _retrieve(self, request: web.Request) -> web.StreamResponse:
        reader, conversation, has_begun = await self._open(request)
        entries = await reader.entries(conversation) if has_begun else []
        return json_response(_object(conversation.thread, entries[0].at if entries else 0.0))

    @requires("erase", error_response=error_response)
    @described(DELETE_CONVERSATION)
    async def _delete(self, request: web.Request) -> web.StreamResponse:
        principal = self._service.authenticate(request)
        person = principal.resolve_data_owner(request.query.get("person"))
        _, conversation, _ = await self._open(request)
        await self._service.erase(principal.tenant, person, conversation)
        id = conversation.thread
        return json_response({"id": id, "object": "conversation.deleted", "deleted": True})

    @requires("talk", error_response=error_response)
    @described(LIST_ITEMS)
    async def _list(self, request: web.Request) -> web.StreamResponse:
        return json_response(page_of(await self._items(request), request))

    @requires("talk", error_response=error_response)
    @described(RETRIEVE_ITEM)
    async def _item(self, request: web.Request) -> web.StreamResponse:
        id = request.match_info["item"]
        item = next((each for each in await self._items(request) if each["id"] == id), None)
        if item is None:
            raise NoSuchObject("item", id)
        return json_response(item)

    async def _items(self, request: web.Request) -> list[Json]:
        reader, conversation, has_begun = await self._open(request)
        if not has_begun:
            return []
        items: list[Json] = []
        for stored in _responses(conversation, await reader.entries(conversation)):
            items += input_items(stored)
            items += history_output(stored)
        return items


def _responses(
    conversation: Conversation, entries: Iterable[HistoryEntry]
) -> Iterable[StoredResponse]:
    """Yield the responses of a history."""
    asked: HistoryEntry | None = None
    for entry in entries:
        if entry.role == "user":
            asked = entry
        elif asked is not None:
            yield StoredResponse(ResponseId(conversation, entry.turn), asked, entry)
            asked = None


def _object(id: str, created_at: float) -> Json:
    return {"id": id, "object": "conversation", "created_at": int(created_at), "metadata": {}}
