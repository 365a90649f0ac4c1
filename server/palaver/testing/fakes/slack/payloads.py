"""Messages, files and events in Slack's JSON."""

from urllib.parse import quote

from palaver.testing.fakes.slack.objects import App, Channel, Json, Message, SharedFile, User
from palaver.testing.fakes.slack.text import as_returned
from palaver.testing.fakes.slack.world import World


class Payloads:
    """Writes what the world contains as Slack's JSON. ``url``: where the fake listens."""

    def __init__(self, world: World, url: str) -> None:
        self._world = world
        self._url = url

    def message(self, message: Message, *, with_metadata: bool = False) -> Json:
        """Return a message as the Web API returns it."""
        text = as_returned(message.text) if message.app else message.text
        payload: Json = {
            "type": "message",
            "ts": message.ts,
            "text": text,
            "team": self._world.channels[message.channel].team,
        }
        if message.subtype != "bot_message":  # posted by a response URL, which is no user
            payload["user"] = message.user
        payload |= self._optional(message)
        if message.app:
            payload |= self._author(message)
        if with_metadata and message.metadata is not None:
            payload["metadata"] = message.metadata
        return payload

    def _optional(self, message: Message) -> Json:
        blocks = [{"block_id": f"b{n}"} | block for n, block in enumerate(message.blocks)]
        optional: Json = {
            "subtype": message.subtype,
            "client_msg_id": message.client_msg_id,
            "blocks": blocks or self._typed_blocks(message),
            "attachments": message.attachments,
            "files": [self.file(each) for each in message.files],
            "reactions": [
                {"name": name, "users": users, "count": len(users)}
                for name, users in message.reactions.items()
            ],
        }
        if message.edited_ts:
            optional["edited"] = {"user": message.user, "ts": message.edited_ts}
        return {name: value for name, value in optional.items() if value} | self._thread(message)

    def _typed_blocks(self, message: Message) -> list[Json]:
        """Slack's own composer sends what people type as rich text as well."""
        if message.app or not message.text:
            return []
        section = {"type": "rich_text_section", "elements": [_rich_text(message.text)]}
        return [{"type": "rich_text", "block_id": "typed", "elements": [section]}]

    def _thread(self, message: Message) -> Json:
        channel = self._world.channels[message.channel]
        if message.thread_ts:
            root = channel.messages.get(message.thread_ts)
            parent = {"parent_user_id": root.user} if root else {}
            return {"thread_ts": message.thread_ts} | parent
        replies = channel.threads.get(message.ts)
        if not replies:
            return {}
        return {
            "thread_ts": message.ts,
            "reply_count": len(replies),
            "latest_reply": replies[-1],
        }

    def _author(self, message: Message) -> Json:
        app = self._world.apps[message.app]
        name = message.username or (app.name if message.subtype == "bot_message" else "")
        author: Json = {
            "bot_id": message.bot,
            "app_id": app.id,
            "bot_profile": self.bot(app, message.bot),
        }
        return author | ({"username": name} if name else {})

    def bot(self, app: App, bot: str) -> Json:
        return {"id": bot, "app_id": app.id, "name": app.name, "deleted": False}

    def file(self, file: SharedFile) -> Json:
        download = f"{self._url}/files-pri/{file.team}-{file.id}/{quote(file.name, safe='')}"
        return {
            "id": file.id,
            "name": file.name,
            "title": file.title or file.name,
            "mimetype": file.media_type,
            "filetype": file.name.rpartition(".")[2],
            "size": len(file.content),
            "user": file.user,
            "mode": "hosted",
            "is_external": False,
            "url_private": download,
            "url_private_download": download,
        }

    def user(self, user: User) -> Json:
        profile = {"real_name": user.name, "display_name": user.name}
        return {
            "id": user.id,
            "team_id": user.team,
            "name": user.name.lower(),
            "real_name": user.name,
            "profile": profile,
            "deleted": False,
            "is_bot": bool(user.app),
            "is_app_user": False,
        }

    def channel(self, channel: Channel) -> Json:
        is_im = channel.kind == "im"
        payload: Json = {
            "id": channel.id,
            "is_channel": channel.kind == "channel",
            "is_group": channel.kind == "group",
            "is_im": is_im,
            "is_mpim": channel.kind == "mpim",
            "is_private": channel.kind != "channel",
            "is_archived": channel.is_archived,
            "context_team_id": channel.team,
        }
        if is_im:
            people = [user for user in channel.members if not self._world.users[user].app]
            return payload | {"user": people[0] if people else ""}
        return payload | {"name": channel.name, "name_normalized": channel.name}

    def message_event(self, message: Message) -> Json:
        channel = self._world.channels[message.channel]
        where = {"channel": channel.id, "channel_type": channel.kind, "event_ts": message.ts}
        return self.message(message, with_metadata=True) | where

    def mention_event(self, message: Message) -> Json:
        event = self.message(message)
        return event | {
            "type": "app_mention",
            "channel": message.channel,
            "event_ts": message.ts,
        }

    def hidden_event(self, subtype: str, channel: Channel, content: Json) -> Json:
        """Return a change of a message, which has a ts of its own."""
        ts = self._world.new_ts()
        return {
            "type": "message",
            "subtype": subtype,
            "hidden": True,
            "channel": channel.id,
            "channel_type": channel.kind,
            "ts": ts,
            "event_ts": ts,
        } | content


def _rich_text(text: str) -> Json:
    return {"type": "text", "text": text}
