"""Commands for the programs of a source: list, test and approve."""

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from palaver import (
    ConfigurationError,
    Console,
    Ledger,
    NotFound,
    PluginSettings,
    ask_server,
    echo,
    token_option,
    url_option,
)
from palaver_plugins.tools.pinned.definition import Definition
from palaver_plugins.tools.pinned.source import Kind, PinnedSource

T = TypeVar("T")
Json = Any  # JSON values
EXIT_UNREACHABLE = 69
"""EX_UNAVAILABLE of sysexits.h."""


def make_commands(
    kind: Kind,
    settings: type[PluginSettings],
    section: str,
    make_source: Callable[[Any], PinnedSource[Any]],
) -> click.Group:
    """Return the commands. ``section``: the field of ``settings`` with the programs by name."""
    programs = _Programs(kind, settings, section, make_source)
    title, noun = kind.title, kind.noun

    @click.group(
        kind.name,
        help=f"List and test {title}s; approve their tools.\n\n"
        "The commands ask the server that runs at the address of the settings, or at --url. When "
        f"none runs, they connect to the {title}s and open the ledger themselves.",
    )
    def commands() -> None: ...

    @commands.command(
        "list",
        help=f"List the tools of the {title}s, with the state of each.\n\n"
        "ready: it is used. new: approve it. changed: look at it and approve it again. unusable: "
        "its definition cannot be used.",
    )
    @url_option
    @token_option
    @click.pass_obj
    def list_tools(console: Console, url: str | None, token: str | None) -> None:
        programs.show_list(console, url, token)

    @commands.command(
        help=f"Connect to the {title} NAME and show its tools.\n\n"
        f"They are shown as a model gets them. The exit code is {EXIT_UNREACHABLE} when the {noun} "
        "cannot be reached.",
    )
    @click.argument("name")
    @click.pass_obj
    def test(console: Console, name: str) -> None:
        programs.test(console, name)

    @commands.command(
        help=f"Let the tools of the {title} NAME be used, as they are defined now.\n\n"
        "Without TOOL, all that are new or changed. Read the definitions before: a model follows "
        "them.",
    )
    @click.argument("name")
    @click.argument("tools", nargs=-1)
    @click.option("--yes", is_flag=True, help="Do not ask.")
    @url_option
    @token_option
    @click.pass_obj
    def approve(
        console: Console,
        name: str,
        tools: tuple[str, ...],
        yes: bool,
        url: str | None,
        token: str | None,
    ) -> None:
        settings = programs.settings_of(console, name)
        chosen = programs.choose(console, settings, name, tools, url, token)
        if not chosen:
            echo("There is nothing to approve.")
            return
        for definition in chosen:
            _show(definition)
        if not yes:
            click.confirm(f"Approve {len(chosen)}?", abort=True)
        digests = {each.name: each.digest for each in chosen}
        programs.approve(console, settings, url, token, digests)
        echo(f"Approved {len(chosen)} tools of {name}.")

    return commands


def _choose(
    program: str, definitions: Sequence[Definition], tools: Sequence[str]
) -> list[Definition]:
    """Return the usable definitions with these names, here or at the program; all without names."""
    usable = [definition for definition in definitions if not definition.problem]
    for tool in tools:
        if not any(tool in (each.name, each.tool) for each in usable):
            raise NotFound(f"{program} offers no usable tool {tool!r}")
    return [each for each in usable if not tools or each.name in tools or each.tool in tools]


def _show_problems(problems: Sequence[str]) -> None:
    for problem in problems:
        echo(f"! {problem}")


def _show(definition: Definition) -> None:
    properties = [
        word
        for word, holds in (
            ("read-only", definition.read_only),
            ("idempotent", definition.idempotent),
            ("asks before each call", definition.needs_approval),
        )
        if holds
    ]
    echo()
    echo(f"{definition.name}" + (f" ({', '.join(properties)})" if properties else ""))
    if definition.problem:
        echo(f"  unusable: {definition.problem}")
        return
    echo(f"  {definition.description}")
    echo(f"  {json.dumps(definition.schema, ensure_ascii=False)}")


