"""Interactions of a fake Discord: what people do with commands and buttons, and a bot's answers."""

import secrets
from collections.abc import Iterator

from palaver.testing.fakes.discord.errors import Refusal, invalid_field
from palaver.testing.fakes.discord.forms import (
    Callback,
    CallbackData,
    EditMessage,
    MessageForm,
    WebhookMessage,
    parse_form,
)
from palaver.testing.fakes.discord.interaction import (
    ALLOWED_ANSWERS,
    CHOICES,
    DEFERRED_MESSAGE,
    MESSAGE,
    UPDATE,
    DiscordInteraction,
)
from palaver.testing.fakes.discord.messages import Files, Messages
from palaver.testing.fakes.discord.objects import (
    COMMAND_REPLY,
    EPHEMERAL,
    JSON,
    LOADING,
    REPLY,
    DiscordChannel,
    DiscordMessage,
    DiscordUser,
    MessageReference,
)
from palaver.testing.fakes.discord.payloads import (
    bot_permissions,
    channel_payload,
    member_payload,
    user_payload,
)
from palaver.testing.fakes.discord.requests import Call
from palaver.testing.fakes.discord.rest import Answer, Route
from palaver.testing.fakes.discord.state import DiscordState
from palaver.testing.fakes.discord.writing import (
    SETTABLE_FLAGS,
    check_flags,
    check_message,
    dump,
)


