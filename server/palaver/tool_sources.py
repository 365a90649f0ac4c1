"""Tool sources: tools of other programs, which come and go while the server runs."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec
import pydantic

from palaver.config.wording import join_problems
from palaver.errors import InvalidInput
from palaver.records import RecordStore
from palaver.tools import Tool, ToolContext


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SchemaTool(Tool[..., Any]):
    """A tool whose arguments a JSON schema describes, such as one that another program has.

    ``function`` is a coroutine function of the arguments, as a mapping, and the `ToolContext`; it
    returns text. Only names and presence of the arguments are checked here: ``schema`` may come
    from strangers, and who has the tool checks the values.
    """

    schema: Mapping[str, Any]  # Any: a JSON Schema document
    arguments: type[pydantic.BaseModel] = pydantic.BaseModel

    @property
    def json_schema(self) -> dict[str, Any]:  # Any: a JSON Schema document
        return dict(self.schema)

    def validate(self, values: Mapping[str, Any]) -> dict[str, Any]:  # Any: JSON values
        known = self.schema.get("properties", {})
        problems = {
            str(name)[:60]: " is missing"
            for name in self.schema.get("required", ())
            if name not in values
        }
        if self.schema.get("additionalProperties") is False:
            problems |= {name[:60]: " is not known" for name in values if name not in known}
        if problems:
            raise InvalidInput(f"Tool {self.name!r}: {join_problems(problems)}")
        return dict(values)

    async def run(self, arguments: Mapping[str, Any], context: ToolContext) -> str:
        text: str = await self.function(arguments, context)
        return text


class OfferedTool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool that a source has found. Only one that is ``ready`` can be called.

    ``digest`` identifies its definition. ``new``: an operator has not approved it; ``changed``: its
    definition is not the one that an operator has approved; ``unusable``: it cannot be called, for
    the reason ``problem``.
    """

    name: str
    description: str
    state: Literal["ready", "new", "changed", "unusable"]
    digest: str
    problem: str = ""


class ToolSource(Protocol):
    """Tools that come and go while the server runs, such as those of other programs. Lives as long
    as the server."""

    @property
    def tools(self) -> Mapping[str, Tool]:
        """Return the tools that can be called now, by name."""

    @property
    def problems(self) -> Sequence[str]:
        """Return a sentence for each thing that is wrong now, such as a program that does not
        answer."""

    async def start(self, records: RecordStore) -> None:
        """Begin to look for tools, in the background: other programs must not delay the server.
        ``records`` are durable, and shared by the replicas."""

    async def close(self) -> None: ...

    async def check(self) -> Sequence[str]:
        """Return a sentence for each thing that keeps tools away. It asks the other programs,
        without starting the source."""

    def may_offer(self, name: str) -> bool:
        """Return whether a tool can have this name. It says so before it has found any."""

    def offered(self) -> Sequence[OfferedTool]:
        """Return the tools that the source has found, those that cannot be called included."""

    async def approve(self, digests: Mapping[str, str]) -> None:
        """Let tools be called, each with the definition of this digest, on every replica.

        Raises `NotFound` for a tool that the source does not offer, `Conflict` when it has another
        definition by now; then none is approved.
        """


class Tools(Mapping[str, Tool]):
    """The tools that can be called now, by name: those of plugins, then those of each source."""

    def __init__(self, tools: Mapping[str, Tool], sources: Sequence[ToolSource] = ()) -> None:
        self._tools = tools
        self._sources = sources

    def __getitem__(self, name: str) -> Tool:
        for tools in self._all():
            if name in tools:
                return tools[name]
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name for tools in self._all() for name in tools))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _all(self) -> Iterator[Mapping[str, Tool]]:
        yield self._tools
        yield from (source.tools for source in self._sources)
