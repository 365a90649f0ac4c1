"""Sessions of the gateway of a fake Discord, and what it refuses to open one for."""

import dataclasses
import json
from typing import Any

from palaver.testing.fakes.discord.objects import JSON, DiscordGuild
from palaver.testing.fakes.discord.socket import GatewaySocket
from palaver.testing.fakes.discord.state import (
    GUILD_MEMBERS,
    GUILD_PRESENCES,
    MESSAGE_CONTENT,
    Application,
)

DISPATCH, HEARTBEAT, IDENTIFY, PRESENCE, RESUME = 0, 1, 2, 3, 6
RECONNECT, REQUEST_MEMBERS, INVALID_SESSION, HELLO, HEARTBEAT_ACK = 7, 8, 9, 10, 11

KNOWN_INTENTS = (1 << 26) - 1
PRIVILEGED_INTENTS = GUILD_MEMBERS | GUILD_PRESENCES | MESSAGE_CONTENT
IDENTIFY_FIELDS = {
    "token", "properties", "compress", "large_threshold", "shard", "presence", "intents",
}  # fmt: skip
RESUME_FIELDS = {"token", "session_id", "seq"}
ENDS_SESSION = (1000, 1001, 4003, 4007, 4009)
"""Close codes after which a session cannot be resumed."""


class Closing(Exception):
    """The gateway closes a connection with this code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"close code {code}")
        self.code = code


@dataclasses.dataclass(eq=False, slots=True)
class GatewaySession:
    """What a client gets by IDENTIFY: events, numbered from 1, of one shard.

    ``frames`` are kept for a resume. ``socket`` is None while the client is disconnected.
    """

    id: str
    shard: tuple[int, int]
    intents: int
    frames: list[JSON] = dataclasses.field(default_factory=list)
    socket: GatewaySocket | None = None
    disconnected: float = 0.0
    is_over: bool = False
    resumes: int = 0

    def covers(self, guild: DiscordGuild | None) -> bool:
        number, count = self.shard
        return number == (0 if guild is None else (guild.id >> 22) % count)

    def dispatch(self, event: str, data: JSON) -> None:
        frame = {"op": DISPATCH, "t": event, "s": len(self.frames) + 1, "d": data}
        self.frames.append(frame)
        if self.socket:
            self.socket.send(frame)


def parse_frame(data: Any, max_bytes: int) -> JSON:
    """Return a frame of a client; too long or without JSON it is refused."""
    if not isinstance(data, str) or len(data.encode()) > max_bytes:
        raise Closing(4002)
    try:
        frame = json.loads(data)
    except ValueError as error:
        raise Closing(4002) from error
    if not isinstance(frame, dict):
        raise Closing(4002)
    return frame


def check_shard(shard: Any) -> tuple[int, int]:
    match shard:
        case [int(number), int(count)] if 0 <= number < count:
            return number, count
        case _:
            raise Closing(4010)


def application_flags(application: Application) -> int:
    """Return the flags that tell which privileged intents the portal allows."""
    flags = {GUILD_PRESENCES: 1 << 13, GUILD_MEMBERS: 1 << 15, MESSAGE_CONTENT: 1 << 19}
    allowed = application.privileged_intents
    return sum(flag for intent, flag in flags.items() if allowed & intent)
