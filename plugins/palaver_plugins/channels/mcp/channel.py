"""McpChannel: the endpoint ``/mcp`` for clients of the Model Context Protocol."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from aiohttp import web
from mcp_types import INVALID_REQUEST, SERVER_INFO_META_KEY

from palaver import (
    ConversationService,
    ForeignHost,
    InvalidInput,
    MissingRight,
    Operation,
    PalaverError,
    Principal,
    TooLarge,
    Unauthenticated,
    __version__,
    described,
    public,
    requires,
)
from palaver_plugins.channels.mcp import operations
from palaver_plugins.channels.mcp.calls import Call, Calls
from palaver_plugins.channels.mcp.catalog import Catalog
from palaver_plugins.channels.mcp.clients import (
    TASKS,
    Client,
    check_media_types,
    is_modern,
    open_session,
    read_client,
    read_session,
)
from palaver_plugins.channels.mcp.documents import Documents
from palaver_plugins.channels.mcp.outcomes import Outcomes
from palaver_plugins.channels.mcp.protocol import (
    CALL,
    MODERN,
    SESSION_HEADER,
    SUPPORTED,
    ClientResponse,
    Json,
    Notification,
    Request,
    RpcError,
    accepted,
    check_params,
    convert_error,
    error_response,
    json_response,
    make_result,
    parse_message,
    response_body,
    unknown_method,
)
from palaver_plugins.channels.mcp.questions import Answer, read_answer
from palaver_plugins.channels.mcp.records import CallRecords
from palaver_plugins.channels.mcp.results import make_error_result
from palaver_plugins.channels.mcp.settings import PATH, Settings
from palaver_plugins.channels.mcp.streams import (
    QuestionToken,
    ResumableStream,
    SingleAnswer,
    StreamToken,
    split_event_id,
)
from palaver_plugins.channels.mcp.tasks import Tasks

INSTRUCTIONS = (
    "Each skill of this server is a tool that takes a message as 'text' and answers it. Calls with "
    "the same 'conversation' are one conversation."
)
Method = Callable[[Client, Request], Awaitable[Json]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class McpChannel:
    """The channel, see `palaver.Channel`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._service: ConversationService
        self._catalog: Catalog
        self._calls: Calls
        self._outcomes: Outcomes
        self._tasks: Tasks
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self, service: ConversationService) -> None:
        self._service = service
        self._catalog = Catalog(service, self._settings.tools)
        self._documents = Documents(service)
        self._records = CallRecords(service.records)
        self._calls = Calls(service, service.seals("mcp call"))
        self._outcomes = Outcomes(service, self._catalog, self._calls, self._records)
        self._tasks = Tasks(self._calls, self._outcomes)
        self._session_seals = service.seals("mcp session")
        self._stream_seals = service.seals("mcp stream")
        self._question_seals = service.seals("mcp question")
        self._sweeping = asyncio.create_task(self._records.sweep_forever(), name="mcp-sweep")

    async def close(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)

    # Routes

    def routes(self) -> Iterable[web.RouteDef]:
        post = self._protect(self._post, operations.POST)
        get = self._protect(self._get, operations.GET)
        routes = [web.post(PATH, post), web.get(PATH, get, allow_head=False)]
        if self._settings.authorization_servers:
            path = self._settings.metadata_path

            @public
            @described(operations.METADATA)
            async def metadata(request: web.Request) -> web.StreamResponse:
                return json_response(self._make_metadata())

            routes.append(web.get(path, metadata, allow_head=False))
        return routes

    def _protect(self, handler: Handler, operation: Operation) -> Handler:
        """Return the handler of a route for keys with the right ``talk``."""

        @requires("talk", error_response=self._refuse)
        @described(operation)
        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                self._check_host(request)
                return await handler(request)
            except RpcError as error:
                return error_response(error)

        return handle

    def _check_host(self, request: web.Request) -> None:
        """Refuse a request that names another host than the settings. Raises `RpcError`."""
        host = request.headers.get("Host", "").lower()
        if self._settings.url and host != self._settings.host:
            raise RpcError(
                INVALID_REQUEST,
                f"this endpoint is {self._settings.url}, not one of {host[:100]!r}; "
                "channels.mcp.url is its public address",
                status=421,
            )

    def _refuse(self, error: PalaverError) -> web.StreamResponse:
        """Return the response to a request that was refused before its message was read."""
        converted = convert_error(error)
        challenge = ["Bearer"]
        if isinstance(error, ForeignHost):
            converted.status = 421
        if isinstance(error, MissingRight):
            challenge.append(f'error="insufficient_scope", scope="{error.right}",')
        if self._settings.metadata_url:
            challenge.append(f'resource_metadata="{self._settings.metadata_url}"')
        if isinstance(error, Unauthenticated | MissingRight):
            converted.headers["WWW-Authenticate"] = " ".join(challenge).rstrip(",")
        return error_response(converted)

    def _make_metadata(self) -> Json:
        return {
            "resource": self._settings.url,
            "authorization_servers": list(self._settings.authorization_servers),
            "bearer_methods_supported": ["header"],
            "scopes_supported": ["talk", "read"],
        }

    # The era with sessions

    async def _get(self, request: web.Request) -> web.StreamResponse:
        """Go on with a stream; there is none that belongs to no call."""
        event_id = request.headers.get("Last-Event-ID")
        if not event_id:
            raise _not_allowed()
        client = read_session(request, self._principal(request), self._session_seals)
        sealed, offset = split_event_id(event_id)
        token = self._stream_seals.read(sealed, StreamToken)
        if token is None or token.session != client.session or not token.call.is_of(client):
            raise RpcError(INVALID_REQUEST, "there is no such stream", status=404)
        return await self._stream(request, client, token, after=offset)

    async def _post(self, request: web.Request) -> web.StreamResponse:
        _check_content_type(request)
        message = parse_message(await request.read())
        check_media_types(request, message)
        if is_modern(request, message):
            return await self._post_modern(request, message)
        if isinstance(message, Request) and message.method == "initialize":
            return self._initialize(request, message)
        client = read_session(request, self._principal(request), self._session_seals)
        if isinstance(message, Notification):
            return await self._notice(client, message)
        if isinstance(message, ClientResponse):
            return await self._take_response(client, message)
        try:
            check_params(message, client.version)
            if message.method == CALL:
                return await self._call(request, client, message)
            result = await self._answer(client, message)
        except (PalaverError, RpcError) as error:
            return _fail(message, error, is_modern=False)
        return json_response(response_body(message.id, result))

    def _initialize(self, request: web.Request, message: Request) -> web.StreamResponse:
        wanted = str(message.params.get("protocolVersion", ""))
        try:
            check_params(message, SUPPORTED[1])
        except RpcError as error:
            return _fail(message, error, is_modern=False)
        session = open_session(self._principal(request), message.params["capabilities"], wanted)
        result = {
            "protocolVersion": session.version,
            "capabilities": self._capabilities(),
            "serverInfo": _server_info(),
            "instructions": INSTRUCTIONS,
        }
        result = make_result(message.method, session.version, result)
        sealed = self._session_seals.seal(session)
        return json_response(response_body(message.id, result), headers={SESSION_HEADER: sealed})

    async def _notice(self, client: Client, message: Notification) -> web.StreamResponse:
        """Take a notification; only that of a cancelled request means something here."""
        id = message.params.get("requestId")
        if message.method == "notifications/cancelled" and isinstance(id, str | int):
            sealed = await self._records.find_call(client.session, id)
            if call := self._calls.read(sealed, client):
                await self._calls.stop(call)
        return accepted()

    async def _take_response(self, client: Client, message: ClientResponse) -> web.StreamResponse:
        """Take what a person did with a question that was asked in a stream."""
        sealed = message.id if isinstance(message.id, str) else ""
        token = self._question_seals.read(sealed, QuestionToken)
        if token is None or not token.call.is_of(client):
            raise RpcError(INVALID_REQUEST, "nothing was asked with this id", status=400)
        answer = Answer("cancel") if message.result is None else read_answer(message.result)
        if answer is None:
            raise RpcError(INVALID_REQUEST, "the result is no answer to the question", status=400)
        await self._outcomes.take_answer(token.call, token.number, answer)
        return accepted()

    async def _call(
        self, request: web.Request, client: Client, message: Request
    ) -> web.StreamResponse:
        try:
            call = await self._begin(client, message)
        except InvalidInput as error:
            result = make_result(CALL, client.version, make_error_result(error))
            return json_response(response_body(message.id, result))
        await self._records.note_call(client.session, message.id, self._calls.seal(call))
        token = StreamToken(call, message.id, message.progress_token, client.session)
        return await self._stream(request, client, token, after=-1)

    async def _stream(
        self, request: web.Request, client: Client, token: StreamToken, *, after: int
    ) -> web.StreamResponse:
        stream = ResumableStream(
            request,
            client,
            token,
            after=after,
            stream_seals=self._stream_seals,
            question_seals=self._question_seals,
        )
        response = await stream.run(self._calls, self._outcomes)
        if stream.has_ended:
            await self._records.forget_call(client.session, token.id)
        return response

    # The era without sessions

    async def _post_modern(
        self, request: web.Request, message: Request | Notification | ClientResponse
    ) -> web.StreamResponse:
        if isinstance(message, Notification):
            return accepted()  # a client cancels by closing the stream
        if isinstance(message, ClientResponse):
            raise RpcError(INVALID_REQUEST, "this version has no requests to clients", status=400)
        try:
            client = read_client(request, message, self._principal(request))
            if method := self._tasks.methods.get(message.method):
                return json_response(response_body(message.id, await method(client, message)))
            check_params(message, MODERN)
            if message.method == CALL:
                return await self._call_modern(request, client, message)
            result = await self._answer(client, message)
        except (PalaverError, RpcError) as error:
            return _fail(message, error, is_modern=True)
        return json_response(response_body(message.id, result))

    async def _call_modern(
        self, request: web.Request, client: Client, message: Request
    ) -> web.StreamResponse:
        state = message.params.get("requestState")
        if state is not None:
            call = await self._continue(client, message, state)
        else:
            try:
                call = await self._begin(client, message)
            except InvalidInput as error:
                result = make_result(CALL, MODERN, make_error_result(error))
                return json_response(response_body(message.id, result))
            if client.takes_tasks:
                return json_response(response_body(message.id, await self._tasks.create(call)))
        answer = SingleAnswer(request, message, client)
        return await answer.run(self._calls, self._outcomes, call)

    async def _continue(self, client: Client, message: Request, state: object) -> Call:
        """Take the answers that come with a repeated request. Raises `RpcError`."""
        found = self._outcomes.read_state(state, client, message.params["name"])
        if found is None:
            raise RpcError(INVALID_REQUEST, "'requestState' is not one of this call", status=400)
        await self._outcomes.take(found.call, found.number, message.params.get("inputResponses"))
        return found.call

    # Methods of both eras

    async def _begin(self, client: Client, message: Request) -> Call:
        action = self._catalog.action(message.params["name"])
        order = action.read(message.params.get("arguments") or {})
        return await self._calls.begin(client, action, order)

    async def _answer(self, client: Client, message: Request) -> Json:
        """Return the result of a request that is answered at once. Raises `RpcError`."""
        params = message.params
        match message.method:
            case "server/discover":
                result = self._discover()
            case "ping":
                result = {}
            case "tools/list":
                result = self._catalog.tools()
            case "prompts/list":
                result = self._catalog.prompts()
            case "prompts/get":
                result = self._catalog.prompt(params["name"])
            case "resources/templates/list" if self._settings.documents:
                result = {"resourceTemplates": []}
            case "resources/list" if self._settings.documents:
                client.principal.require("read")
                result = await self._documents.page(client.principal.tenant, params.get("cursor"))
            case "resources/read" if self._settings.documents:
                client.principal.require("read")
                result = await self._documents.read(
                    client.principal.tenant, params["uri"], is_modern=client.is_modern
                )
            case _:
                raise unknown_method(message.method)
        return make_result(message.method, client.version, result)

    def _discover(self) -> Json:
        return {
            "supportedVersions": list(SUPPORTED),
            "capabilities": {**self._capabilities(), "extensions": {TASKS: {}}},
            "instructions": INSTRUCTIONS,
            "_meta": {SERVER_INFO_META_KEY: _server_info()},
        }

    def _capabilities(self) -> Json:
        shown: Json = {"tools": {}, "prompts": {}}
        if self._settings.documents:
            shown["resources"] = {}
        return shown

    def _principal(self, request: web.Request) -> Principal:
        return self._service.authenticate(request)


def _server_info() -> Json:
    return {"name": "palaver", "title": "Palaver", "version": __version__}


def _check_content_type(request: web.Request) -> None:
    if request.content_type != "application/json":
        raise RpcError(
            INVALID_REQUEST, "the header 'Content-Type' must be application/json", status=415
        )


def _not_allowed() -> RpcError:
    error = RpcError(
        INVALID_REQUEST, "there is no stream beside those of calls: use POST", status=405
    )
    error.headers["Allow"] = "POST"
    return error


def _fail(
    message: Request, error: PalaverError | RpcError, *, is_modern: bool
) -> web.StreamResponse:
    """Return the response to a request that cannot be answered. Raises what the route answers."""
    if isinstance(error, MissingRight | TooLarge):
        raise error
    return error_response(convert_error(error), message.id, is_modern=is_modern)
