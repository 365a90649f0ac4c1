"""Responses: each is a turn of a conversation that the server keeps.

A response of its own is a conversation of its own, so that it stays as it is whatever follows it;
one that follows another gets the whole conversation before it. Only the answer to a question of a
skill goes into the conversation of the question, where the skill waits. A ``conversation`` has its
responses one after the other.
"""

import asyncio
import contextlib
from collections.abc import Iterable

import msgspec
from aiohttp import web

from palaver import (
    Conflict,
    Conversation,
    ConversationService,
    Message,
    Principal,
    ProgramRequest,
    SentMessage,
    described,
    new_id,
    requires,
)
from palaver_plugins.channels.openai_api.chat import (
    KEY,
    REPEATABLE_SECONDS,
    UNREPEATABLE_SECONDS,
)
from palaver_plugins.channels.openai_api.errors import (
    InvalidParameter,
    Json,
    KeyReused,
    NoSuchObject,
    error_response,
    json_response,
    problem_error,
)
from palaver_plugins.channels.openai_api.items import input_items, page_of
from palaver_plugins.channels.openai_api.models import Models
from palaver_plugins.channels.openai_api.operations import (
    CANCEL_RESPONSE,
    CREATE_RESPONSE,
    DELETE_RESPONSE,
    INPUT_ITEMS,
    RETRIEVE_RESPONSE,
)
from palaver_plugins.channels.openai_api.persons import hash_words, person_of
from palaver_plugins.channels.openai_api.response_ids import (
    ItemId,
    ResponseId,
    check_conversation_id,
)
from palaver_plugins.channels.openai_api.response_reading import ResponseFollower, ResponseReader
from palaver_plugins.channels.openai_api.response_request import (
    Input,
    Refusals,
    ResponseRequest,
    check_support,
    note_of,
    read_input,
    read_request,
)
from palaver_plugins.channels.openai_api.response_stream import ResponseStream, wait_for_end
from palaver_plugins.channels.openai_api.waiting_calls import (
    continue_waiting,
    results_at_end,
    with_call_prefix,
)
from palaver_plugins.channels.questions import answer_to

STORED_SECONDS = 30 * 86_400.0
"""Seconds for which a stored response is kept that belongs to no conversation, as with OpenAI."""

CANCEL_SECONDS = 10.0
"""Seconds for which a request to cancel waits for the end of the turn."""


