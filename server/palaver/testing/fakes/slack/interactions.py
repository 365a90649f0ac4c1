"""Pressed buttons, slash commands, and what the app answers to them."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
from aiohttp import web

from palaver.testing.fakes.slack.blocks import check_blocks
from palaver.testing.fakes.slack.deliveries import Attempt, Deliveries, Delivery, Transport
from palaver.testing.fakes.slack.errors import SlackError
from palaver.testing.fakes.slack.methods import Services
from palaver.testing.fakes.slack.objects import App, Installation, Json, Message
from palaver.testing.fakes.slack.text import encode
from palaver.testing.fakes.slack.view import Button, buttons_of

RESPONSE_SECONDS = 30 * 60.0
"""Seconds for which a response URL is valid."""
MAX_RESPONSES = 5


class Response(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What an app sends to a response URL, or answers to a command."""

    text: str = ""
    markdown_text: str = ""
    blocks: list[Json] = []
    attachments: list[Json] = []
    response_type: Literal["ephemeral", "in_channel"] = "ephemeral"
    replace_original: bool = False
    delete_original: bool = False
    thread_ts: str = ""
    metadata: Json | None = None
    unfurl_links: bool = True
    unfurl_media: bool = True


@dataclasses.dataclass(slots=True, kw_only=True)
class ResponseUrl:
    """``message``: the ts of the message with the button; empty after a command."""

    channel: str
    user: str
    message: str
    created_at: float
    uses: int = 0


