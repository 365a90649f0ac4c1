"""Stores of OAuth in the ledger: installations, and the states of installations under way.

All servers share them. The tokens are in the ledger as they are: whoever reads it has them.
"""

import hashlib
import hmac
import logging
import secrets
from collections.abc import Awaitable, Callable

import msgspec
from slack_sdk.oauth.installation_store import Bot, Installation
from slack_sdk.oauth.installation_store.async_installation_store import AsyncInstallationStore
from slack_sdk.oauth.state_store.async_state_store import AsyncOAuthStateStore

from palaver import Conflict, Record, RecordStore, SteadyClock

STATE_SECONDS = 600.0
"""Seconds in which an installation must be completed."""
_INSTALLATION, _STATE = "installation:", "state:"

log = logging.getLogger(__name__)


class StoredInstallation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Value of the record of an installation: the fields of `Installation` that are used."""

    app_id: str | None = None
    enterprise_id: str | None = None
    enterprise_name: str | None = None
    team_id: str | None = None
    team_name: str | None = None
    bot_token: str
    bot_id: str | None = None
    bot_user_id: str | None = None
    bot_scopes: tuple[str, ...] = ()
    bot_refresh_token: str | None = None
    bot_token_expires_at: int | None = None
    user_id: str
    is_enterprise_install: bool = False
    installed_at: float = 0.0

    @property
    def id(self) -> str:
        """Return the name of the installation."""
        return _name(self.enterprise_id, self.team_id, self.is_enterprise_install)

    def to_installation(self) -> Installation:
        return Installation(**{**msgspec.structs.asdict(self), "bot_scopes": self.bot_scopes})

    @classmethod
    def of(cls, installation: Installation) -> "StoredInstallation":
        return msgspec.convert(installation, cls, from_attributes=True, strict=False)


_decode = msgspec.json.Decoder(StoredInstallation).decode
_encode = msgspec.json.Encoder().encode


def _name(enterprise: str | None, team: str | None, is_enterprise: bool | None) -> str:
    return (enterprise if is_enterprise or not team else team) or ""


class RecordInstallationStore(AsyncInstallationStore):
    """Installations by the id of their workspace or organization; one each, the newest."""

    def __init__(
        self, records: RecordStore, channel: str, on_install: Callable[[str], Awaitable[None]]
    ) -> None:
        """``on_install`` is awaited with the id after each installation."""
        self._records = records
        self._channel = channel
        self._on_install = on_install

    @property
    def logger(self) -> logging.Logger:
        return log

    async def read(self, id: str) -> StoredInstallation | None:
        """Return an installation. Raises `LedgerUnavailable`."""
        record = await self._read(id)
        return _decode(record.value) if record else None

    async def write(self, installation: StoredInstallation) -> None:
        """Store an installation in the place of an earlier one. Raises `LedgerUnavailable`."""
        while True:
            record = await self._read(installation.id)
            try:
                await self._records.write_record(
                    self._channel,
                    _INSTALLATION + installation.id,
                    _encode(installation),
                    expect=record.version if record else 0,
                )
                return
            except Conflict:
                continue

    async def delete(self, id: str) -> bool:
        """Delete an installation; return whether there was one."""
        while record := await self._read(id):
            try:
                await self._records.delete_record(self._channel, record.key, expect=record.version)
                return True
            except Conflict:
                continue
        return False

    async def _read(self, id: str) -> Record | None:
        return await self._records.read_record(self._channel, _INSTALLATION + id)

    # What slack_bolt calls

    async def async_save(self, installation: Installation) -> None:
        stored = StoredInstallation.of(installation)
        await self.write(stored)
        log.info("the app is installed in %s", stored.id)
        await self._on_install(stored.id)

    async def async_find_installation(
        self,
        *,
        enterprise_id: str | None,
        team_id: str | None,
        user_id: str | None = None,
        is_enterprise_install: bool | None = False,
    ) -> Installation | None:
        stored = await self.read(_name(enterprise_id, team_id, is_enterprise_install))
        if stored is None or (user_id and stored.user_id != user_id):
            return None
        return stored.to_installation()

    async def async_find_bot(
        self,
        *,
        enterprise_id: str | None,
        team_id: str | None,
        is_enterprise_install: bool | None = False,
    ) -> Bot | None:
        stored = await self.read(_name(enterprise_id, team_id, is_enterprise_install))
        return stored.to_installation().to_bot() if stored else None

    async def async_delete_bot(self, *, enterprise_id: str | None, team_id: str | None) -> None:
        await self.delete(_name(enterprise_id, team_id, not team_id))

    async def async_delete_installation(
        self, *, enterprise_id: str | None, team_id: str | None, user_id: str | None = None
    ) -> None:
        await self.delete(_name(enterprise_id, team_id, not team_id))


class RecordStateStore(AsyncOAuthStateStore):
    """States that the server signs, so that visitors who never come back leave nothing in the
    ledger. It remembers those that were used: each counts once, on whichever server."""

    def __init__(
        self,
        records: RecordStore,
        channel: str,
        secret: str,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._records = records
        self._channel = channel
        self._secret = secret.encode()
        self._clock = clock or SteadyClock()

    @property
    def logger(self) -> logging.Logger:
        return log

    async def async_issue(self, *args: object, **kwargs: object) -> str:
        content = f"{int(self._clock())}-{secrets.token_hex(16)}"
        return f"{content}-{self._sign(content)}"

    async def async_consume(self, state: str) -> bool:
        content, _, signature = state.rpartition("-")
        if not state.isascii() or not hmac.compare_digest(signature, self._sign(content)):
            return False
        issued_at = int(content.partition("-")[0])
        if self._clock() > issued_at + STATE_SECONDS:
            return False
        await self._forget_old()
        try:
            key = f"{_STATE}{content}"
            await self._records.write_record(self._channel, key, b"", expect=0)
        except Conflict:
            return False
        return True

    async def _forget_old(self) -> None:
        """Delete used states that are too old to count anyhow; their keys begin with the time."""
        for record in await self._records.list_records(self._channel, _STATE):
            issued_at = int(record.key.removeprefix(_STATE).partition("-")[0])
            if self._clock() <= issued_at + STATE_SECONDS:
                return
            try:
                await self._records.delete_record(self._channel, record.key, expect=record.version)
            except Conflict:
                pass  # another server has deleted it

    def _sign(self, content: str) -> str:
        return hmac.new(self._secret, content.encode(), hashlib.sha256).hexdigest()