class Interactions:
    """The interactions by token, and the routes by which a bot answers them."""

    def __init__(self, state: DiscordState, messages: Messages) -> None:
        self._state = state
        self._messages = messages
        self.by_token: dict[str, DiscordInteraction] = {}

    def routes(self) -> Iterator[Route]:
        hook = "/webhooks/{webhook_id}/{token}"
        callback = "/interactions/{interaction_id}/{token}/callback"
        both = frozenset({"wait", "with_components"})
        table = [
            ("POST", callback, self.call_back, frozenset({"with_response"})),
            ("POST", hook, self.follow_up, both),
            ("GET", hook + "/messages/{message_id}", self.read, frozenset()),
            ("PATCH", hook + "/messages/{message_id}", self.edit, both),
            ("DELETE", hook + "/messages/{message_id}", self.delete, frozenset()),
        ]
        for method, path, handler, query in table:
            yield Route(method=method, path=path, handler=handler, query=query, needs_token=False)

    # What people do

    def open(
        self,
        kind: int,
        user: DiscordUser,
        channel: DiscordChannel,
        data: JSON,
        source: DiscordMessage | None = None,
    ) -> DiscordInteraction:
        """Store a new interaction, which waits for the bot's answer."""
        interaction = DiscordInteraction(
            id=self._state.new_id(),
            token=secrets.token_urlsafe(48),
            kind=kind,
            user=user,
            channel=channel,
            data=data,
            created=self._state.clock.now(),
            clock=self._state.clock,
            answer_seconds=self._state.limits.interaction_seconds,
            token_seconds=self._state.limits.token_seconds,
            source=source,
        )
        self.by_token[interaction.token] = interaction
        return interaction

    def payload(self, interaction: DiscordInteraction) -> JSON:
        """Return what the bot gets."""
        channel, user = interaction.channel, interaction.user
        payload: JSON = {
            "id": str(interaction.id),
            "application_id": str(self._state.application.id),
            "type": interaction.kind,
            "token": interaction.token,
            "version": 1,
            "data": interaction.data,
            "channel_id": str(channel.id),
            "channel": channel_payload(channel) | {"permissions": bot_permissions(channel)},
            "locale": "en-US",
            "app_permissions": bot_permissions(channel),
            "entitlements": [],
            "authorizing_integration_owners": {"0": str(channel.guild.id if channel.guild else 0)},
            "context": 0 if channel.guild else 1,
            "attachment_size_limit": self._state.limits.file_bytes,
        }
        if channel.guild:
            guild_id = str(channel.guild.id)
            payload["guild_id"] = guild_id
            payload["guild"] = {"id": guild_id, "locale": "en-US", "features": []}
            payload["guild_locale"] = "en-US"
            payload["member"] = member_payload(user) | {"permissions": bot_permissions(channel)}
        else:
            payload["user"] = user_payload(user)
        if interaction.source:
            payload["message"] = self._state.rest_payload(interaction.source)
        return payload

    # What the bot answers

    def call_back(self, call: Call) -> Answer:
        """Take the first answer to an interaction."""
        interaction = self.by_token.get(call.ids["token"])
        if interaction is None or interaction.id != call.id("interaction_id"):
            raise Refusal(10062)
        self.answer(interaction, call.form(Callback), call.request.files)
        if call.request.query.get("with_response") not in ("1", "true"):
            return Answer(204)
        return Answer(200, self._describe(interaction))

    def answer(self, interaction: DiscordInteraction, form: Callback, files: Files) -> None:
        if interaction.answer:
            raise Refusal(40060)
        if interaction.is_late:
            raise Refusal(10062)
        if form.type not in ALLOWED_ANSWERS[interaction.kind]:
            raise invalid_field("type", "BASE_TYPE_CHOICES", "Not an answer to this interaction.")
        self._apply(interaction, form.type, form.data or CallbackData(), files)
        interaction.answer = form.type
        interaction.answered.set()

    def _apply(
        self, interaction: DiscordInteraction, kind: int, data: CallbackData, files: Files
    ) -> None:
        if kind == CHOICES:
            interaction.choices = dump(data.choices)
        elif kind == MESSAGE:
            interaction.original = self._post(interaction, data, files)
        elif kind == DEFERRED_MESSAGE:
            check_flags(data.flags or 0, EPHEMERAL)
            interaction.original = self._post(interaction, data, {}, is_loading=True)
        else:
            assert interaction.source
            interaction.original = interaction.source
            if kind == UPDATE:
                self._messages.rewrite(interaction.source, data, files)

    def _post(
        self,
        interaction: DiscordInteraction,
        form: MessageForm,
        files: Files,
        *,
        is_loading: bool = False,
    ) -> DiscordMessage:
        """Post an answer. An ephemeral one is seen by the person alone, and makes no event."""
        check_flags(form.flags or 0, SETTABLE_FLAGS | EPHEMERAL)
        message = self._messages.write_new(interaction.channel, self._state.bot, form, files)
        message.webhook_id = self._state.application.id
        message.interaction = self._metadata(interaction)
        if interaction.source:
            message.kind = REPLY
            message.reference = MessageReference(interaction.source.id, interaction.channel)
        else:
            message.kind = COMMAND_REPLY
            message.used_command = interaction.data["name"]
        if message.flags & EPHEMERAL:
            message.visible_to = interaction.user
        if is_loading:
            message.flags |= LOADING
        else:
            check_message(message, self._state.limits)
        return self._state.add_message(message)

    def _metadata(self, interaction: DiscordInteraction) -> JSON:
        return {
            "id": str(interaction.id),
            "type": interaction.kind,
            "user": user_payload(interaction.user),
            "authorizing_integration_owners": {},
        }

    def _describe(self, interaction: DiscordInteraction) -> JSON:
        """Return the answer to a callback ``with_response``."""
        described: JSON = {"id": str(interaction.id), "type": interaction.kind}
        message = interaction.original
        if message and interaction.answer in (MESSAGE, DEFERRED_MESSAGE):
            described |= {
                "response_message_id": str(message.id),
                "response_message_loading": message.is_loading,
                "response_message_ephemeral": bool(message.flags & EPHEMERAL),
            }
        result: JSON = {"interaction": described}
        if message:
            result["resource"] = {"type": interaction.answer}
            if interaction.answer in (MESSAGE, UPDATE):
                result["resource"]["message"] = self._state.rest_payload(message)
        return result

    # What the bot does with the token afterwards

    def _find(self, call: Call) -> DiscordInteraction:
        interaction = self.by_token.get(call.ids["token"])
        if interaction is None or call.id("webhook_id") != self._state.application.id:
            raise Refusal(50027)
        if interaction.is_expired or (not interaction.answer and interaction.is_late):
            raise Refusal(50027)
        if not interaction.answer:
            raise Refusal(10015)
        return interaction

    def _find_message(self, call: Call) -> DiscordMessage:
        interaction = self._find(call)
        if call.ids["message_id"] == "@original":
            message = interaction.original
        else:
            known = {message.id: message for message in interaction.followups}
            if interaction.original:
                known[interaction.original.id] = interaction.original
            message = known.get(call.id("message_id"))
        if message is None or message.is_deleted:
            raise Refusal(10008)
        return message

    def follow_up(self, call: Call) -> JSON:
        """Post another message. Directly after a deferral it fills the message that is thinking."""
        interaction = self._find(call)
        form = call.form(WebhookMessage)
        if form.username or form.avatar_url:
            raise Refusal(50035)
        if interaction.original and interaction.original.is_loading:
            if interaction.original.is_deleted:
                raise Refusal(10008)
            form.flags = (form.flags or 0) & ~EPHEMERAL
            message = self._rewrite(interaction.original, form, call.request.files)
        else:
            message = self._post(interaction, form, call.request.files)
            interaction.followups.append(message)
        return self._state.rest_payload(message)

    def _rewrite(self, message: DiscordMessage, form: MessageForm, files: Files) -> DiscordMessage:
        self._messages.rewrite(message, form, files, ends_loading=True)
        return message

    def read(self, call: Call) -> JSON:
        return self._state.rest_payload(self._find_message(call))

    def edit(self, call: Call) -> JSON:
        message = self._find_message(call)
        self._rewrite(message, call.form(EditMessage), call.request.files)
        return self._state.rest_payload(message)

    def delete(self, call: Call) -> None:
        self._state.delete_message(self._find_message(call))

    def take_http_answer(self, interaction: DiscordInteraction, body: JSON) -> None:
        """Take an answer that came as the response to the request with the interaction."""
        self.answer(interaction, parse_form(Callback, body), {})