class ResponsesHandler:
    """The routes of responses."""

    def __init__(self, models: Models, channel: str) -> None:
        self._models = models
        self._channel = channel

    @property
    def _service(self) -> ConversationService:
        return self._models.service

    def routes(self) -> Iterable[web.RouteDef]:
        one = "/v1/responses/{response}"
        return (
            web.post("/v1/responses", self._create),
            web.get(one, self._retrieve, allow_head=False),
            web.delete(one, self._delete),
            web.post(f"{one}/cancel", self._cancel),
            web.get(f"{one}/input_items", self._input_items, allow_head=False),
        )

    def _reader(self, request: web.Request) -> ResponseReader:
        principal = self._service.authenticate(request)
        return ResponseReader(self._service, principal.resolve_person(request.query.get("person")))

    def _id(self, request: web.Request) -> ResponseId:
        tenant = self._service.authenticate(request).tenant
        return ResponseId.parse(request.match_info["response"], tenant, self._channel)

    def _model_of(self, asked: str) -> "_ModelOf":
        return _ModelOf(self._models, asked)

    # Creating

    @requires("talk", error_response=error_response)
    @described(CREATE_RESPONSE)
    async def _create(self, request: web.Request) -> web.StreamResponse:
        principal = self._service.authenticate(request)
        raw = await request.read()
        body = read_request(raw)
        self._models.check(body.model)
        is_engine = self._models.is_engine(body.model)
        check_support(body, self._models.engine_of(body.model), is_engine=is_engine)
        self._models.check_tools(body.model, body.offered)
        reader = ResponseReader(self._service, person_of(principal, body.user))
        message = await self._message(request, principal, body, reader, msgspec.json.decode(raw))
        before = await self._service.latest(message.conversation)
        try:
            receipt = await self._service.accept(message)
        except Conflict as error:
            raise KeyReused from error
        id = ResponseId(message.conversation, receipt.turn)
        note = message.program.note if message.program else ""
        since = None if receipt.duplicate or receipt.joined else before
        async with reader.follow(id, note, self._model_of(body.model), since) as follower:
            return await self._respond(request, body, id, follower)

    async def _respond(
        self,
        request: web.Request,
        body: ResponseRequest,
        id: ResponseId,
        follower: ResponseFollower,
    ) -> web.StreamResponse:
        """Answer a request whose message is accepted. A response that is not stored ends with the
        connection, as nobody could read it later."""
        response: web.StreamResponse | None = None
        try:
            if body.stream:
                response = await ResponseStream(request, follower).write()
            elif body.background:
                response = json_response(follower.builder.response, request_id=id.turn)
            elif await wait_for_end(request, follower):
                response = self._whole(follower, id)
            else:
                response = web.Response(status=499)
        finally:
            if not follower.has_ended and not body.background and not body.is_stored:
                await self._service.stop(id.conversation, id.turn)
        return response

    def _whole(self, follower: ResponseFollower, id: ResponseId) -> web.StreamResponse:
        """Return the finished response. One that failed before its first word is an error; its
        message is stored, so that a client must not send it again."""
        builder = follower.builder
        if builder.problem is not None and not builder.response["output"]:
            error = problem_error(builder.problem)
            return error_response(error, should_retry=False)
        return json_response(builder.response, request_id=id.turn)

    async def _message(
        self,
        request: web.Request,
        principal: Principal,
        body: ResponseRequest,
        reader: ResponseReader,
        raw: Json,
    ) -> Message:
        """Return the message of a request. With an idempotency key, a repeated request makes the
        same one in the same conversation."""
        person = person_of(principal, body.user)
        key = request.headers.get(KEY)
        scope = (principal.name, person, body.user or "", "responses", key or "")
        id = hash_words(*scope) if key else new_id()
        thread, history = await self._place(principal, body, reader, id)
        references = await self._references(principal, body, reader)
        refusals = Refusals(
            self._models.blindness(body.model), self._models.file_refusal(body.model)
        )
        sent = read_input(body, references, refusals)
        is_engine = self._models.is_engine(body.model)
        message = Message(
            conversation=Conversation(principal.tenant, self._channel, thread),
            id=id,
            person=person,
            text=sent.text,
            attachments=sent.attachments,
            skill=self._models.skill_of(body.model),
            program=msgspec.structs.replace(
                _program(body, sent, history, note_of(body, raw), is_engine=is_engine),
                model=self._models.chosen(body.model),
            ),
        )
        if body.approval is not None:
            return await self._approve(message, body, reader)
        if body.conversation_id or is_engine:
            return message
        message = with_call_prefix(message)
        results = results_at_end(sent.messages)
        return await continue_waiting(reader, message, results, f"input[{len(body.input) - 1}]")

    async def _place(
        self, principal: Principal, body: ResponseRequest, reader: ResponseReader, id: str
    ) -> tuple[str, tuple[SentMessage, ...] | None]:
        """Return the thread of a request, and the conversation before it where the ledger does not
        have it there. Raises `InvalidParameter` and `NoSuchObject`."""
        if body.conversation_id:
            thread = check_conversation_id(body.conversation_id)
            await reader.check_member(Conversation(principal.tenant, self._channel, thread))
            return thread, None
        if not body.previous_response_id:
            return id, None
        previous = ResponseId.parse(body.previous_response_id, principal.tenant, self._channel)
        stored = await reader.find(previous)
        if stored.reply is None:
            raise InvalidParameter("previous_response_id", "the response has not ended yet")
        if stored.reply.outcome == "asked" and not previous.is_in_conversation:
            return previous.conversation.thread, None
        return id, await reader.transcript(previous)

    async def _approve(
        self, message: Message, body: ResponseRequest, reader: ResponseReader
    ) -> Message:
        """Return the message as the answer to the approval request that the input names."""
        param = f"input[{len(body.input) - 1}].approval_request_id"
        asked = body.approval.approval_request_id if body.approval else None
        id = ItemId.parse(asked or "", message.conversation.tenant, self._channel).response
        reply = (await reader.find(id)).reply
        if reply is None or not reply.question or not reply.question.approval:
            raise NoSuchObject("approval request", asked or "")
        named = body.conversation_id or id.conversation.thread
        if named != id.conversation.thread or body.previous_response_id not in (None, str(id)):
            raise InvalidParameter(param, "it belongs to another response")
        program = msgspec.structs.replace(message.program or ProgramRequest(), history=None)
        message = msgspec.structs.replace(
            message, conversation=id.conversation, program=program, skill=None
        )
        try:
            return await answer_to(self._service, with_call_prefix(message), id.turn)
        except Conflict as error:
            raise InvalidParameter(param, "this request has its answer already") from error

    async def _references(
        self, principal: Principal, body: ResponseRequest, reader: ResponseReader
    ) -> dict[str, SentMessage]:
        """Return the messages of the items that the input names."""
        items = () if isinstance(body.input, str) else body.input
        named = {item.id or "" for item in items if item.type == "item_reference"}
        return {
            id: await reader.item(ItemId.parse(id, principal.tenant, self._channel))
            for id in sorted(named)
        }

    # Stored responses

    @requires("talk", error_response=error_response)
    @described(RETRIEVE_RESPONSE)
    async def _retrieve(self, request: web.Request) -> web.StreamResponse:
        reader, id = self._reader(request), self._id(request)
        stored = await reader.find(id)
        model_of = self._model_of(stored.model)
        after = _read_number(request, "starting_after", -1)
        if request.query.get("stream", "false") not in ("true", "false"):
            raise InvalidParameter("stream", "expected true or false")
        if request.query.get("stream") != "true":
            builder = await reader.build(stored, model_of)
            return json_response(builder.response, request_id=id.turn)
        async with reader.follow(id, stored.note, model_of) as follower:
            if not follower.has_all(stored):
                raise InvalidParameter(
                    "stream", "the events of this response are no longer stored; leave it out"
                )
            return await ResponseStream(request, follower, after=after).write()

    @requires("erase", error_response=error_response)
    @described(DELETE_RESPONSE)
    async def _delete(self, request: web.Request) -> web.StreamResponse:
        principal, id = self._service.authenticate(request), self._id(request)
        person = principal.resolve_data_owner(request.query.get("person"))
        await ResponseReader(self._service, person).find(id)
        if id.is_in_conversation:
            raise InvalidParameter("response_id", "it belongs to a conversation; delete that")
        await self._service.erase(principal.tenant, person, id.conversation)
        return json_response({"id": str(id), "object": "response", "deleted": True})

    @requires("talk", error_response=error_response)
    @described(CANCEL_RESPONSE)
    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        reader, id = self._reader(request), self._id(request)
        stored = await reader.find(id)
        model_of = self._model_of(stored.model)
        async with reader.follow(id, stored.note, model_of) as follower:
            if not follower.builder.response["background"]:
                raise InvalidParameter("response_id", "only a background response can be cancelled")
            if stored.pending is not None:
                await self._service.stop(id.conversation, id.turn)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CANCEL_SECONDS):
                        await wait_for_end(request, follower)
        builder = await reader.build(await reader.find(id), model_of)
        return json_response(builder.response, request_id=id.turn)

    @requires("talk", error_response=error_response)
    @described(INPUT_ITEMS)
    async def _input_items(self, request: web.Request) -> web.StreamResponse:
        stored = await self._reader(request).find(self._id(request))
        return json_response(page_of(input_items(stored), request))


