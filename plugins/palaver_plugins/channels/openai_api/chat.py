"""Chat Completions: each request is a conversation of its own, or the next message of a thread."""

import contextlib
import time
from collections.abc import Iterable

from aiohttp import web

from palaver import (
    Conflict,
    Conversation,
    ConversationService,
    Message,
    PalaverError,
    Principal,
    described,
    follow_reply,
    new_id,
    requires,
)
from palaver_plugins.channels.openai_api.chat_request import (
    ChatRequest,
    check_support,
    program_request,
    read_request,
)
from palaver_plugins.channels.openai_api.chat_response import Choice, Completion, Disconnected
from palaver_plugins.channels.openai_api.errors import (
    KeyReused,
    UnsupportedParameter,
    error_response,
)
from palaver_plugins.channels.openai_api.images import Images, read_images, refuse_images
from palaver_plugins.channels.openai_api.models import Models
from palaver_plugins.channels.openai_api.operations import COMPLETE
from palaver_plugins.channels.openai_api.persons import hash_words, person_of
from palaver_plugins.channels.openai_api.response_reading import ResponseReader
from palaver_plugins.channels.openai_api.waiting_calls import (
    bring_results,
    continue_waiting,
    results_at_end,
    with_call_prefix,
)

THREAD = "X-Palaver-Thread"
KEY = "Idempotency-Key"
REPEATABLE_SECONDS = 86_400.0
"""Seconds for which the reply to a request with an ``Idempotency-Key`` is kept: as long as a ledger
recognizes the id of a message. A skill waits as long for the results of a program's tools."""
UNREPEATABLE_SECONDS = 300.0
"""Seconds for which other replies are kept: long enough for a client that is slow to read."""

THREADS_TAKE_NO_IMAGES = (
    "a conversation that the server keeps takes no images here; send all messages, without "
    "X-Palaver-Thread"
)


class ChatHandler:
    """The route of Chat Completions."""

    def __init__(self, models: Models, channel: str) -> None:
        self._models = models
        self._channel = channel

    @property
    def _service(self) -> ConversationService:
        return self._models.service

    def routes(self) -> Iterable[web.RouteDef]:
        return (web.post("/v1/chat/completions", self._complete),)

    @requires("talk", error_response=error_response)
    @described(COMPLETE)
    async def _complete(self, request: web.Request) -> web.StreamResponse:
        principal = self._service.authenticate(request)
        body = read_request(await request.read())
        self._models.check(body.model)
        is_engine = self._models.is_engine(body.model)
        check_support(body, self._models.engine_of(body.model), is_engine=is_engine)
        self._models.check_tools(body.model, body.offered)
        images = self._images(request, body)
        messages = [
            await self._message(request, principal, body, images, at) for at in range(body.count)
        ]
        choices: list[Choice] = []
        async with contextlib.AsyncExitStack() as stack:
            try:
                for index, message in enumerate(messages):
                    reply = await stack.enter_async_context(follow_reply(self._service, message))
                    choices.append(
                        Choice(
                            index,
                            reply,
                            lambda skill: self._models.name_of(skill, body.model),
                            is_structured=body.is_structured,
                        )
                    )
                completion = Completion(request, body, choices, int(time.time()))
                response = await (completion.stream() if body.stream else completion.respond())
            except Disconnected:
                response = web.Response(status=499)
            except PalaverError as error:
                await self._stop_unread(request, messages, choices)
                if isinstance(error, Conflict):
                    raise KeyReused from error
                if _leaves_traces(request, choices):
                    return error_response(error, should_retry=False)
                raise
            await self._stop_unread(request, messages, choices)
            return response

    async def _stop_unread(
        self, request: web.Request, messages: Iterable[Message], choices: Iterable[Choice]
    ) -> None:
        """Stop the turns that have not ended, unless the client may ask for their replies again."""
        if request.headers.get(KEY):
            return
        for message, choice in zip(messages, choices, strict=False):
            if not choice.reply.is_finished:
                await self._service.stop(message.conversation, choice.reply.receipt.turn)

    def _images(self, request: web.Request, body: ChatRequest) -> Images:
        """Return the images of the request. Raises `InvalidParameter` where the model sees none:
        in an earlier message a word stands for them."""
        every, last = range(len(body.messages)), len(body.messages) - 1
        if problem := self._models.blindness(body.model):
            refuse_images(body, positions=[last], reason=problem)
            return {}
        if request.headers.get(THREAD):
            refuse_images(body, positions=[last], reason=THREADS_TAKE_NO_IMAGES)
            return {}
        checked = every if self._models.is_engine(body.model) else [body.answered]
        return read_images(body, positions=every, checked=checked)

    async def _message(
        self,
        request: web.Request,
        principal: Principal,
        body: ChatRequest,
        images: Images,
        number: int,
    ) -> Message:
        """Return the message for a choice. With an idempotency key, a repeated request makes the
        same one in the same conversation."""
        person = person_of(principal, body.user)
        thread = request.headers.get(THREAD)
        key = request.headers.get(KEY)
        id = new_id()
        if key:
            # In a conversation that the server keeps, the key alone is the message's id.
            scope = (principal.name, person, body.user or "", key, str(number))
            id = key if thread else hash_words(*scope)
        if thread and body.count > 1:
            raise UnsupportedParameter("n", "a conversation that the server keeps has one reply")
        is_engine = self._models.is_engine(body.model)
        may_wait = bool(body.offered.tools) and not is_engine
        retention = REPEATABLE_SECONDS if key or may_wait else UNREPEATABLE_SECONDS
        position = len(body.messages) - 1 if thread else body.answered
        attachments = images.get(position, ())
        message = Message(
            conversation=Conversation(principal.tenant, self._channel, thread or id),
            id=id,
            person=person,
            text=body.messages[position].text(without_images=bool(attachments)),
            attachments=attachments,
            skill=self._models.skill_of(body.model),
            program=program_request(
                body,
                is_engine=is_engine,
                model=self._models.chosen(body.model),
                has_thread=bool(thread),
                retention=None if thread else retention,
                number=number,
                images=images,
            ),
        )
        if is_engine:
            return message
        results = results_at_end([each.sent(()) for each in body.messages])
        if thread:
            return bring_results(message, results) if results else message
        reader = ResponseReader(self._service, person)
        param = f"messages[{len(body.messages) - 1}].tool_call_id"
        return await continue_waiting(reader, with_call_prefix(message), results, param)


def _leaves_traces(request: web.Request, choices: Iterable[Choice]) -> bool:
    """Return whether a request that failed must not be repeated as it is: its message stays in a
    conversation that the server keeps, or tools have been called."""
    has_run = [choice for choice in choices if choice.reply.has_events]
    is_kept = bool(request.headers.get(THREAD)) and not request.headers.get(KEY)
    return bool(has_run) and (is_kept or any(choice.reply.used_tools for choice in has_run))
