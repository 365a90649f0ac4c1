"""Messages of the bot under test: create, edit, delete, read."""

import dataclasses

from palaver.testing.fakes.discord.errors import Refusal, invalid_field
from palaver.testing.fakes.discord.forms import (
    AttachmentForm,
    CreateMessage,
    EditMessage,
    MessageForm,
    ReferenceForm,
)
from palaver.testing.fakes.discord.limits import RateLimited, Window
from palaver.testing.fakes.discord.objects import (
    HAS_SNAPSHOT,
    LOADING,
    REPLY,
    SPOKEN,
    TEXT,
    DiscordAttachment,
    DiscordChannel,
    DiscordFile,
    DiscordMessage,
    DiscordUser,
    MessageReference,
)
from palaver.testing.fakes.discord.payloads import snapshot_payload
from palaver.testing.fakes.discord.state import DiscordState, may_post
from palaver.testing.fakes.discord.writing import (
    add_replied_user,
    check_flags,
    check_message,
    find_mentions,
    write_form,
)

Files = dict[int, DiscordFile]


@dataclasses.dataclass(slots=True)
class UsedNonce:
    """A message that was created with a nonce, which is remembered for some minutes."""

    message: DiscordMessage
    expires: float


class Messages:
    """What the routes of messages do."""

    def __init__(self, state: DiscordState) -> None:
        self._state = state
        self._nonces: dict[tuple[int, str], UsedNonce] = {}
        self._old_edits: dict[int, Window] = {}

    def create(self, channel: DiscordChannel, form: CreateMessage, files: Files) -> DiscordMessage:
        """Post a message of the bot, or return the one that has its nonce already."""
        self.check_may_post(channel)
        check_flags(form.flags or 0)
        message = self.write_new(channel, self._state.bot, form, files)
        if form.message_reference:
            self._refer(message, form.message_reference, form)
        if not message.snapshot:
            check_message(message, self._state.limits)
        earlier = self._find_nonce(message, is_enforced=form.enforce_nonce)
        return earlier or self._state.add_message(message)

    def check_may_post(self, channel: DiscordChannel) -> None:
        if not may_post(channel):
            raise Refusal(50013)
        if channel.kind != TEXT and not channel.is_thread and not channel.is_direct:
            raise Refusal(50008)
        if channel.recipient and not self._accepts(channel.recipient):
            raise Refusal(50007)
        if channel.is_locked:
            raise Refusal(160005)

    def _accepts(self, user: DiscordUser) -> bool:
        shares_guild = any(user.id in guild.members for guild in self._state.guilds.values())
        return user.accepts_messages and shares_guild

    def write_new(
        self, channel: DiscordChannel, author: DiscordUser, form: MessageForm, files: Files
    ) -> DiscordMessage:
        """Return a message that is not stored yet."""
        now = self._state.clock.now()
        message = DiscordMessage(
            id=self._state.new_id(), channel=channel, author=author, created=now
        )
        if isinstance(form, CreateMessage):
            message.nonce = form.nonce
        self.fill(message, form, files)
        return message

    def fill(self, message: DiscordMessage, form: MessageForm, files: Files) -> None:
        """Write a form into a message: text, parts, files and mentions."""
        write_form(message, form)
        if files or form.attachments is not None:
            message.attachments = self._attach(message, form.attachments or [], files)
        message.mentions = find_mentions(
            message.content, form.allowed_mentions, self._state.users, message.channel.guild
        )

    def _attach(
        self, message: DiscordMessage, forms: list[AttachmentForm], files: Files
    ) -> list[DiscordAttachment]:
        """Return the files of the form; an id below the number of files names a new one."""
        kept = {attachment.id: attachment for attachment in message.attachments}
        described = {form.id: form for form in forms if form.id in files}
        attachments = []
        for form in forms:
            if form.id in kept:
                attachments.append(kept[form.id])
            elif form.id not in files:
                raise invalid_field("attachments", "ATTACHMENT_NOT_FOUND", f"No file {form.id}")
        for number, file in files.items():
            self._check_file(file)
            form_of_file = described.get(number)
            description = (form_of_file.description if form_of_file else "") or ""
            attachments.append(self._state.store_file(message.channel, file, description))
        return attachments

    def _check_file(self, file: DiscordFile) -> None:
        if len(file.content) > self._state.limits.file_bytes:
            raise Refusal(40005)

    def _refer(
        self, message: DiscordMessage, reference: ReferenceForm, form: CreateMessage
    ) -> None:
        """Make the message a reply to another, or a forward of it."""
        channel = message.channel
        if reference.channel_id:
            channel = self._state.find_channel(reference.channel_id)
        original = channel.messages.get(reference.message_id)
        if original is None or original.is_deleted:
            if reference.fail_if_not_exists:
                text = "Unknown message"
                raise invalid_field("message_reference", "REPLIES_UNKNOWN_MESSAGE", text)
            return
        is_forward = bool(reference.type)
        message.reference = MessageReference(original.id, channel, is_forward)
        if is_forward:
            message.snapshot, message.flags = snapshot_payload(original), HAS_SNAPSHOT
            return
        if channel is not message.channel or original.kind not in SPOKEN:
            text = "Cannot reply to a system message or to another channel"
            raise invalid_field("message_reference", "REPLIES_CANNOT_REPLY_TO_SYSTEM_MESSAGE", text)
        message.kind = REPLY
        message.mentions = add_replied_user(
            message.mentions, form.allowed_mentions, original.author
        )

    def _find_nonce(self, message: DiscordMessage, *, is_enforced: bool) -> DiscordMessage | None:
        """Return the author's earlier message with this nonce, and remember the nonce."""
        if message.nonce is None:
            return None
        key, now = (message.author.id, str(message.nonce)), self._state.clock.now()
        used = self._nonces.get(key)
        if is_enforced and used and now < used.expires:
            if used.message.is_deleted:
                raise Refusal(10008)
            return used.message
        self._nonces[key] = UsedNonce(message, now + self._state.limits.nonce_seconds)
        return None

    def edit(self, message: DiscordMessage, form: EditMessage, files: Files) -> DiscordMessage:
        """Change a message of the bot."""
        is_own = message.webhook_id in (None, self._state.application.id)
        if message.author is not self._state.bot or not is_own:
            raise Refusal(50005)
        if message.kind not in SPOKEN:
            raise Refusal(50021)
        if message.channel.is_archived:
            raise Refusal(50083)
        self._count_old_edit(message)
        return self.rewrite(message, form, files)

    def _count_old_edit(self, message: DiscordMessage) -> None:
        now = self._state.clock.now()
        if now - message.created <= 3600:
            return
        window = self._old_edits.setdefault(
            message.channel.id, Window(self._state.limits.old_edits, 3600)
        )
        if not window.take(now):
            raise RateLimited(window.reset_after(now), code=30046)

    def rewrite(
        self,
        message: DiscordMessage,
        form: MessageForm,
        files: Files,
        *,
        ends_loading: bool = False,
    ) -> DiscordMessage:
        """Write a form into a stored message; a form that is refused changes nothing."""
        check_flags(form.flags or 0)
        draft = dataclasses.replace(message)
        if ends_loading:
            draft.flags &= ~LOADING
        self.fill(draft, form, files)
        check_message(draft, self._state.limits)
        previous = message.content
        for field in ("content", "embeds", "components", "attachments", "flags", "mentions"):
            setattr(message, field, getattr(draft, field))
        if previous != message.content:
            message.revisions.append(previous)
        self._state.change_message(message)
        return message

    def delete(self, message: DiscordMessage) -> None:
        if message.channel.is_archived:
            raise Refusal(50083)
        self._state.delete_message(message)

    def history(
        self, channel: DiscordChannel, *, limit: int, after: int, before: float, around: int
    ) -> list[DiscordMessage]:
        """Return messages, newest first. ``after`` means those that follow it directly."""
        shown = [
            message
            for message in sorted(channel.messages.values(), key=lambda m: m.id)
            if not message.is_deleted and not message.visible_to
        ]
        if around:
            shown = select_around(shown, around, limit)
        elif after:
            shown = [message for message in shown if message.id > after][:limit]
        else:
            shown = [message for message in shown if message.id < before][-limit:]
        return shown[::-1]


def select_around(messages: list[DiscordMessage], around: int, limit: int) -> list[DiscordMessage]:
    older = [message for message in messages if message.id < around]
    newer = [message for message in messages if message.id >= around]
    half = limit // 2
    return older[len(older) - half if half < len(older) else 0 :] + newer[: limit - half]
