"""Access policy: who may talk to a channel's bot. It is asked before anything that a person does:
messages, edits, commands, buttons, ratings.

Direct messages of strangers are refused until an operator approves the person, see
`palaver.platforms.pairing`. Messages of other bots are ignored unless the settings allow them, and
then limited: two bots that answer each other would never end.
"""

import time
from collections.abc import Callable
from typing import Literal

import msgspec
import pydantic

from palaver.config.settings import PluginSettings
from palaver.errors import Conflict
from palaver.platforms.incoming import Source
from palaver.platforms.pairing import Pairings, key_digest
from palaver.records import RecordStore

Verdict = Literal["allowed", "refused", "unpaired"]
"""``unpaired``: refused, and the person may ask an operator for approval."""

BOT_WINDOW = 3600.0
"""Seconds for which `ChannelSettings.bot_turns` counts."""


class ChannelSettings(PluginSettings):
    """Settings of every channel on a chat platform."""

    direct_messages: Literal["pairing", "allowlist", "open", "disabled"] = "pairing"
    """Whose direct messages are answered: ``pairing`` (a stranger gets a code, and an operator
    approves it with ``palaver channels approve``), ``allowlist`` (those of ``people``), ``open``
    (everybody's), ``disabled`` (nobody's). With ``pairing``, ``people`` need no approval."""
    groups: Literal["open", "allowlist", "disabled"] = "open"
    """Where messages in channels and groups are answered: ``open`` (wherever the bot is a member
    and is addressed), ``allowlist`` (in ``rooms``), ``disabled`` (nowhere)."""
    people: tuple[str, ...] = ()
    """The platform's ids of people who may write direct messages."""
    rooms: tuple[str, ...] = ()
    """The platform's ids of channels or groups in which the bot answers."""
    bots: Literal["ignore", "answer"] = "ignore"
    """Whether messages of other bots are answered."""
    bot_turns: int = pydantic.Field(default=5, ge=1, le=100)
    """Most messages of bots that are answered in one channel or group in an hour, or in one
    conversation of direct messages."""


class _BotTurns(msgspec.Struct):
    """Messages of bots that were let through, with their times in seconds since the epoch."""

    times: dict[str, float] = {}


_decode = msgspec.json.Decoder(_BotTurns).decode
_encode = msgspec.json.Encoder().encode


class AccessPolicy:
    """Decides who may talk to a channel's bot."""

    def __init__(
        self,
        settings: ChannelSettings,
        records: RecordStore,
        channel: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._records = records
        self._channel = channel
        self._clock = clock
        self.pairings = Pairings(records, channel, clock=self._clock)

    async def decide(self, source: Source) -> Verdict:
        """Return whether the person may talk to the bot here. Raises `LedgerUnavailable`."""
        settings = self._settings
        if source.is_bot and settings.bots == "ignore":
            return "refused"
        if not source.is_direct:
            is_listed = settings.groups == "allowlist" and source.room in settings.rooms
            return "allowed" if settings.groups == "open" or is_listed else "refused"
        if settings.direct_messages == "open":
            return "allowed"
        if settings.direct_messages == "disabled":
            return "refused"
        if source.user in settings.people:
            return "allowed"
        if settings.direct_messages == "allowlist":
            return "refused"
        if await self.pairings.find(source.tenant, source.person):
            return "allowed"
        return "refused" if source.is_bot else "unpaired"  # bots would answer a code without end

    async def admits_bot(self, source: Source, message: str) -> bool:
        """Count a bot's message; return False when there were enough of them in the room: two bots
        may open a new thread with every message."""
        key = f"bots:{key_digest(f'{source.tenant}/{source.room or source.thread}')}"
        while True:
            record = await self._records.read_record(self._channel, key)
            turns = _decode(record.value) if record else _BotTurns()
            since = self._clock() - BOT_WINDOW
            recent = {id: at for id, at in turns.times.items() if at > since}
            if message in recent:
                return True
            if len(recent) >= self._settings.bot_turns:
                return False
            value = _encode(_BotTurns({**recent, message: self._clock()}))
            try:
                expect = record.version if record else 0
                await self._records.write_record(self._channel, key, value, expect=expect)
            except Conflict:
                continue
            return True
