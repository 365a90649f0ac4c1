"""Events of the fake Slack: which ones the app gets, in which envelope."""

from collections.abc import Callable, Sequence

from palaver.testing.fakes.slack.deliveries import Deliveries, Delivery, Transport
from palaver.testing.fakes.slack.limits import SlackRules
from palaver.testing.fakes.slack.objects import App, Channel, Installation, Json, Message, Token
from palaver.testing.fakes.slack.payloads import Payloads
from palaver.testing.fakes.slack.throttle import EventThrottle
from palaver.testing.fakes.slack.world import World

_SUBSCRIPTIONS = {
    "channel": "message.channels",
    "group": "message.groups",
    "im": "message.im",
    "mpim": "message.mpim",
}
_HISTORY_SCOPES = {
    "channel": "channels:history",
    "group": "groups:history",
    "im": "im:history",
    "mpim": "mpim:history",
}
_SCOPES = {
    "app_mention": "app_mentions:read",
    "reaction_added": "reactions:read",
    "reaction_removed": "reactions:read",
}


class Events:
    """Delivers to ``app`` what happens, if it is installed there, subscribes, and has the scope.

    ``transport``: how events reach the app now, None while it has no request URL.
    """

    def __init__(
        self,
        world: World,
        app: App,
        *,
        payloads: Payloads,
        deliveries: Deliveries,
        transport: Callable[[], Transport | None],
        rules: SlackRules,
        throttle: EventThrottle,
    ) -> None:
        self._world = world
        self._app = app
        self._payloads = payloads
        self._deliveries = deliveries
        self._transport = transport
        self._rules = rules
        self._throttle = throttle

    def post(self, message: Message) -> None:
        """Tell the app about a new message, and about a mention in it."""
        channel = self._world.channels[message.channel]
        events = [self._payloads.message_event(message)]
        installation = self._world.installation(self._app.id, channel.team)
        if installation and f"<@{installation.user}>" in message.text and channel.kind != "im":
            events.append(self._payloads.mention_event(message))
            if self._mention_comes_first():
                events.reverse()
        self.publish(events, channel.team, channel)

    def _mention_comes_first(self) -> bool:
        order = self._rules.mention_order
        return order == "mention first" or (order == "random" and self._world.random.random() < 0.5)

    def change(self, message: Message, before: Json) -> None:
        """Tell the app that a message has changed from ``before``."""
        channel = self._world.channels[message.channel]
        after = self._payloads.message(message)
        content = {"message": after, "previous_message": before}
        event = self._payloads.hidden_event("message_changed", channel, content)
        self.publish([event], channel.team, channel)

    def delete(self, message: Message) -> None:
        """Remove a message, and tell the app. A thread's first message becomes a tombstone."""
        channel = self._world.channels[message.channel]
        before = self._payloads.message(message)
        if channel.threads.get(message.ts):
            message.make_tombstone()
            self.change(message, before)
            return
        channel.remove(message.ts)
        content = {"deleted_ts": message.ts, "previous_message": before}
        event = self._payloads.hidden_event("message_deleted", channel, content)
        self.publish([event], channel.team, channel)

    def react(self, kind: str, message: Message, user: str, name: str) -> None:
        """Tell the app that a reaction was added or removed."""
        channel = self._world.channels[message.channel]
        event = {
            "type": kind,
            "user": user,
            "reaction": name,
            "item_user": message.user,
            "item": {"type": "message", "channel": channel.id, "ts": message.ts},
            "event_ts": self._world.new_ts(),
        }
        self.publish([event], channel.team, channel)

    def publish(self, events: Sequence[Json], team: str, channel: Channel | None = None) -> None:
        """Deliver events one after the other, each of them as often as the rules say."""
        installation = self._world.installation(self._app.id, team)
        transport = self._transport()
        if installation is None or transport is None or not self._can_see(installation, channel):
            return
        events = [event for event in events if self._subscribes(event, channel)]
        events = [event for event in events if self._throttle.admits(team)]
        self._warn_of_limit(team, transport)
        for _ in range(self._rules.copies if events else 0):
            deliveries = [self._delivery(installation, team, event) for event in events]
            delay = self._world.random.uniform(0, self._rules.spread_seconds)
            self._deliveries.start(deliveries, transport, delay)

    def _warn_of_limit(self, team: str, transport: Transport) -> None:
        """Tell the app, once a minute, that it misses events."""
        minute = self._throttle.take_warning(team)
        if minute is None:
            return
        payload = {
            "token": self._app.verification_token,
            "type": "app_rate_limited",
            "team_id": team,
            "minute_rate_limited": minute,
            "api_app_id": self._app.id,
        }
        delivery = Delivery(kind="event", payload=payload)
        self._deliveries.start([delivery], transport)

    def revoke(self, token: Token) -> None:
        """End a token, and tell the app."""
        token.error = "token_revoked"
        event = {"type": "tokens_revoked", "tokens": {"oauth": [], "bot": [token.user]}}
        teams = [token.team] if token.team else self._teams_of(token.enterprise)
        self.publish([event], teams[0])

    def uninstall(self, installation: Installation) -> None:
        """End an installation and its tokens, and tell the app."""
        teams = (
            [installation.team] if installation.team else self._teams_of(installation.enterprise)
        )
        tokens = {"oauth": [], "bot": [installation.user]}
        events: list[Json] = [
            {"type": "tokens_revoked", "tokens": tokens},
            {"type": "app_uninstalled"},
        ]
        self._world.random.shuffle(events)
        self.publish(events, teams[0])
        self._world.remove_installation(installation)

    def _teams_of(self, enterprise: str) -> list[str]:
        workspaces = self._world.workspaces.values()
        return [each.id for each in workspaces if each.enterprise == enterprise]

    def _can_see(self, installation: Installation, channel: Channel | None) -> bool:
        return channel is None or installation.user in channel.members

    def _subscribes(self, event: Json, channel: Channel | None) -> bool:
        kind = event["type"]
        if kind == "message" and channel is not None:
            name, scope = _SUBSCRIPTIONS[channel.kind], _HISTORY_SCOPES[channel.kind]
        else:
            name, scope = kind, _SCOPES.get(kind, "")
        return name in self._app.events and (not scope or scope in self._app.scopes)

    def _delivery(self, installation: Installation, team: str, event: Json) -> Delivery:
        return Delivery(kind="event", payload=self.envelope(installation, team, event))

    def envelope(self, installation: Installation, team: str, event: Json) -> Json:
        enterprise = installation.enterprise or None
        authorization = {
            "enterprise_id": enterprise,
            "team_id": installation.team or None,
            "user_id": installation.user,
            "is_bot": True,
            "is_enterprise_install": installation.is_org_wide,
        }
        envelope = {
            "token": self._app.verification_token,
            "team_id": team,
            "context_team_id": team,
            "context_enterprise_id": enterprise,
            "api_app_id": self._app.id,
            "event": event,
            "type": "event_callback",
            "event_id": self._world.new_id("Ev"),
            "event_time": int(self._world.clock.now()),
            "authorizations": [authorization],
            "is_ext_shared_channel": False,
            "event_context": f"4-{self._world.new_id('ec')}",
        }
        return envelope | ({"enterprise_id": enterprise} if enterprise else {})
