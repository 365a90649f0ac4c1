"""Authorization at MCP servers: a token, or OAuth without a person."""

import asyncio
import hashlib
from collections.abc import Generator
from urllib.parse import parse_qsl

import httpx2
import msgspec
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken

from palaver import Conflict, Record, RecordStore, Secret
from palaver_plugins.tools.mcp.settings import RECORDS, McpServerSettings, OAuthSettings


class BearerToken(httpx2.Auth):
    """Sends a token with every request. The SDK follows no redirect to another origin."""

    def __init__(self, token: str) -> None:
        self._token = token

    def auth_flow(
        self, request: httpx2.Request
    ) -> Generator[httpx2.Request, httpx2.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._token}"
        yield request


async def make_auth(
    server: str, settings: McpServerSettings, records: RecordStore | None
) -> httpx2.Auth | None:
    """Return what authorizes requests to a server. Raises `ConfigurationError` for a secret that
    cannot be read. Without ``records``, tokens last as long as the connection."""
    if settings.token:
        return BearerToken(await _reveal(settings.token))
    if settings.oauth is None:
        return None
    secret = await _reveal(settings.oauth.client_secret)
    refresh_token = await _reveal(settings.oauth.refresh_token)
    tokens = StoredTokens(records, server, refresh_token)
    return OAuthWithoutPerson(settings.url, tokens, settings.oauth, secret)


async def _reveal(secret: Secret | None) -> str:
    return await asyncio.to_thread(secret.reveal) if secret else ""


class _StoredToken(msgspec.Struct, frozen=True, kw_only=True):
    """The newest token of a server. ``source`` identifies the refresh token of the settings that
    it comes from: another one there replaces it."""

    source: str
    token: str


class StoredTokens:
    """The newest token of a server, in the ledger's records. It is a ``TokenStorage`` of the
    SDK."""

    def __init__(self, records: RecordStore | None, server: str, refresh_token: str) -> None:
        self._records = records
        self._key = f"oauth:{server}"
        self._source = hashlib.sha256(refresh_token.encode()).hexdigest()
        self._first_refresh_token = refresh_token
        self._newest: OAuthToken | None = None

    async def refresh_token(self) -> str:
        """Return the newest refresh token, empty when there is none."""
        tokens = await self.get_tokens()
        return (tokens and tokens.refresh_token) or self._first_refresh_token

    async def get_tokens(self) -> OAuthToken | None:
        if self._records is None:
            return self._newest
        record = await self._records.read_record(RECORDS, self._key)
        stored = _decode(record.value) if record else None
        if stored is None or stored.source != self._source:
            return None
        return OAuthToken.model_validate_json(stored.token)

    async def set_tokens(self, tokens: OAuthToken) -> None:
        if tokens.refresh_token is None and self._first_refresh_token:
            tokens = tokens.model_copy(update={"refresh_token": await self.refresh_token()})
        self._newest = tokens
        if self._records is None:
            return
        value = _encode(_StoredToken(source=self._source, token=tokens.model_dump_json()))
        while True:
            record: Record | None = await self._records.read_record(RECORDS, self._key)
            try:
                await self._records.write_record(
                    RECORDS, self._key, value, expect=record.version if record else 0
                )
                return
            except Conflict:
                continue

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return None  # the settings name the client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None: ...


_decode = msgspec.json.Decoder(_StoredToken).decode
_encode = msgspec.json.Encoder().encode


class OAuthWithoutPerson(ClientCredentialsOAuthProvider):
    """OAuth by client credentials, or by the newest refresh token where there is one."""

    def __init__(
        self, url: str, tokens: StoredTokens, settings: OAuthSettings, client_secret: str
    ) -> None:
        super().__init__(
            url,
            tokens,
            client_id=settings.client_id,
            client_secret=client_secret,
            scope=settings.scope or None,
            issuer=settings.issuer,
        )
        self._tokens = tokens
        self._scope = settings.scope
        if not client_secret:
            self._fixed_client_info = OAuthClientInformationFull(
                redirect_uris=None,
                client_id=settings.client_id,
                grant_types=["refresh_token"],
                token_endpoint_auth_method="none",
                scope=settings.scope or None,
            )

    async def _exchange_token_client_credentials(self) -> httpx2.Request:
        if self._scope:  # the SDK prefers the scopes that the server names
            self.context.client_metadata.scope = self._scope
        request = await super()._exchange_token_client_credentials()  # checks the issuer
        refresh_token = await self._tokens.refresh_token()
        if not refresh_token:
            return request
        form = dict(parse_qsl(request.content.decode()))
        form |= {"grant_type": "refresh_token", "refresh_token": refresh_token}
        form["client_id"] = self._fixed_client_info.client_id or ""
        headers = {
            name: value for name, value in request.headers.items() if name == "authorization"
        }
        return httpx2.Request("POST", request.url, data=form, headers=headers)
