"""What people do in the fake Slack."""

from collections.abc import Sequence

from palaver.testing.fakes.slack.deliveries import Attempt
from palaver.testing.fakes.slack.files import media_type_of
from palaver.testing.fakes.slack.interactions import find_button
from palaver.testing.fakes.slack.objects import App, Channel, Json, Message, SharedFile
from palaver.testing.fakes.slack.reactions import check_name
from palaver.testing.fakes.slack.server import SlackServer
from palaver.testing.fakes.slack.text import encode
from palaver.testing.fakes.slack.world import World


class People:
    """People write, press buttons, stop replies; the app is told about it in the background.

    Channels and users are given by their ids, threads by the ts of their first message.
    """

    world: World
    app: App
    bot_user: str
    _server: SlackServer

    def direct(self, user: str) -> str:
        raise NotImplementedError

    async def say(
        self,
        channel: str,
        user: str,
        text: str,
        *,
        thread: str = "",
        files: Sequence[SharedFile] = (),
        client_msg_id: str = "",
        subtype: str = "",
    ) -> str:
        """Write a message and return its ts.

        ``text`` is what a person types; mentions are ``<@U…>``. ``subtype``: ``thread_broadcast``
        or ``me_message``. A user that is another app's bot writes as that.
        """
        author = self.world.users[user]
        if self._channel(channel).kind == "im" and not self.app.has_messages_tab:
            raise LookupError("the app's messages tab is off: people cannot write to it")
        message = Message(
            ts=self.world.new_ts(),
            channel=channel,
            user=user,
            app=author.app,
            bot=author.bot,
            text=encode(text),
            thread_ts=thread,
            subtype=subtype or ("file_share" if files else ""),
            files=list(files),
            is_broadcast=subtype == "thread_broadcast",
        )
        if not author.app:
            message.client_msg_id = client_msg_id or self.world.new_id("client-msg-")
        self.world.channels[channel].add(message)
        self._server.events.post(message)
        self.world.changes.notify()
        return message.ts

    async def mention(
        self,
        channel: str,
        user: str,
        text: str,
        *,
        thread: str = "",
        files: Sequence[SharedFile] = (),
    ) -> str:
        """Write a message that begins with a mention of the app."""
        mention = f"<@{self.bot_user}> {text}"
        return await self.say(channel, user, mention, thread=thread, files=files)

    def file(self, user: str, name: str, content: bytes, *, media_type: str = "") -> SharedFile:
        """Return a file for `say`."""
        file = SharedFile(
            id=self.world.new_id("F"),
            name=name,
            media_type=media_type or media_type_of(name),
            content=content,
            user=user,
            team=self.world.users[user].team,
        )
        self.world.files[file.id] = file
        return file

    async def edit(self, channel: str, ts: str, text: str) -> None:
        """Change a message."""
        message = self._message(channel, ts)
        before = self._server.services.payloads.message(message)
        message.text = encode(text)
        message.edited_ts = self.world.new_ts()
        self._server.events.change(message, before)
        self.world.changes.notify()

    async def unfurl(self, channel: str, ts: str) -> None:
        """Show the preview of a link in a message, which changes it, but not its text."""
        message = self._message(channel, ts)
        before = self._server.services.payloads.message(message)
        message.add_preview()
        self._server.events.change(message, before)
        self.world.changes.notify()

    async def delete(self, channel: str, ts: str) -> None:
        """Delete a message of anybody."""
        self._server.events.delete(self._message(channel, ts))
        self.world.changes.notify()

    async def react(self, channel: str, ts: str, user: str, name: str) -> None:
        """Add a reaction, by the name of an emoji."""
        check_name(name)
        message = self._message(channel, ts)
        message.reactions.setdefault(name, []).append(user)
        self._server.events.react("reaction_added", message, user, name)
        self.world.changes.notify()

    async def unreact(self, channel: str, ts: str, user: str, name: str) -> None:
        message = self._message(channel, ts)
        message.remove_reaction(name, user)
        self._server.events.react("reaction_removed", message, user, name)
        self.world.changes.notify()

    async def press(
        self, channel: str, ts: str, user: str, action_id: str, *, value: str | None = None
    ) -> Attempt:
        """Press a button, or choose the option with ``value`` of a menu; return how the app has
        answered. Raises `LookupError` when the message has no such button."""
        message = self._message(channel, ts)
        button = find_button(message.blocks, action_id, value)
        return await self._server.interactions.press(message, button, user)

    async def press_home(self, user: str, action_id: str, *, value: str | None = None) -> Attempt:
        """Press a button in the App Home."""
        button = find_button(self.world.homes[user]["blocks"], action_id, value)
        return await self._server.interactions.press_home(user, button)

    async def command(self, channel: str, user: str, command: str, text: str = "") -> Attempt:
        """Send a slash command and return how the app has answered."""
        attempt = await self._server.interactions.command(channel, user, command, text)
        self.world.changes.notify()
        return attempt

    async def open_home(self, user: str, tab: str = "home") -> None:
        """Open the app's tab ``home`` or ``messages``."""
        event: Json = {
            "type": "app_home_opened",
            "user": user,
            "channel": self.direct(user),
            "tab": tab,
            "event_ts": self.world.new_ts(),
        }
        if tab == "home" and user in self.world.homes:
            event["view"] = self.world.homes[user]
        self._server.events.publish([event], self.world.users[user].team)

    async def open_assistant(self, user: str) -> tuple[str, str]:
        """Open a thread of the assistant; return its channel and the ts of its first message. An
        app with ``agent_view`` is told by `open_home` instead."""
        channel = self._channel(self.direct(user))
        root = Message(
            ts=self.world.new_ts(),
            channel=channel.id,
            user=self.bot_user,
            app=self.app.id,
            bot=self.world.users[self.bot_user].bot,
            subtype="assistant_app_thread",
            text="New Assistant Thread",
        )
        channel.add(root)
        thread = {
            "user_id": user,
            "context": {},
            "channel_id": channel.id,
            "thread_ts": root.ts,
        }
        event = {"type": "assistant_thread_started", "assistant_thread": thread}
        self._server.events.publish([event | {"event_ts": root.ts}], channel.team, channel)
        return channel.id, root.ts

    async def stop(self, channel: str, thread: str, user: str) -> None:
        """Press Slack's own stop button. Raises `LookupError` when Slack shows none."""
        if not self.can_stop(channel, thread):
            raise LookupError("Slack shows a stop button only while the session is processing")
        stopped = []
        for message in self._channel(channel).thread(thread):
            if message.stream is not None and message.is_streaming(self.world.clock.now()):
                message.stream.state = "stopped_by_user"
                stopped.append(message.ts)
        event = {
            "type": "agent_session_stopped",
            "channel": channel,
            "thread_ts": thread,
            "streaming_message_ts": stopped,
            "user": user,
            "event_ts": self.world.new_ts(),
        }
        where = self._channel(channel)
        self._server.events.publish([event], where.team, where)
        self.world.changes.notify()

    def can_stop(self, channel: str, thread: str) -> bool:
        """Return whether Slack shows its stop button."""
        session = self.world.sessions.get((channel, thread))
        is_processing = session is not None and session.status == "processing"
        return is_processing and self.app.is_agent and "agent_session_stopped" in self.app.events

    def _channel(self, id: str) -> Channel:
        return self.world.channels[id]

    def _message(self, channel: str, ts: str) -> Message:
        return self._channel(channel).messages[ts]
