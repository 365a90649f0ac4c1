"""Places: the conversation and the person in Palaver of what happens in Slack."""

import dataclasses

from palaver.platforms import Source
from palaver_plugins.channels.slack.addresses import Thread, person_of
from palaver_plugins.channels.slack.installations import BotInstallations

SLACKBOT = "USLACKBOT"


@dataclasses.dataclass(frozen=True, slots=True)
class Places:
    """``is_agent`` as the setting ``agent``."""

    installations: BotInstallations
    is_agent: bool

    def source(
        self,
        team: str,
        channel: str,
        *,
        user: str,
        ts: str = "",
        thread_ts: str = "",
        is_bot: bool = False,
    ) -> Source:
        """Return who has done something and where. ``ts`` is that of the message, which begins a
        conversation when it is no reply in a thread; but direct messages go on in one, unless the
        app is an agent. Raises `InvalidInput`."""
        is_direct = channel.startswith("D")
        root = thread_ts or ("" if is_direct and not self.is_agent else ts)
        return Source(
            tenant=self.installations.tenant(team),
            thread=str(Thread(team, channel, root)),
            person=person_of(team, user),
            user=user,
            room=channel,
            is_direct=is_direct,
            is_bot=is_bot,
        )
