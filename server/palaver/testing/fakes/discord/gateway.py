"""The gateway of a fake Discord: sessions, their events, and what a test does to connections."""

import asyncio
import secrets
from typing import Any

from aiohttp import web

from palaver.testing.fakes.discord.limits import Window
from palaver.testing.fakes.discord.objects import JSON, DiscordGuild
from palaver.testing.fakes.discord.payloads import guild_payload, member_payload, user_payload
from palaver.testing.fakes.discord.sessions import (
    ENDS_SESSION,
    HEARTBEAT,
    HEARTBEAT_ACK,
    HELLO,
    IDENTIFY,
    IDENTIFY_FIELDS,
    INVALID_SESSION,
    KNOWN_INTENTS,
    PRESENCE,
    PRIVILEGED_INTENTS,
    RECONNECT,
    REQUEST_MEMBERS,
    RESUME,
    RESUME_FIELDS,
    Closing,
    GatewaySession,
    application_flags,
    check_shard,
    parse_frame,
)
from palaver.testing.fakes.discord.socket import GatewaySocket
from palaver.testing.fakes.discord.state import (
    GUILDS,
    DiscordState,
    Payload,
    may_view,
)


class Gateway:
    """Sessions of the bot under test. Tests drop, close or silence its connections.

    ``replay_seen``: how many events that a client has already got are sent again at a resume.
    ``sends_acks``: answer heartbeats. ``compresses``: honour ``compress=zlib-stream``; text frames
    are sent else, which clients take too.
    """

    def __init__(self, state: DiscordState, violations: list[str]) -> None:
        self._state = state
        self._violations = violations
        self._starts = Window(state.limits.session_starts, 86_400.0)
        self._identifies: dict[int, Window] = {}
        self.sockets: list[GatewaySocket] = []
        self.sessions: list[GatewaySession] = []
        self.identifies: list[str] = []
        """The path of each accepted IDENTIFY."""
        self.presences: list[JSON] = []
        self.replay_seen = 0
        self.sends_acks = True
        self.compresses = False
        self.shards = 1
        """What /gateway/bot recommends."""

    # What a test does

    @property
    def connected(self) -> list[GatewaySession]:
        return [session for session in self.sessions if session.socket]

    def drop(self) -> None:
        """Cut every connection, as a broken network does: without a close frame."""
        for socket in list(self.sockets):
            self._detach(socket)
            socket.abort()

    def close(self, code: int) -> None:
        """Close every connection with a code, such as 4000, 4009 or 4014."""
        for socket in list(self.sockets):
            self._detach(socket, code)
            socket.close(code)

    def request_reconnect(self) -> None:
        """Ask every client to connect again and to resume (op 7)."""
        self._send_all({"op": RECONNECT, "d": None})

    def invalidate(self, *, resumable: bool) -> None:
        """Tell every client that its session is invalid (op 9)."""
        for session in self.connected:
            session.is_over = not resumable
        self._send_all({"op": INVALID_SESSION, "d": resumable})

    def request_heartbeat(self) -> None:
        self._send_all({"op": HEARTBEAT, "d": None})

    def silence(self) -> None:
        """Send nothing more on the connections of now, which stay open."""
        for socket in self.sockets:
            socket.is_silent = True

    def _send_all(self, frame: JSON) -> None:
        for socket in self.sockets:
            socket.send(frame)

    # Events

    def publish(
        self, event: str, data: JSON | Payload, *, intent: int, guild: DiscordGuild | None
    ) -> None:
        for session in self.sessions:
            if session.covers(guild) and (not intent or session.intents & intent):
                payload = data(session.intents) if callable(data) else data
                session.dispatch(event, payload)

    # Connections

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        """Serve one connection, from HELLO to its end."""
        response = web.WebSocketResponse(timeout=1.0, max_msg_size=0)
        await response.prepare(request)
        is_compressed = self.compresses and request.query.get("compress") == "zlib-stream"
        socket = GatewaySocket(response, request, self._state.limits, is_compressed=is_compressed)
        self.sockets.append(socket)
        writer = asyncio.create_task(socket.write())
        try:
            interval = int(self._state.limits.heartbeat_interval * 1000)
            socket.send({"op": HELLO, "d": {"heartbeat_interval": interval}})
            if request.query.get("v") != "10":
                raise Closing(4012)
            await self._read(socket)
        except Closing as closing:
            self._detach(socket, closing.code)
            socket.close(closing.code)
            await writer
        finally:
            self._detach(socket, response.close_code or 0)
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
        return response

    async def _read(self, socket: GatewaySocket) -> None:
        async for message in socket.response:
            if not socket.takes_frame(self._state.clock.now()):
                raise Closing(4008)
            self._receive(socket, parse_frame(message.data, self._state.limits.gateway_frame_bytes))

    def _receive(self, socket: GatewaySocket, frame: JSON) -> None:
        socket.received.append(frame)
        operation, data = frame.get("op"), frame.get("d")
        if operation == HEARTBEAT:
            if self.sends_acks:
                socket.send({"op": HEARTBEAT_ACK, "d": None})
        elif operation == IDENTIFY:
            self._identify(socket, self._fields(data, IDENTIFY_FIELDS))
        elif operation == RESUME:
            self._resume(socket, self._fields(data, RESUME_FIELDS))
        elif operation not in (PRESENCE, REQUEST_MEMBERS):
            self._violations.append(f"gateway: unknown operation {operation!r}")
            raise Closing(4001)
        elif (session := self._session_of(socket)) is None:
            raise Closing(4003)
        elif operation == PRESENCE:
            self.presences.append(self._fields(data, {"since", "activities", "status", "afk"}))
        else:
            self._send_members(session, data)

    def _fields(self, data: Any, known: set[str]) -> JSON:
        if not isinstance(data, dict):
            raise Closing(4002)
        if unknown := data.keys() - known:
            self._violations.append(f"gateway: unknown fields {sorted(unknown)}")
            raise Closing(4002)
        return data

    def _session_of(self, socket: GatewaySocket) -> GatewaySession | None:
        return next((s for s in self.sessions if s.socket is socket), None)

    # IDENTIFY and RESUME

    def _identify(self, socket: GatewaySocket, data: JSON) -> None:
        if self._session_of(socket):
            raise Closing(4005)
        self._check_token(data)
        shard = check_shard(data.get("shard", [0, 1]))
        intents = self._check_intents(data.get("intents"))
        session = GatewaySession(secrets.token_hex(16), shard, intents)
        guilds = [guild for guild in self._state.guilds.values() if session.covers(guild)]
        if len(guilds) >= self._state.limits.guilds_per_shard:
            raise Closing(4011)
        if not self._may_identify(shard[0]):
            socket.send({"op": INVALID_SESSION, "d": False})
            return
        session.socket = socket
        self.identifies.append(socket.path)
        self._forget_sessions()
        self.sessions.append(session)
        session.dispatch("READY", self._ready(session, guilds))
        if intents & GUILDS:
            for guild in guilds:
                session.dispatch("GUILD_CREATE", self.guild_payload(guild))

    def _check_token(self, data: JSON) -> None:
        if data.get("token") != self._state.application.token:
            raise Closing(4004)

    def _check_intents(self, intents: Any) -> int:
        if not isinstance(intents, int) or intents & ~KNOWN_INTENTS:
            raise Closing(4013)
        if intents & PRIVILEGED_INTENTS & ~self._state.application.privileged_intents:
            raise Closing(4014)
        return intents

    def _may_identify(self, shard: int) -> bool:
        """Count an IDENTIFY. After too many in a day, Discord resets the bot's token."""
        now, limits = self._state.clock.now(), self._state.limits
        window = self._identifies.setdefault(
            shard % limits.max_concurrency, Window(1, limits.identify_seconds)
        )
        if not window.take(now):
            return False
        if not self._starts.take(now):
            self._state.application.token = secrets.token_hex(16)
            raise Closing(4004)
        return True

    def _ready(self, session: GatewaySession, guilds: list[DiscordGuild]) -> JSON:
        application = self._state.application
        return {
            "v": 10,
            "user": user_payload(application.bot),
            "guilds": [{"id": str(guild.id), "unavailable": True} for guild in guilds],
            "session_id": session.id,
            "resume_gateway_url": f"ws{self._state.url.removeprefix('http')}/resumed-gateway",
            "shard": list(session.shard),
            "application": {"id": str(application.id), "flags": application_flags(application)},
        }

    def guild_payload(self, guild: DiscordGuild) -> JSON:
        channels = [
            channel
            for channel in self._state.channels.values()
            if channel.guild is guild
            and not channel.is_deleted
            and (may_view(channel) or not channel.is_thread)
        ]
        return guild_payload(guild, channels, self._state.bot)

    def _resume(self, socket: GatewaySocket, data: JSON) -> None:
        self._check_token(data)
        self._forget_sessions()
        session = next((s for s in self.sessions if s.id == data.get("session_id")), None)
        if session is None or session.is_over:
            socket.send({"op": INVALID_SESSION, "d": False})
            return
        seen = data.get("seq")
        if not isinstance(seen, int) or not 0 <= seen <= len(session.frames):
            session.is_over = True
            raise Closing(4007)
        if session.socket:
            session.socket.close(4000)
        session.socket = socket
        session.resumes += 1
        for frame in session.frames[max(seen - self.replay_seen, 0) :]:
            socket.send(frame)
        session.dispatch("RESUMED", {})

    def _forget_sessions(self) -> None:
        """Drop sessions that are over, or whose client has been away for too long."""
        oldest = self._state.clock.now() - self._state.limits.session_seconds
        self.sessions = [
            session
            for session in self.sessions
            if not session.is_over and (session.socket or session.disconnected > oldest)
        ]

    def _detach(self, socket: GatewaySocket, code: int = 0) -> None:
        if socket in self.sockets:
            self.sockets.remove(socket)
        session = self._session_of(socket)
        if session:
            session.socket = None
            session.disconnected = self._state.clock.now()
            session.is_over |= code in ENDS_SESSION

    # Members

    def _send_members(self, session: GatewaySession, data: Any) -> None:
        guild = self._state.guilds.get(int(data["guild_id"]))
        if guild is None:
            raise Closing(4002)
        chunk = {
            "guild_id": str(guild.id),
            "members": [member_payload(user) for user in guild.members.values()],
            "chunk_index": 0,
            "chunk_count": 1,
            "nonce": data.get("nonce"),
        }
        session.dispatch("GUILD_MEMBERS_CHUNK", chunk)

    def bot_information(self, url: str) -> JSON:
        """Return the answer of /gateway/bot."""
        now, limits = self._state.clock.now(), self._state.limits
        return {
            "url": url,
            "shards": self.shards,
            "session_start_limit": {
                "total": limits.session_starts,
                "remaining": self._starts.remaining(now),
                "reset_after": int(self._starts.reset_after(now) * 1000),
                "max_concurrency": limits.max_concurrency,
            },
        }
