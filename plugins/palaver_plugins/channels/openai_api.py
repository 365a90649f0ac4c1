"""A channel for programs that use OpenAI's chat API: skills and the engine appear as models.

``POST /v1/chat/completions`` and ``GET /v1/models`` at the server's own address; enable it with
``channels.enabled = ["openai_api"]``. Clients use the server's own keys.

- ``model`` is a skill's name, ``auto`` for the router's choice, or the name of the engine's own
  model, which answers the messages as they are, with the request's own sampling parameters.
- The request's ``messages`` are the conversation: the skill answers the user's last message, and
  sees the others as its history. Each request is a conversation of its own, which is stored until
  its reply can no longer be asked for again.
- The header ``X-Palaver-Thread`` names a conversation that the server keeps instead; then only the
  last message counts. ``user`` names the person if the key has the right ``impersonate``; a key of
  one person ignores it.
- Images are ``data:`` URLs in the messages, for models that see them.
- ``Idempotency-Key``: a repeated request of the same key and ``user`` gets the reply of the first.
- A client that disconnects stops its turn, as with OpenAI, unless it may ask for the reply again.
  (Elsewhere in this server the turn continues.)
"""

import contextlib
import hashlib
import time
from collections.abc import Iterable

from aiohttp import web

from palaver import (
    Backend,
    BuildContext,
    Channel,
    Conflict,
    Conversation,
    ConversationService,
    EngineSkill,
    InvalidInput,
    Message,
    PalaverError,
    PluginSettings,
    Principal,
    check_name,
    described,
    follow_reply,
    hookimpl,
    new_id,
    requires,
)
from palaver_plugins.channels.openai_images import Images, read_images, refuse_images
from palaver_plugins.channels.openai_operations import COMPLETE, MODEL, MODELS
from palaver_plugins.channels.openai_request import (
    ChatRequest,
    UnsupportedParameter,
    check_support,
    program_request,
    read_request,
)
from palaver_plugins.channels.openai_response import (
    Choice,
    Completion,
    Disconnected,
    Json,
    NoSuchModel,
    error_response,
    json_response,
)

NAME = "openai_api"
AUTO = "auto"
REPEATABLE_SECONDS = 86_400.0
"""Seconds for which the reply to a request with an ``Idempotency-Key`` is kept: as long as a ledger
recognizes the id of a message."""
UNREPEATABLE_SECONDS = 300.0
"""Seconds for which other replies are kept: long enough for a client that is slow to read."""

THREADS_TAKE_NO_IMAGES = (
    "a conversation that the server keeps takes no images here; send all messages, without "
    "X-Palaver-Thread"
)

_requires_talk = requires("talk", error_response=error_response)


class KeyReused(Conflict):
    """The only conflict of a message here: its id is the request's own key."""

    def __init__(self) -> None:
        super().__init__("the Idempotency-Key was used with another request; choose a new one")


class Settings(PluginSettings):
    """No settings."""