class _ModelOf:
    """Names the model that answers, for a request that asked for ``asked``."""

    def __init__(self, models: Models, asked: str) -> None:
        self._models = models
        self._asked = asked

    def __call__(self, skill: str) -> str:
        return self._models.name_of(skill, self._asked)


def _program(
    body: ResponseRequest,
    sent: Input,
    history: tuple[SentMessage, ...] | None,
    note: str,
    *,
    is_engine: bool,
) -> ProgramRequest:
    """Return what the request asks for."""
    offered = body.offered
    may_wait = bool(offered.tools) and not is_engine
    unstored = REPEATABLE_SECONDS if may_wait else UNREPEATABLE_SECONDS
    retention = STORED_SECONDS if body.is_stored else unstored
    messages, schema = sent.messages, body.schema()
    if history is not None and not messages:
        messages = (SentMessage("user", sent.text, sent.attachments),)
    return ProgramRequest(
        history=history,
        input=messages,
        instructions=body.instructions or "",
        note=note,
        tools=() if offered.choice == "none" else offered.tools,
        tool_choice="auto" if offered.choice == "none" else offered.choice,
        forced_tool=offered.forced,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        retention=None if body.conversation_id else retention,
        max_tokens=body.max_output_tokens,
        temperature=body.temperature,
        top_p=None if body.top_p is None else max(body.top_p, 1e-6),
        logprobs=(body.top_logprobs or 0) if body.has_logprobs else None,
        json_schema=None if offered.forces_call else schema,
    )


def _read_number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise InvalidParameter(name, "expected a number")
    return int(text)