@dataclasses.dataclass(frozen=True, slots=True)
class _Programs:
    """Where the commands have the programs and their state from."""

    kind: Kind
    model: type[PluginSettings]
    section: str
    make_source: Callable[[Any], PinnedSource[Any]]

    def settings_of(self, console: Console, name: str) -> PluginSettings:
        """Return the settings with one program alone. Raises `NotFound`."""
        settings = self._all_settings(console)
        programs = getattr(settings, self.section)
        if name not in programs:
            known = ", ".join(sorted(programs)) or "none"
            raise NotFound(f"there is no {self.kind.title} {name!r}; the settings name: {known}")
        return settings.model_copy(update={self.section: {name: programs[name]}})

    def _all_settings(self, console: Console) -> PluginSettings:
        return console.plugin_settings("tool_sources", self.kind.name, self.model)

    def show_list(self, console: Console, url: str | None, token: str | None) -> None:
        source = self.read(console, url, token)
        for tool in source["tools"]:
            echo(f"{tool['state']:<9} {tool['name']}  {tool['problem'] or tool['description']}")
        _show_problems(source["problems"])
        if not source["tools"] and not source["problems"]:
            echo(f"No {self.kind.title} is configured.")

    def test(self, console: Console, name: str) -> None:
        description, problems, definitions = self.inspect(self.settings_of(console, name))
        _show_problems(problems)
        if not description:
            raise SystemExit(EXIT_UNREACHABLE)
        echo(f"{name}: {description}")
        for definition in definitions:
            _show(definition)

    def choose(
        self,
        console: Console,
        settings: PluginSettings,
        name: str,
        tools: Sequence[str],
        url: str | None,
        token: str | None,
    ) -> list[Definition]:
        """Return the definitions to approve: those of ``tools``, or all that are not ready."""
        _, problems, definitions = self.inspect(settings)
        _show_problems(problems)
        chosen = _choose(f"the {self.kind.title} {name!r}", definitions, tools)
        if not tools:
            listed = self.read(console, url, token)["tools"]
            ready = {tool["name"] for tool in listed if tool["state"] == "ready"}
            chosen = [each for each in chosen if each.name not in ready]
        return chosen

    def inspect(self, settings: PluginSettings) -> tuple[str, Sequence[str], Sequence[Definition]]:
        """Return what a program is, what is wrong with it, and its tools."""

        async def run() -> tuple[str, Sequence[str], Sequence[Definition]]:
            return await self.make_source(settings).inspect()

        return asyncio.run(run())

    def read(self, console: Console, url: str | None, token: str | None) -> Json:
        """Return the state of the source, as the HTTP API has it."""
        name, address = self.kind.name, url or console.find_server()
        if address:
            asking = ask_server("GET", f"{address.rstrip('/')}/v1/tool-sources", token=token)
            for source in asyncio.run(asking)["sources"]:
                if source["name"] == name:
                    return source
            raise ConfigurationError(
                f"tool_sources.enabled of the server that runs has no {name!r}"
            )

        async def read(source: PinnedSource[Any]) -> Json:
            tools = [
                {"name": t.name, "state": t.state, "description": t.description}
                | {"problem": t.problem}
                for t in source.offered()
            ]
            return {"tools": tools, "problems": source.problems}

        return self._run_source(console, self._all_settings(console), read)

    def approve(
        self,
        console: Console,
        settings: PluginSettings,
        url: str | None,
        token: str | None,
        digests: Mapping[str, str],
    ) -> None:
        """Approve definitions, at the server that runs or in the ledger."""
        address = url or console.find_server()
        if address:
            path = f"{address.rstrip('/')}/v1/tool-sources/{self.kind.name}/approvals"
            asyncio.run(ask_server("POST", path, token=token, body={"digests": digests}))
            return
        self._run_source(console, settings, lambda source: source.approve(digests))

    def _run_source(
        self,
        console: Console,
        settings: PluginSettings,
        use: Callable[[PinnedSource[Any]], Awaitable[T]],
    ) -> T:
        """Run ``use`` with a source that has tried to connect, and return its result."""
        source = self.make_source(settings)

        async def run(ledger: Ledger) -> T:
            await source.start(ledger)
            try:
                await source.connected()
                return await use(source)
            finally:
                await source.close()

        return console.run_with_ledger(run)
