"""Recipients: who sees a reply while it is streamed."""

from collections import OrderedDict

from palaver_plugins.channels.slack.addresses import Thread, user_of
from palaver_plugins.channels.slack.api import Installations, call

MAX_TEAMS = 10_000


class Recipients:
    def __init__(self, installations: Installations) -> None:
        self._installations = installations
        self._teams: OrderedDict[str, str] = OrderedDict()
        """Workspaces of users of an organization."""

    async def of(self, thread: Thread, person: str) -> tuple[str, str] | tuple[None, None]:
        """Return the workspace and the user who see a stream. In direct messages it is clear, and
        some workspaces refuse to be told."""
        if thread.is_direct:
            return None, None
        team, user = user_of(person)
        if team.startswith("E"):
            team = await self._team(team, user)
        return team, user

    async def _team(self, organization: str, user: str) -> str:
        if user not in self._teams:
            client = await self._installations.client(organization)
            answer = await call(client.users_info(user=user))
            self._teams[user] = str(answer["user"]["team_id"])
            while len(self._teams) > MAX_TEAMS:
                self._teams.popitem(last=False)
        return self._teams[user]
