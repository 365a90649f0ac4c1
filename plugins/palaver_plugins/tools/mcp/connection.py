"""Connection: one session with a server, shared by all turns, and kept alive in the background."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import httpx2
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp.types import (
    CONNECTION_CLOSED,
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    Implementation,
    InputRequiredResult,
    PaginatedRequestParams,
    ToolListChangedNotification,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import TypeAdapter, ValidationError

from palaver import (
    FindAddresses,
    OutboundClient,
    OutcomeUnknown,
    PalaverError,
    RecordStore,
    ToolFailed,
    __version__,
    find_addresses_by_system,
)
from palaver_plugins.tools.mcp.auth import make_auth
from palaver_plugins.tools.mcp.definitions import read_definitions
from palaver_plugins.tools.mcp.http import UNSENT_CODE, OutboundTransport
from palaver_plugins.tools.mcp.settings import McpServerSettings
from palaver_plugins.tools.mcp.stdio import ServerProcess
from palaver_plugins.tools.pinned.definition import Definition
from palaver_plugins.tools.pinned.source import FIRST_DELAY, MAX_DELAY
from palaver_plugins.tools.pinned.texts import clean_line

MAX_PAGES = 100
MAX_ERROR_CHARACTERS = 2_000
MAX_INPUT_ROUNDS = 5
_SESSION_TERMINATED = "Session terminated"
_RESULT: TypeAdapter[CallToolResult | InputRequiredResult] = TypeAdapter(
    CallToolResult | InputRequiredResult
)

log = logging.getLogger(__name__)


class NotSent(Exception):
    """A call that the server has not got."""


class ServerConnection:
    """Connects to a server in the background, lists its tools and calls them.

    ``definitions`` are the tools as they were listed last, also while the server is away;
    ``problem`` is what is wrong with the connection, ``notes`` what is strange about the list.
    """

    def __init__(
        self,
        name: str,
        settings: McpServerSettings,
        records: RecordStore | None,
        *,
        on_list: Callable[[], Awaitable[None]],
        find_addresses: FindAddresses = find_addresses_by_system,
        first_delay: float = FIRST_DELAY,
    ) -> None:
        """``on_list`` is awaited after every list of the tools."""
        self.name = name
        self.definitions: tuple[Definition, ...] = ()
        self.notes: tuple[str, ...] = ()
        self.problem = "it is not connected yet"
        self.description = ""
        self._settings = settings
        self._records = records
        self._on_list = on_list
        self._find_addresses = find_addresses
        self._first_delay = first_delay
        self._client: Client | None = None
        self._unsent = ""
        self._is_lost = False
        self._is_stale = False
        self._was_connected = False
        self._wake = asyncio.Event()
        self._attempts: set[asyncio.Future[None]] = set()

    # The background

    async def run_forever(self) -> None:
        """Stay connected until it is cancelled."""
        try:
            await self._connect_forever()
        finally:
            self._settle_attempts()

    async def _connect_forever(self) -> None:
        delay = self._first_delay
        while True:
            self._was_connected = False
            try:
                await self._hold_session()
            except Exception as error:  # noqa: BLE001 - the barrier of a server
                self._note_failure(error)
            self._client = None
            if (task := asyncio.current_task()) and task.cancelling():
                raise asyncio.CancelledError  # the SDK has taken it for the end of its own task
            self._wake.clear()
            if self._was_connected:
                delay = self._first_delay
                self.problem = self.problem or "the connection was lost"
            else:
                self._settle_attempts()
            if not self._attempts:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay * random.uniform(0.5, 1.0)):
                        await self._wake.wait()
            delay = min(2 * delay, MAX_DELAY)

    async def connected(self) -> None:
        """Return after the present attempt to connect, or at once when the server is connected."""
        if self._client is None:
            attempt = asyncio.get_running_loop().create_future()
            self._attempts.add(attempt)
            self._wake.set()
            try:
                await attempt
            finally:
                self._attempts.discard(attempt)

    def _settle_attempts(self) -> None:
        for attempt in self._attempts:
            if not attempt.done():
                attempt.set_result(None)
        self._attempts.clear()

    def _note_failure(self, error: Exception) -> None:
        problem = _describe(error)
        if problem != self.problem:
            log.warning("the MCP server %s is not connected: %s", self.name, problem)
        self.problem = problem

    async def _hold_session(self) -> None:
        """Connect, and return when the session is lost."""
        self._is_lost = False
        ended = asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            process = ServerProcess(self._settings) if self._settings.command else None
            try:
                async with asyncio.timeout(self._settings.connect_timeout):
                    client = await self._open(stack, process, ended)
                    await self._list(client)
            except Exception as error:
                raise _ConnectError(self._explain(error, process)) from error
            if self.problem:
                log.info("the MCP server %s is connected", self.name)
            self._client, self.problem, self._was_connected = client, "", True
            self.description = _describe_server(client)
            self._settle_attempts()
            try:
                await self._watch(client, ended)
            finally:
                self._client = None
        if process and ended.is_set():
            self.problem = process.problem
            log.warning("the MCP server %s was lost: %s", self.name, self.problem)

    def _explain(self, error: Exception, process: ServerProcess | None) -> str:
        seconds = self._settings.connect_timeout
        if isinstance(error, TimeoutError):
            problem = f"it did not start and list its tools within {seconds:g} s"
        else:
            problem = (process and process.problem) or _describe(error)
        errors = process.errors if process else ""
        return f"{problem}; its standard error ends: {errors}" if errors else problem

    async def _open(
        self, stack: contextlib.AsyncExitStack, process: ServerProcess | None, ended: asyncio.Event
    ) -> Client:
        transport = process.connect(ended) if process else await self._open_http(stack)
        client = Client(
            transport,
            read_timeout_seconds=self._settings.connect_timeout,
            client_info=Implementation(name="palaver", version=__version__),
            message_handler=self._take_message,
            cache=None,
        )
        await stack.enter_async_context(client)
        return client

    async def _open_http(self, stack: contextlib.AsyncExitStack) -> Any:  # Any: a transport
        settings = self._settings
        outbound = await stack.enter_async_context(
            OutboundClient(
                allowed_networks=settings.allowed_networks,
                timeout=settings.connect_timeout,
                find_addresses=self._find_addresses,
            )
        )
        transport = OutboundTransport(
            outbound, max_bytes=settings.max_message_bytes, timeout=settings.max_timeout
        )
        self._unsent = transport.unsent
        http_client = await stack.enter_async_context(
            httpx2.AsyncClient(
                transport=transport,
                auth=await make_auth(self.name, settings, self._records),
                headers={"Accept-Encoding": "identity"},
                trust_env=False,
                timeout=None,  # the transport has its own
            )
        )
        return streamable_http_client(
            settings.url,
            http_client=http_client,
            max_sse_event_size=settings.max_message_bytes,
        )

    async def _take_message(self, message: Any) -> None:  # Any: all that the SDK hands over
        if isinstance(message, ToolListChangedNotification):
            self._list_again()

    def _list_again(self) -> None:
        """List the tools soon, also when that is said while they are listed."""
        self._is_stale = True
        self._wake.set()

    async def _watch(self, client: Client, ended: asyncio.Event) -> None:
        """List the tools now and then. Return when the session is lost."""
        ending = asyncio.create_task(ended.wait())
        listening = asyncio.create_task(self._listen(client))
        try:
            while not (self._is_lost or ended.is_set()):
                self._wake.clear()
                waking = asyncio.create_task(self._wake.wait())
                try:
                    await asyncio.wait(
                        {ending, waking},
                        timeout=0 if self._is_stale else self._settings.refresh,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                finally:
                    waking.cancel()
                if not (self._is_lost or ended.is_set()):
                    await asyncio.sleep(self._first_delay)  # it may say so all the time
                    async with asyncio.timeout(self._settings.connect_timeout):
                        await self._list(client)
        finally:
            ending.cancel()
            listening.cancel()
            await asyncio.gather(ending, listening, return_exceptions=True)

    async def _listen(self, client: Client) -> None:
        """Ask a server of the newer protocol to say when its tools change, if it can."""
        tools = client.server_capabilities.tools
        if client.protocol_version in MODERN_PROTOCOL_VERSIONS and tools and tools.list_changed:
            async with client.listen(tools_list_changed=True) as changes:
                async for _ in changes:
                    self._list_again()

    def _lose(self) -> None:
        """End the session, in which something has failed; another one begins."""
        self._is_lost = True
        self._client = None
        self._wake.set()

    # The tools

    async def _list(self, client: Client) -> None:
        self._is_stale = False
        listed: list[dict[str, Any]] = []
        notes: list[str] = []
        cursor, seen = None, set()
        for _ in range(MAX_PAGES):
            page = await client.session.list_tools(params=PaginatedRequestParams(cursor=cursor))
            listed += [
                tool.model_dump(by_alias=True, mode="json", exclude_none=True)
                for tool in page.tools[: self._settings.max_tools + 1]
            ]
            cursor = page.next_cursor
            if cursor is None or cursor in seen or len(listed) > self._settings.max_tools:
                break
            seen.add(cursor)
        if len(listed) > self._settings.max_tools:
            notes.append(f"it has more than {self._settings.max_tools} tools; the rest is left out")
        elif cursor is not None:
            notes.append("its list of tools does not end; what came until then is used")
        listed = listed[: self._settings.max_tools]
        self.definitions = read_definitions(self.name, self._settings, listed)
        missing = set(self._settings.tools) - {item["name"] for item in listed}
        notes += [f"it has no tool {tool!r}, which the settings name" for tool in sorted(missing)]
        self.notes = tuple(notes)
        await self._on_list()

    async def call(self, definition: Definition, arguments: dict[str, Any]) -> CallToolResult:
        """Return what the server answers, also when that is an error of the tool.

        A call that the server has not got, and one of an idempotent tool, is sent once more after
        a loss of the connection. Raises `ToolFailed`, and `OutcomeUnknown` when the call may have
        run.
        """
        try:
            return await self._try_call(definition, arguments)
        except NotSent:
            pass
        except OutcomeUnknown:
            if not definition.idempotent:
                raise
        try:
            return await self._try_call(definition, arguments)
        except NotSent as error:
            raise self._away() from error

    async def _try_call(self, definition: Definition, arguments: dict[str, Any]) -> CallToolResult:
        await self.connected()
        client = self._client
        if client is None:
            raise self._away()
        try:
            return await self._send(client, definition, arguments)
        except MCPError as error:
            raise self._translate(definition, error) from error
        except TimeoutError as error:
            self._list_again()  # that shows whether the server still answers
            raise OutcomeUnknown(
                f"the MCP server {self.name!r} did not answer a call of {definition.name!r} in "
                "time; it may have run"
            ) from error
        except (anyio.ClosedResourceError, anyio.BrokenResourceError) as error:
            self._lose()
            raise NotSent from error
        except ValidationError as error:
            raise ToolFailed(f"The MCP server {self.name!r} sent a malformed result.") from error

    async def _send(
        self, client: Client, definition: Definition, arguments: dict[str, Any]
    ) -> CallToolResult:
        loop, settings = asyncio.get_running_loop(), self._settings
        end = loop.time() + settings.max_timeout
        state: str | None = None
        async with asyncio.timeout(min(settings.timeout, settings.max_timeout)) as timeout:

            async def go_on(progress: float, total: float | None, message: str | None) -> None:
                if not timeout.expired():
                    timeout.reschedule(min(loop.time() + settings.timeout, end))

            for _ in range(MAX_INPUT_ROUNDS):
                # Not `Client.call_tool`: it runs the patterns of the server's output schema.
                result = await client.session.send_request(
                    CallToolRequest(
                        params=CallToolRequestParams(
                            name=definition.tool, arguments=arguments, request_state=state
                        )
                    ),
                    _RESULT,
                    request_read_timeout_seconds=2 * settings.max_timeout,
                    progress_callback=go_on,
                )
                if isinstance(result, CallToolResult):
                    return result
                if result.input_requests:
                    break
                state = result.request_state
        raise ToolFailed(f"The MCP server {self.name!r} asks for input, which it does not get.")

    def _translate(self, definition: Definition, error: MCPError) -> Exception:
        """Return the error for a call that the SDK reports as failed."""
        if error.code == UNSENT_CODE and error.error.data == self._unsent:
            self.problem = clean_line(error.message, MAX_ERROR_CHARACTERS)
            self._lose()
            return NotSent()
        if error.message == _SESSION_TERMINATED:  # the server does not know the session
            self._lose()
            return NotSent()
        if error.code == CONNECTION_CLOSED:
            self._lose()
            return OutcomeUnknown(
                f"the connection to the MCP server {self.name!r} was lost during a call of "
                f"{definition.name!r}; it may have run"
            )
        return ToolFailed(clean_line(error.message, MAX_ERROR_CHARACTERS) or "The tool failed.")

    def _away(self) -> ToolFailed:
        return ToolFailed(f"The MCP server {self.name!r} is not connected: {self.problem}")


class _ConnectError(Exception):
    """Why a session could not be opened."""


def _describe_server(client: Client) -> str:
    info = client.server_info
    named = clean_line(f"{info.name} {info.version}", 100) if info else "a server"
    return f"{named}, protocol {client.protocol_version}"


def _describe(error: BaseException) -> str:
    """Return a sentence for operators about the first cause of an error."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, OSError) and not isinstance(error, TimeoutError):
        return f"{error.filename or 'connection'}: {error.strerror or error}"
    if isinstance(error, ValidationError):  # its text quotes what was sent
        where = ".".join(map(str, error.errors(include_input=False)[0]["loc"]))
        return clean_line(f"it sent a malformed message: {where}", MAX_ERROR_CHARACTERS)
    text = error.message if isinstance(error, MCPError) else str(error)
    is_ours = isinstance(error, PalaverError | _ConnectError | MCPError)
    shown = text if is_ours else f"{type(error).__name__}: {text}"
    return clean_line(shown, MAX_ERROR_CHARACTERS)
