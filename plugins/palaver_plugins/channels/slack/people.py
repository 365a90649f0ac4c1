"""People: the names of Slack's users, for mentions in messages."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable

from palaver.platforms import PostingError
from palaver_plugins.channels.slack.api import Installations, call

MAX_NAMES = 10_000
NAME_SECONDS = 3600.0
"""Seconds for which a name is remembered."""
LOOKUP_SECONDS = 1.0
"""Seconds that looking up the names of a message may take: Slack waits for the answer."""
MAX_NAME_LENGTH = 80


class People:
    """Names of users by their ids."""

    def __init__(self, installations: Installations) -> None:
        self._installations = installations
        self._names: OrderedDict[tuple[str, str], tuple[str, float]] = OrderedDict()

    async def names(self, team: str, users: Iterable[str]) -> dict[str, str]:
        """Return the names of users; those that Slack does not tell in time are missing."""
        lookups = {user: asyncio.create_task(self._name(team, user)) for user in users}
        if lookups:
            _, late = await asyncio.wait(lookups.values(), timeout=LOOKUP_SECONDS)
            for lookup in late:
                lookup.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        return {
            user: lookup.result()
            for user, lookup in lookups.items()
            if not lookup.cancelled() and lookup.result()
        }

    async def _name(self, team: str, user: str) -> str:
        key, now = (team, user), time.monotonic()
        name, since = self._names.get(key, ("", now))
        if name and now - since < NAME_SECONDS:
            return name
        try:
            client = await self._installations.client(team)
            answer = await call(client.users_info(user=user))
        except PostingError:
            return name
        name = _name_of(answer["user"])
        self._names[key] = name, now
        self._names.move_to_end(key)
        while len(self._names) > MAX_NAMES:
            self._names.popitem(last=False)
        return name


def _name_of(user: dict[str, object]) -> str:
    profile = user.get("profile")
    named = profile if isinstance(profile, dict) else {}
    name = named.get("display_name") or named.get("real_name") or user.get("name")
    return " ".join(str(name or "").split())[:MAX_NAME_LENGTH]
