"""Commands: a slash command for each skill, and one that stops the running reply."""

import logging
import re
from collections.abc import Mapping
from typing import Any

import discord

from palaver_plugins.channels.discord.controls import shortened

STOP = "stop"
"""The command that stops the running turn."""
MAX_COMMANDS = 100
MAX_NAME = 32
MAX_DESCRIPTION = 100
TEXT = 3
"""Type of an option that is a text."""
GUILD, BOT_DIRECT = 0, 1
"""Where commands can be used: in servers, and in direct messages of the bot."""
_NOT_IN_NAMES = re.compile(r"[^\w-]")

Json = dict[str, Any]  # JSON values
log = logging.getLogger(__name__)


class Commands:
    """The slash commands of a server's skills, by name: Discord's names are short and lower case.

    ``descriptions`` are those of the skills, by name.
    """

    def __init__(self, descriptions: Mapping[str, str]) -> None:
        self._skills: dict[str, str] = {}
        self.payload: list[Json] = [_command(STOP, "Stop the reply that is being written")]
        for skill in sorted(descriptions)[: MAX_COMMANDS - 1]:
            name = self._free_name(skill)
            self._skills[name] = skill
            self.payload.append(_command(name, descriptions[skill], takes_text=True))

    def _free_name(self, skill: str) -> str:
        name = _NOT_IN_NAMES.sub("-", skill.lower())[:MAX_NAME]
        number = 1
        while name == STOP or name in self._skills:
            number += 1
            suffix = f"-{number}"
            name = name[: MAX_NAME - len(suffix)].removesuffix(f"-{number - 1}") + suffix
        return name

    def skill(self, command: str) -> str | None:
        """Return the skill of a command; None for an unknown one."""
        return self._skills.get(command)

    async def register(self, client: discord.Client) -> None:
        """Tell Discord about the commands, unless it knows them: it allows 200 new ones a day."""
        application = client.application_id
        assert application is not None, "known since the login"
        known = await client.http.get_global_commands(application)
        if sorted(map(_essence, known)) != sorted(map(_essence, self.payload)):
            await client.http.bulk_upsert_global_commands(application, self.payload)
            log.info("registered %d slash commands", len(self.payload))


def _command(name: str, description: str, *, takes_text: bool = False) -> Json:
    option = {"type": TEXT, "name": "text", "description": "What you want to say", "required": True}
    return {
        "type": 1,
        "name": name,
        "description": shortened(description, MAX_DESCRIPTION),
        "options": [option] if takes_text else [],
        "contexts": [GUILD, BOT_DIRECT],
    }


def _essence(command: Mapping[str, Any]) -> str:
    """Return what makes a command, of all that Discord stores of it."""
    options = [(option["type"], option["name"]) for option in command.get("options", [])]
    return repr((command["name"], command["description"], options))
