"""Adds workspaces, people, channels and apps to the fake Slack."""

from collections.abc import Sequence

from palaver.testing.fakes.slack.objects import (
    App,
    Channel,
    ChannelKind,
    Installation,
    Token,
    User,
    Workspace,
)
from palaver.testing.fakes.slack.world import World


class Directory:
    """Adds what a fake Slack contains; each method returns an id or the thing itself."""

    def __init__(self, world: World) -> None:
        self._world = world

    def add_workspace(self, name: str, *, enterprise: str = "") -> str:
        id = self._world.new_id("T")
        self._world.workspaces[id] = Workspace(id=id, name=name, enterprise=enterprise)
        return id

    def add_user(self, name: str, team: str) -> str:
        prefix = "W" if self._world.workspaces[team].enterprise else "U"
        id = self._world.new_id(prefix)
        self._world.users[id] = User(id=id, name=name, team=team)
        return id

    def add_channel(
        self, name: str, members: Sequence[str], *, team: str, kind: ChannelKind = "channel"
    ) -> str:
        prefix = {"channel": "C", "group": "G", "im": "D", "mpim": "G"}[kind]
        id = self._world.new_id(prefix)
        self._world.channels[id] = Channel(
            id=id, name=name, kind=kind, team=team, members=set(members)
        )
        return id

    def add_app(self, name: str) -> App:
        number = self._world.new_id("A")
        app = App(
            id=number,
            name=name,
            client_id=f"client-{number}",
            client_secret=f"client-secret-{number}",
            signing_secret=f"signing-secret-{number}",
            verification_token=f"verification-{number}",
            app_token=f"xapp-1-{number}",
        )
        self._world.apps[number] = app
        self._world.tokens[app.app_token] = Token(
            value=app.app_token, kind="app", app=number, scopes=frozenset({"connections:write"})
        )
        return app

    def install(
        self, app: App, team: str, *, org_wide: bool = False, scopes: Sequence[str] | None = None
    ) -> Token:
        """Install an app in a workspace or its organization, and return its bot's token. A second
        time, the bot stays the same."""
        owner = self._world.workspaces[team].enterprise if org_wide else team
        user = self._bot_user(app, owner)
        installation = self._world.installation(app.id, team)
        if installation is None or installation.user != user.id:
            installation = Installation(
                app=app.id,
                team="" if org_wide else team,
                enterprise=self._world.workspaces[team].enterprise,
                user=user.id,
                bot=user.bot,
                is_org_wide=org_wide,
            )
            self._world.installations.append(installation)
        return self._new_token(installation, app.scopes if scopes is None else scopes)

    def _bot_user(self, app: App, owner: str) -> User:
        """Return an app's user in a workspace or organization."""
        for user in self._world.users.values():
            if (user.app, user.team) == (app.id, owner):
                return user
        user = User(
            id=self._world.new_id("U"),
            name=app.name,
            team=owner,
            app=app.id,
            bot=self._world.new_id("B"),
        )
        self._world.users[user.id] = user
        return user

    def _new_token(self, installation: Installation, scopes: Sequence[str]) -> Token:
        token = Token(
            value=f"xoxb-{self._world.new_id('token')}",
            kind="bot",
            app=installation.app,
            team=installation.team,
            enterprise=installation.enterprise,
            user=installation.user,
            bot=installation.bot,
            scopes=frozenset(scopes),
        )
        self._world.tokens[token.value] = token
        return token