class OpenAIChannel:
    """The routes. Turns are those of any other channel."""

    def __init__(self) -> None:
        self._service: ConversationService

    async def start(self, service: ConversationService) -> None:
        self._service = service

    async def close(self) -> None: ...

    def routes(self) -> Iterable[web.RouteDef]:
        return (
            web.post("/v1/chat/completions", self._complete),
            web.get("/v1/models", self._models, allow_head=False),
            web.get("/v1/models/{model:.+}", self._model, allow_head=False),
        )

    # Models

    @_requires_talk
    @described(MODELS)
    async def _models(self, request: web.Request) -> web.StreamResponse:
        data = [_model_card(name) for name in self._model_names()]
        return json_response({"object": "list", "data": data})

    @_requires_talk
    @described(MODEL)
    async def _model(self, request: web.Request) -> web.StreamResponse:
        model = request.match_info["model"]
        self._check_model(model)
        return json_response(_model_card(model))

    def _model_names(self) -> list[str]:
        names = [AUTO, *sorted(self._service.skills())]
        engine = self._service.engine_info.model
        return names if engine in names else [*names, engine]

    def _check_model(self, model: str) -> None:
        if model not in self._model_names():
            raise NoSuchModel(model)

    def _is_engine(self, model: str) -> bool:
        """Return whether the model is the engine's own; a skill of the same name comes first."""
        return model != AUTO and model not in self._service.skills()

    def _name_model(self, skill: str, asked: str) -> str:
        """Return the name of the model that answers; that which was asked while none is chosen."""
        return self._service.engine_info.model if skill == EngineSkill.name else skill or asked

    # Completions

    @_requires_talk
    @described(COMPLETE)
    async def _complete(self, request: web.Request) -> web.StreamResponse:
        principal = self._service.authenticate(request)
        body = read_request(await request.read())
        self._check_model(body.model)
        is_engine = self._is_engine(body.model)
        check_support(body, self._service.engine_info, is_engine=is_engine)
        images = self._images(request, body)
        messages = [self._message(request, principal, body, images, at) for at in range(body.count)]
        choices: list[Choice] = []
        async with contextlib.AsyncExitStack() as stack:
            try:
                for index, message in enumerate(messages):
                    reply = await stack.enter_async_context(follow_reply(self._service, message))
                    choices.append(
                        Choice(
                            index,
                            reply,
                            lambda skill: self._name_model(skill, body.model),
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
                raise
            await self._stop_unread(request, messages, choices)
            return response

    async def _stop_unread(
        self, request: web.Request, messages: Iterable[Message], choices: Iterable[Choice]
    ) -> None:
        """Stop the turns that have not ended, unless the client may ask for their replies again."""
        if request.headers.get("Idempotency-Key"):
            return
        for message, choice in zip(messages, choices, strict=False):
            if not choice.reply.is_finished:
                await self._service.stop(message.conversation, choice.reply.receipt.turn)

    def _images(self, request: web.Request, body: ChatRequest) -> Images:
        """Return the images of the request. Raises `InvalidParameter` where the model sees none:
        in an earlier message a word stands for them."""
        every, last = range(len(body.messages)), len(body.messages) - 1
        if problem := self._blindness(body.model):
            refuse_images(body, positions=[last], reason=problem)
            return {}
        if request.headers.get("X-Palaver-Thread"):
            refuse_images(body, positions=[last], reason=THREADS_TAKE_NO_IMAGES)
            return {}
        checked = every if self._is_engine(body.model) else [body.answered]
        return read_images(body, positions=every, checked=checked)

    def _blindness(self, model: str) -> str:
        """Return the reason why a model sees no images; empty when it does."""
        engine = self._service.engine_info
        if "vision" not in engine.capabilities:
            return f"the engine's model {engine.model!r} sees no images; send text"
        seeing = sorted(self._service.image_skills())
        if self._is_engine(model) or model in seeing or (model == AUTO and seeing):
            return ""
        return f"the model {model[:60]!r} sees no images; {', '.join([engine.model, *seeing])} do"

    def _message(
        self,
        request: web.Request,
        principal: Principal,
        body: ChatRequest,
        images: Images,
        number: int,
    ) -> Message:
        """Return the message for a choice. With an idempotency key, a repeated request makes the
        same one in the same conversation."""
        person = _person(principal, body.user)
        thread = request.headers.get("X-Palaver-Thread")
        key = request.headers.get("Idempotency-Key")
        id = new_id()
        if key:
            # In a conversation that the server keeps, the key alone is the message's id.
            scope = (principal.name, person, body.user or "", key, str(number))
            id = key if thread else _hash(*scope)
        if thread and body.count > 1:
            raise UnsupportedParameter("n", "a conversation that the server keeps has one reply")
        is_engine = self._is_engine(body.model)
        retention = REPEATABLE_SECONDS if key else UNREPEATABLE_SECONDS
        skill = EngineSkill.name if is_engine else body.model
        position = len(body.messages) - 1 if thread else body.answered
        attachments = images.get(position, ())
        return Message(
            conversation=Conversation(principal.tenant, NAME, thread or id),
            id=id,
            person=person,
            text=body.messages[position].text(without_images=bool(attachments)),
            attachments=attachments,
            skill=None if body.model == AUTO else skill,
            program=program_request(
                body,
                is_engine=is_engine,
                has_thread=bool(thread),
                retention=None if thread else retention,
                number=number,
                images=images,
            ),
        )


def _person(principal: Principal, user: str | None) -> str:
    if not user or (principal.person and "impersonate" not in principal.rights):
        return principal.resolve_person(None)
    try:
        check_name(user, "user")
    except InvalidInput:
        user = _hash(user)  # OpenAI accepts any text as a user
    return principal.resolve_person(user)


def _hash(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode(errors="surrogateescape")).hexdigest()[:32]


def _model_card(name: str) -> Json:
    return {"id": name, "object": "model", "created": 0, "owned_by": "palaver"}


def _build(settings: Settings, build_context: BuildContext) -> Channel:
    return OpenAIChannel()


@hookimpl
def palaver_register_channels() -> Iterable[Backend[Channel]]:
    return [Backend(name=NAME, settings=Settings, build=_build)]
