"""Everything that a fake Slack knows."""

import itertools
import random
from collections.abc import Iterator

from palaver.testing.fakes.clock import FakeClock
from palaver.testing.fakes.slack.objects import (
    App,
    Channel,
    Grant,
    Installation,
    Json,
    Session,
    SharedFile,
    Thread,
    ThreadStatus,
    Token,
    Upload,
    User,
    Workspace,
)
from palaver.testing.fakes.slack.tasks import Changes


class World:
    """Everything that a fake Slack knows, and its source of ids, ``ts`` and random choices."""

    def __init__(self, clock: FakeClock, seed: int) -> None:
        self.clock = clock
        self.random = random.Random(seed)
        self.workspaces: dict[str, Workspace] = {}
        self.users: dict[str, User] = {}
        self.channels: dict[str, Channel] = {}
        self.files: dict[str, SharedFile] = {}
        self.apps: dict[str, App] = {}
        self.tokens: dict[str, Token] = {}
        self.installations: list[Installation] = []
        self.grants: dict[str, Grant] = {}
        """By code."""
        self.refresh_tokens: dict[str, Token] = {}
        self.tickets: dict[str, float] = {}
        """When each ticket of a websocket expires."""
        self.uploads: dict[str, Upload] = {}
        self.statuses: dict[Thread, ThreadStatus] = {}
        self.sessions: dict[Thread, Session] = {}
        self.titles: dict[Thread, str] = {}
        self.prompts: dict[Thread, list[dict[str, str]]] = {}
        self.homes: dict[str, Json] = {}
        """The App Home's view, by user."""
        self.violations: list[str] = []
        self.changes = Changes()
        self._numbers: dict[str, Iterator[int]] = {}
        self._last_ts = 0

    def new_id(self, prefix: str) -> str:
        number = next(self._numbers.setdefault(prefix, itertools.count(1)))
        return f"{prefix}{number:010d}"

    def new_ts(self) -> str:
        """Return a ts above every earlier one."""
        self._last_ts = max(self._last_ts + 1, int(self.clock.now() * 1_000_000))
        return f"{self._last_ts // 1_000_000}.{self._last_ts % 1_000_000:06d}"

    def installation(self, app: str, team: str) -> Installation | None:
        """Return how an app is installed in a workspace: there, or in its whole organization."""
        enterprise = self.workspaces[team].enterprise
        return next(
            (
                each
                for each in self.installations
                if each.app == app
                and (each.team == team or (each.is_org_wide and each.enterprise == enterprise))
            ),
            None,
        )

    def remove_installation(self, installation: Installation) -> None:
        self.installations.remove(installation)
        for token in self.tokens.values():
            if (token.app, token.user) == (installation.app, installation.user):
                token.error = token.error or "account_inactive"
        for channel in self.channels.values():
            channel.members.discard(installation.user)

    def violate(self, text: str) -> None:
        """Record what an app did against Slack's documentation."""
        self.violations.append(text)
        self.changes.notify()