class Interactions:
    """Tells the app what people do beside writing, and shows its answers."""

    def __init__(
        self,
        services: Services,
        app: App,
        deliveries: Deliveries,
        transport: Callable[[], Transport],
    ) -> None:
        self._services = services
        self._world = services.world
        self._app = app
        self._deliveries = deliveries
        self._transport = transport
        self._urls: dict[str, ResponseUrl] = {}

    async def press(self, message: Message, button: Button, user: str) -> Attempt:
        """Press a button below a message, or choose an option of a menu."""
        channel = self._world.channels[message.channel]
        url = self._new_url(channel.id, user, message.ts)
        container = {
            "type": "message",
            "message_ts": message.ts,
            "channel_id": channel.id,
            "is_ephemeral": bool(message.ephemeral_to),
        }
        container |= {"thread_ts": message.thread_ts} if message.thread_ts else {}
        payload = self._payload(channel.team, user, button) | {
            "container": container,
            "channel": {"id": channel.id, "name": channel.name},
            "message": self._services.payloads.message(message),
            "response_url": url,
        }
        return await self._interact(payload)

    async def press_home(self, user: str, button: Button) -> Attempt:
        """Press a button in the App Home."""
        view = self._world.homes[user]
        container = {"type": "view", "view_id": view["id"]}
        payload = self._payload(self._world.users[user].team, user, button)
        return await self._interact(payload | {"container": container, "view": view})

    async def _interact(self, payload: Json) -> Attempt:
        if not self._app.has_interactivity:
            raise LookupError("the app's interactivity is off: Slack shows an error")
        delivery = Delivery(kind="interaction", payload=payload)
        return await self._deliveries.deliver_once(delivery, self._transport())

    def _payload(self, team: str, user: str, button: Button) -> Json:
        person = self._world.users[user]
        return {
            "type": "block_actions",
            "user": {"id": user, "name": person.name, "team_id": person.team},
            "api_app_id": self._app.id,
            "token": self._app.verification_token,
            "trigger_id": self._world.new_id("trigger"),
            "state": {"values": {}},
            "actions": [_action(button, self._world.new_ts())],
        } | self._place(team)

    def _place(self, team: str) -> Json:
        """Return where something happened; without a workspace for an app of an organization."""
        installation = self._installation(team)
        workspace = self._world.workspaces[team]
        enterprise = {"id": workspace.enterprise, "name": workspace.enterprise}
        return {
            "team": None if installation.is_org_wide else {"id": team, "domain": workspace.name},
            "enterprise": enterprise if workspace.enterprise else None,
            "is_enterprise_install": installation.is_org_wide,
        }

    def _installation(self, team: str) -> Installation:
        installation = self._world.installation(self._app.id, team)
        if installation is None:
            raise LookupError(f"the app is not installed in {team}")
        return installation

    def _new_url(self, channel: str, user: str, message: str) -> str:
        id = self._world.new_id("response")
        self._urls[id] = ResponseUrl(
            channel=channel, user=user, message=message, created_at=self._world.clock.now()
        )
        return f"{self._services.url}/actions/{id}"

    async def command(self, channel: str, user: str, command: str, text: str) -> Attempt:
        """Send a slash command, and show what the app answers at once."""
        where = self._world.channels[channel]
        self._check_command(command)
        workspace = self._world.workspaces[where.team]
        installation = self._installation(where.team)
        payload = {
            "token": self._app.verification_token,
            "team_id": where.team,
            "team_domain": workspace.name,
            "channel_id": channel,
            "channel_name": "directmessage" if where.kind == "im" else where.name,
            "user_id": user,
            "user_name": self._world.users[user].name,
            "command": command,
            "text": encode(text),
            "api_app_id": self._app.id,
            "is_enterprise_install": "true" if installation.is_org_wide else "false",
            "response_url": self._new_url(channel, user, ""),
            "trigger_id": self._world.new_id("trigger"),
        }
        if workspace.enterprise:
            payload |= {"enterprise_id": workspace.enterprise, "enterprise_name": "Organization"}
        delivery = Delivery(kind="command", payload=payload)
        attempt = await self._deliveries.deliver_once(delivery, self._transport())
        if attempt.body and not attempt.failure:
            self._show(
                attempt.body, ResponseUrl(channel=channel, user=user, message="", created_at=0)
            )
        return attempt

    def _check_command(self, name: str) -> None:
        commands = self._app.commands
        if commands is not None and name not in commands:
            raise LookupError(f"the app has no command {name!r}; it has {sorted(commands)}")

    async def respond(self, request: web.Request) -> web.Response:
        """Receive what the app sends to a response URL."""
        url = self._urls.get(request.match_info["id"])
        expires_at = url.created_at + RESPONSE_SECONDS if url else 0
        if url is None or self._world.clock.now() >= expires_at:
            return web.json_response({"ok": False, "error": "expired_url"}, status=404)
        if url.uses >= MAX_RESPONSES:
            return web.json_response({"ok": False, "error": "used_url"}, status=404)
        url.uses += 1
        error = self._show(await request.read(), url)
        self._world.changes.notify()
        return web.json_response({"ok": False, "error": error}, status=400) if error else _ok()

    def _show(self, body: bytes, url: ResponseUrl) -> str:
        """Show an answer of the app, and return the error when Slack refuses it."""
        try:
            response = _parse(body)
            check_blocks(response.blocks)
        except msgspec.ValidationError as error:
            self._world.violate(f"response: {error}")
            return "invalid_payload"
        except SlackError as error:
            return str(error)
        self._apply(response, url)
        return ""

    def _apply(self, response: Response, url: ResponseUrl) -> None:
        channel = self._world.channels[url.channel]
        original = channel.messages.get(url.message)
        if response.delete_original and original is not None:
            self._services.events.delete(original)
        elif response.replace_original and original is not None:
            before = self._services.payloads.message(original)
            original.text, original.blocks = response.text, response.blocks
            original.is_markdown = False
            self._services.events.change(original, before)
        else:
            self._post(response, url)

    def _post(self, response: Response, url: ResponseUrl) -> None:
        channel = self._world.channels[url.channel]
        installation = self._installation(channel.team)
        message = Message(
            ts=self._world.new_ts(),
            channel=channel.id,
            user=installation.user,
            app=self._app.id,
            bot=installation.bot,
            subtype="bot_message",
            text=response.markdown_text or response.text,
            is_markdown=bool(response.markdown_text),
            thread_ts=response.thread_ts,
            blocks=response.blocks,
            attachments=response.attachments,
            metadata=response.metadata,
            ephemeral_to=url.user if response.response_type == "ephemeral" else "",
        )
        channel.add(message)
        if not message.ephemeral_to:
            self._services.events.post(message)


def _ok() -> web.Response:
    return web.Response(text="ok")


def _parse(body: bytes) -> Response:
    """Return an answer: JSON, or a text for the person alone."""
    if not body.lstrip().startswith(b"{"):
        return Response(text=body.decode())
    return msgspec.json.decode(body, type=Response)


def _action(button: Button, ts: str) -> Json:
    label = {"type": "plain_text", "text": button.label, "emoji": True}
    action: Json = {
        "type": button.kind,
        "action_id": button.action_id,
        "block_id": button.block_id,
        "action_ts": ts,
    }
    option = {"text": label, "value": button.value}
    if button.kind == "checkboxes":
        return action | {"selected_options": [option]}
    if button.kind in ("static_select", "overflow", "radio_buttons"):
        return action | {"selected_option": option}
    return action | {"text": label, "value": button.value}


def find_button(blocks: Sequence[Json], action_id: str, value: str | None) -> Button:
    """Return the button or option that a person sees. Raises `LookupError`."""
    for button in buttons_of(blocks):
        if button.action_id == action_id and value in (None, button.value):
            return button
    seen = [(button.action_id, button.value) for button in buttons_of(blocks)]
    raise LookupError(f"no button {action_id!r} with value {value!r}; there are {seen}")
