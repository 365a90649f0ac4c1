"""PinnedSource: the tools of all programs of the settings, those that an operator has approved."""

import abc
import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Generic, Protocol, TypeVar

from palaver import (
    Conflict,
    LedgerUnavailable,
    NotFound,
    OfferedTool,
    RecordStore,
    SchemaTool,
)
from palaver_plugins.tools.pinned.definition import Definition
from palaver_plugins.tools.pinned.pins import Pins

FIRST_DELAY, MAX_DELAY = 1.0, 60.0
"""Seconds before a lost program is connected again: doubled after every failure, and varied."""
PINS_INTERVAL = 5.0
"""Seconds between two looks at the pins, which another replica or a command may change."""

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What the programs of a source are: ``name`` of the source and of its commands, ``records``
    under which it keeps its records, ``noun`` for sentences, ``title`` with the protocol."""

    name: str
    records: str
    noun: str
    title: str


class Connection(Protocol):
    """A program with tools, which is reached in the background.

    ``definitions`` are the tools as they were read last, also while the program is away;
    ``problem`` is what is wrong with the connection, ``notes`` what is strange about the tools,
    ``description`` what the program is.
    """

    name: str
    definitions: tuple[Definition, ...]
    notes: tuple[str, ...]
    problem: str
    description: str

    async def run_forever(self) -> None:
        """Stay connected until it is cancelled."""

    async def connected(self) -> None:
        """Return after the present attempt to connect, or at once when there is a connection."""


ConnectionT = TypeVar("ConnectionT", bound=Connection)


@dataclasses.dataclass(slots=True)
class Program(Generic[ConnectionT]):
    """A program with the pins that were read last."""

    connection: ConnectionT
    pins: Pins
    approved: Mapping[str, str] = dataclasses.field(default_factory=dict)
    reported: frozenset[str] = frozenset()
    """The digests of tools that the log has named, since they need approval."""

    def state(self, definition: Definition) -> str:
        if definition.problem:
            return "unusable"
        approved = self.approved.get(definition.tool)
        if approved is None:
            return "new"
        return "ready" if approved == definition.digest else "changed"


class PinnedSource(abc.ABC, Generic[ConnectionT]):
    """`ToolSource` of programs that are named in the settings."""

    def __init__(
        self, kind: Kind, names: Iterable[str], *, pins_interval: float = PINS_INTERVAL
    ) -> None:
        self._kind = kind
        self._names = tuple(names)
        self._pins_interval = pins_interval
        self._programs: dict[str, Program[ConnectionT]] = {}
        self._tools: Mapping[str, SchemaTool] = MappingProxyType({})
        self._tasks: list[asyncio.Task[None]] = []

    @abc.abstractmethod
    def may_offer(self, name: str) -> bool:
        """See `ToolSource.may_offer`."""

    @abc.abstractmethod
    def make_connection(self, name: str, records: RecordStore | None) -> ConnectionT:
        """Return a connection to a program, which awaits `take_definitions` whenever it has read
        the tools. It keeps nothing without ``records``."""

    @abc.abstractmethod
    def make_tool(self, connection: ConnectionT, definition: Definition) -> SchemaTool:
        """Return a tool of a program."""

    async def start(self, records: RecordStore) -> None:
        for name in self._names:
            connection = self.make_connection(name, records)
            self._programs[name] = Program(connection, Pins(records, self._kind.records, name))
        self._tasks = [
            asyncio.create_task(program.connection.run_forever())
            for program in self._programs.values()
        ]
        self._tasks.append(asyncio.create_task(self._read_pins_forever()))

    async def take_definitions(self, name: str) -> None:
        """Use the tools of a program as its connection has read them."""
        if name in self._programs:
            with contextlib.suppress(LedgerUnavailable):
                await self._read_pins(self._programs[name])

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def connected(self) -> None:
        """Return when each program is connected, or an attempt has failed."""
        connections = (program.connection.connected() for program in self._programs.values())
        await asyncio.gather(*connections)

    # The pins

    async def _read_pins_forever(self) -> None:
        while True:
            await asyncio.sleep(self._pins_interval)
            for program in self._programs.values():
                with contextlib.suppress(LedgerUnavailable):
                    await self._read_pins(program)

    async def _read_pins(self, program: Program[ConnectionT]) -> None:
        program.approved = await program.pins.read()
        self._report(program)
        self._rebuild()

    def _report(self, program: Program[ConnectionT]) -> None:
        """Log once which tools need approval."""
        name, definitions = program.connection.name, program.connection.definitions
        for state, words in (("new", "are not approved"), ("changed", "have changed")):
            found = [each for each in definitions if program.state(each) == state]
            if {each.digest for each in found} - program.reported:
                tools = ", ".join(each.name for each in found[:10])
                log.warning(
                    "%d tools of the %s %s %s, so they are not used: %s%s; see: "
                    "palaver %s approve %s",
                    len(found), self._kind.title, name, words, tools,
                    ", …" if len(found) > 10 else "", self._kind.name, name,
                )  # fmt: skip
        program.reported |= {each.digest for each in definitions}

    def _rebuild(self) -> None:
        self._tools = MappingProxyType(
            {
                definition.name: self.make_tool(program.connection, definition)
                for program in self._programs.values()
                for definition in program.connection.definitions
                if program.state(definition) == "ready"
            }
        )

    # `ToolSource`

    @property
    def tools(self) -> Mapping[str, SchemaTool]:
        return self._tools

    @property
    def problems(self) -> Sequence[str]:
        return [
            sentence
            for program in self._programs.values()
            for sentence in self._problems_of(program)
        ]

    def offered(self) -> Sequence[OfferedTool]:
        return [
            OfferedTool(
                name=definition.name,
                description=definition.description,
                state=program.state(definition),  # type: ignore[arg-type]
                digest=definition.digest,
                problem=definition.problem,
            )
            for program in self._programs.values()
            for definition in program.connection.definitions
        ]

    async def approve(self, digests: Mapping[str, str]) -> None:
        wanted = dict(digests)
        chosen: list[tuple[Program[ConnectionT], dict[str, str]]] = []
        for program in self._programs.values():
            found = {d.name: d for d in program.connection.definitions if not d.problem}
            own = {}
            for name in wanted.keys() & found.keys():
                if wanted[name] != found[name].digest:
                    raise Conflict(f"the definition of {name!r} has changed; look at it again")
                own[found[name].tool] = wanted.pop(name)
            chosen.append((program, own))
        if wanted:
            raise NotFound(
                f"no {self._kind.title} offers {min(wanted)[:100]!r} now, or it is unusable"
            )
        for program, own in chosen:
            if own:
                await program.pins.approve(own)
                await self._read_pins(program)

    async def check(self) -> Sequence[str]:
        _, problems, _ = await self.inspect()
        return problems

    async def inspect(self) -> tuple[str, Sequence[str], Sequence[Definition]]:
        """Connect without starting; return what the programs are, what is wrong with them, and
        their tools."""
        found = [self.make_connection(name, None) for name in self._names]
        async with contextlib.AsyncExitStack() as stack:
            await asyncio.gather(
                *(stack.enter_async_context(connecting(connection)) for connection in found)
            )
            return (
                "; ".join(filter(None, (connection.description for connection in found))),
                [sentence for each in found for sentence in self._connection_problems(each)],
                [definition for each in found for definition in each.definitions],
            )

    def _problems_of(self, program: Program[ConnectionT]) -> list[str]:
        kind, connection = self._kind, program.connection
        problems = self._connection_problems(connection)
        states = [program.state(definition) for definition in connection.definitions]
        for state, words in (
            ("new", "not approved"),
            ("changed", "changed since they were approved"),
        ):
            if count := states.count(state):
                problems.append(
                    f"{count} tools of the {kind.noun} {connection.name!r} are {words}, so they "
                    f"are not used; see: palaver {kind.name} approve {connection.name}"
                )
        return problems

    def _connection_problems(self, connection: ConnectionT) -> list[str]:
        sentences = [connection.problem] if connection.problem else []
        sentences += connection.notes
        sentences += [
            f"{each.name}: {each.problem}" for each in connection.definitions if each.problem
        ]
        return [f"the {self._kind.noun} {connection.name!r}: {it}" for it in sentences]


@contextlib.asynccontextmanager
async def connecting(connection: Connection) -> AsyncGenerator[None, None]:
    """Hold a connection in the background while the block runs, after a first attempt."""
    running = asyncio.create_task(connection.run_forever())
    try:
        await connection.connected()
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
