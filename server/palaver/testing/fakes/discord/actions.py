"""What people do with a bot's commands, buttons and select menus."""

from typing import Any

from palaver.testing.fakes.discord.commands import Commands
from palaver.testing.fakes.discord.components import (
    BUTTON,
    LINK,
    STRING_SELECT,
    iterate_components,
)
from palaver.testing.fakes.discord.endpoint import Endpoint
from palaver.testing.fakes.discord.interaction import (
    AUTOCOMPLETE,
    COMMAND,
    COMPONENT,
    DiscordInteraction,
)
from palaver.testing.fakes.discord.interactions import Interactions
from palaver.testing.fakes.discord.objects import (
    JSON,
    DiscordChannel,
    DiscordFile,
    DiscordMessage,
    DiscordUser,
)
from palaver.testing.fakes.discord.payloads import (
    attachment_payload,
    channel_payload,
    member_payload,
    user_payload,
)
from palaver.testing.fakes.discord.people import People

OptionValue = str | int | float | bool | DiscordUser | DiscordChannel | DiscordFile


class NotShown(AssertionError):
    """A person cannot press, choose or type what a test wants, since Discord does not show it."""


class Actions(People):
    """What people do with a bot's commands, buttons and menus. Each returns an interaction, whose
    `DiscordInteraction.status` tells what the person sees."""

    interactions: Interactions
    commands: Commands
    endpoint: Endpoint

    async def press(
        self, message: DiscordMessage, user: DiscordUser, button: str
    ) -> DiscordInteraction:
        """Press a button, given by its label or ``custom_id``."""
        component = find_component(message, user, BUTTON, button)
        return await self._use(message, user, component, {})

    async def choose(
        self, message: DiscordMessage, user: DiscordUser, menu: str, *values: str
    ) -> DiscordInteraction:
        """Choose in a select menu, given by its placeholder or ``custom_id``; options are given by
        their label or value."""
        component = find_component(message, user, STRING_SELECT, menu)
        chosen = [find_option(component, value) for value in values]
        if not component["min_values"] <= len(chosen) <= component["max_values"]:
            raise NotShown(f"{menu!r} does not take {len(chosen)} options")
        return await self._use(message, user, component, {"values": chosen})

    async def _use(
        self, message: DiscordMessage, user: DiscordUser, component: JSON, fields: JSON
    ) -> DiscordInteraction:
        data = {"custom_id": component["custom_id"], "component_type": component["type"]} | fields
        interaction = self.interactions.open(COMPONENT, user, message.channel, data, message)
        return await self._deliver(interaction)

    async def command(
        self, channel: DiscordChannel, user: DiscordUser, name: str, /, **options: OptionValue
    ) -> DiscordInteraction:
        """Use a slash command. ``name`` may name a command of a group: ``"group command"``."""
        data = self._command_data(channel, name, options)
        interaction = self.interactions.open(COMMAND, user, channel, data)
        return await self._deliver(interaction)

    async def complete(
        self, channel: DiscordChannel, user: DiscordUser, name: str, option: str, typed: str
    ) -> DiscordInteraction:
        """Type into an option with autocompletion; the interaction gets its ``choices``."""
        data = self._command_data(channel, name, {option: typed}, focused=option)
        interaction = self.interactions.open(AUTOCOMPLETE, user, channel, data)
        return await self._deliver(interaction)

    async def _deliver(self, interaction: DiscordInteraction) -> DiscordInteraction:
        """Send an interaction to the bot's endpoint, or else by the gateway."""
        if self.state.application.interactions_url:
            await self.endpoint.deliver(interaction)
        else:
            payload = self.interactions.payload(interaction)
            guild = interaction.channel.guild
            self.state.publish("INTERACTION_CREATE", payload, intent=0, guild=guild)
        return interaction

    def _command_data(
        self,
        channel: DiscordChannel,
        name: str,
        values: dict[str, OptionValue],
        focused: str = "",
    ) -> JSON:
        first, *path = name.split()
        command = self.commands.find(first, channel.guild)
        if command is None:
            raise NotShown(f"no command {first!r} is registered")
        resolved: dict[str, JSON] = {}
        inner = find_inner_commands(command, path)
        written = [
            {"name": option, "type": kind, "value": self._resolve(resolved, value, channel)}
            | ({"focused": True} if option == focused else {})
            for option, kind, value in match_options([command, *inner][-1], values, focused)
        ]
        for outer in reversed(inner):
            written = [{"name": outer["name"], "type": outer["type"], "options": written}]
        data = {name: command[name] for name in ("id", "type", "guild_id") if name in command}
        return data | {"name": first, "options": written, "resolved": resolved}

    def _resolve(
        self, resolved: dict[str, JSON], value: OptionValue, channel: DiscordChannel
    ) -> Any:
        """Return an option's value; people, channels and files are described in ``resolved``."""
        if isinstance(value, DiscordUser):
            resolved.setdefault("users", {})[str(value.id)] = user_payload(value)
            resolved.setdefault("members", {})[str(value.id)] = member_payload()
            return str(value.id)
        if isinstance(value, DiscordChannel):
            resolved.setdefault("channels", {})[str(value.id)] = channel_payload(value)
            return str(value.id)
        if isinstance(value, DiscordFile):
            attachment = self.state.store_file(channel, value)
            payload = attachment_payload(attachment)
            resolved.setdefault("attachments", {})[str(attachment.id)] = payload
            return str(attachment.id)
        return value


def find_inner_commands(command: JSON, path: list[str]) -> list[JSON]:
    """Return the groups and commands inside of a command that lead along a path of names."""
    inner: list[JSON] = []
    for name in path:
        options = [command, *inner][-1].get("options", [])
        inner += [option for option in options if option["name"] == name]
    if len(inner) < len(path):
        raise NotShown(f"{command['name']!r} has no command {' '.join(path)!r}")
    return inner


def match_options(
    command: JSON, values: dict[str, OptionValue], focused: str
) -> list[tuple[str, int, OptionValue]]:
    """Return name, type and value of each option; a command is used with all required ones."""
    known = {option["name"]: option for option in command.get("options", [])}
    required = {name for name, option in known.items() if option["required"] and not focused}
    if required - values.keys() or values.keys() - known.keys():
        raise NotShown(f"{command['name']!r} has the options {sorted(known)}, not {values}")
    return [(name, known[name]["type"], value) for name, value in values.items()]


def find_component(message: DiscordMessage, user: DiscordUser, kind: int, name: str) -> JSON:
    """Return a component that the person sees and can use."""
    if message.is_deleted or message.visible_to not in (None, user):
        raise NotShown(f"{user.name} does not see the message")
    shown = [c for c in iterate_components(message.components) if c["type"] == kind]
    for component in shown:
        labels = component.get("label"), component.get("placeholder"), component.get("custom_id")
        if name in labels:
            break
    else:
        raise NotShown(f"{name!r} is not among {shown}")
    if component["disabled"] or component.get("style") == LINK:
        raise NotShown(f"{name!r} is disabled, or a link")
    return component


def find_option(menu: JSON, name: str) -> str:
    for option in menu["options"]:
        if name in (option["label"], option["value"]):
            return str(option["value"])
    raise NotShown(f"{name!r} is not among {menu['options']}")
