"""Application commands of a fake Discord: what a bot registers, and the routes for it."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from palaver.testing.fakes.discord.errors import Refusal, invalid_field
from palaver.testing.fakes.discord.forms import Command, CommandOption, parse_form
from palaver.testing.fakes.discord.limits import Window
from palaver.testing.fakes.discord.objects import JSON, DiscordGuild
from palaver.testing.fakes.discord.requests import Call
from palaver.testing.fakes.discord.rest import Answer, Route
from palaver.testing.fakes.discord.state import DiscordState

SLASH = 1
DAY = 86_400.0
MAX_COMMANDS = {1: 100, 2: 15, 3: 15}
"""How many commands of each type a scope may have."""


@dataclasses.dataclass(slots=True)
class Scope:
    """Commands of every place, or of one server: each by type and name."""

    guild_id: int | None
    creates: Window
    commands: dict[tuple[int, str], JSON] = dataclasses.field(default_factory=dict)


class Commands:
    """The registered commands. A command of a server hides one of every place with its name."""

    def __init__(self, state: DiscordState) -> None:
        self._state = state
        self._scopes: dict[int | None, Scope] = {}

    def routes(self) -> Iterator[Route]:
        for base in ("/applications/{application_id}", GUILD_BASE):
            everything, one = f"{base}/commands", f"{base}/commands/{{command_id}}"
            query = frozenset({"with_localizations"})
            yield Route(method="GET", path=everything, handler=self.read_all, query=query)
            yield Route(method="POST", path=everything, handler=self.upsert)
            yield Route(method="PUT", path=everything, handler=self.overwrite)
            yield Route(method="GET", path=one, handler=self.read)
            yield Route(method="PATCH", path=one, handler=self.edit)
            yield Route(method="DELETE", path=one, handler=self.delete)

    def find(self, name: str, guild: DiscordGuild | None) -> JSON | None:
        """Return the slash command that people see by this name."""
        scopes = [guild.id, None] if guild else [None]
        for guild_id in scopes:
            command = self._scope(guild_id).commands.get((SLASH, name))
            if command:
                return command
        return None

    def _scope(self, guild_id: int | None) -> Scope:
        creates = Window(self._state.limits.command_creates, DAY)
        return self._scopes.setdefault(guild_id, Scope(guild_id, creates))

    def _scope_of(self, call: Call) -> Scope:
        if call.id("application_id") != self._state.application.id:
            raise Refusal(10002)
        if "guild_id" not in call.ids:
            return self._scope(None)
        if call.id("guild_id") not in self._state.guilds:
            raise Refusal(50001)
        return self._scope(call.id("guild_id"))

    def read_all(self, call: Call) -> list[JSON]:
        return [*self._scope_of(call).commands.values()]

    def upsert(self, call: Call) -> Answer:
        """Create a command, or replace the one with its name."""
        scope = self._scope_of(call)
        form = call.form(Command)
        is_new = (form.type, form.name) not in scope.commands
        command = self._make(scope, form)
        scope.commands[form.type, form.name] = command
        check_count(scope.commands)
        return Answer(201 if is_new else 200, command)

    def overwrite(self, call: Call) -> list[JSON]:
        """Replace all commands of the scope."""
        scope = self._scope_of(call)
        if not isinstance(call.request.body, list):
            raise Refusal(50035)
        forms = [parse_form(Command, body) for body in call.request.body]
        keys = [(form.type, form.name) for form in forms]
        if len(set(keys)) < len(keys):
            text = "Application command names must be unique"
            raise invalid_field("name", "APPLICATION_COMMANDS_DUPLICATE_NAME", text)
        check_count(keys)
        scope.commands = {(f.type, f.name): self._make(scope, f) for f in forms}
        return [*scope.commands.values()]

    def _make(self, scope: Scope, form: Command) -> JSON:
        """Return a command, with the id of the one that it replaces."""
        check_options(form.options)
        earlier = scope.commands.get((form.type, form.name))
        if earlier is None and not scope.creates.take(self._state.clock.now()):
            raise Refusal(30034)
        command: JSON = {
            "id": earlier["id"] if earlier else str(self._state.new_id()),
            "application_id": str(self._state.application.id),
            "version": str(self._state.new_id()),
            "default_member_permissions": None,
            "dm_permission": True,
        }
        if scope.guild_id:
            command["guild_id"] = str(scope.guild_id)
        return command | form.model_dump(exclude_none=True, exclude={"id"})

    def _find(self, call: Call) -> tuple[Scope, tuple[int, str], JSON]:
        scope, wanted = self._scope_of(call), str(call.id("command_id"))
        for key, command in scope.commands.items():
            if command["id"] == wanted:
                return scope, key, command
        raise Refusal(10063)

    def read(self, call: Call) -> JSON:
        return self._find(call)[2]

    def edit(self, call: Call) -> JSON:
        scope, key, command = self._find(call)
        changes: dict[str, Any] = call.request.body or {}
        known = {name: command[name] for name in Command.model_fields if name in command}
        form = parse_form(Command, known | changes)
        del scope.commands[key]
        scope.commands[form.type, form.name] = command | form.model_dump(
            exclude_none=True, exclude={"id"}
        )
        return scope.commands[form.type, form.name]

    def delete(self, call: Call) -> None:
        scope, key, _ = self._find(call)
        del scope.commands[key]


GUILD_BASE = "/applications/{application_id}/guilds/{guild_id}"


def check_count(keys: Any) -> None:
    for kind, limit in MAX_COMMANDS.items():
        if sum(key[0] == kind for key in keys) > limit:
            raise Refusal(30032)


def check_options(options: list[CommandOption]) -> None:
    """Refuse options of the same name, and required ones after others."""
    names = [option.name for option in options]
    if len(set(names)) < len(names):
        text = "Option names must be unique"
        raise invalid_field("options", "APPLICATION_COMMAND_OPTIONS_NAME_UNIQUE", text)
    required = [option.required for option in options]
    if required != sorted(required, reverse=True):
        text = "Required options must be placed before non-required options"
        raise invalid_field("options", "APPLICATION_COMMAND_OPTIONS_REQUIRED_INVALID", text)
    for option in options:
        check_options(option.options or [])
