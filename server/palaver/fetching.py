"""Fetcher: pages and files of the web, for tools. What it returns was written by strangers.

Only addresses of the public internet are reached, and networks that the operator names: each
redirect is checked as the first address is. See `palaver.outbound`.
"""

import asyncio
import dataclasses
import re
import ssl
from collections.abc import Iterable
from email.message import Message as Headers
from typing import Self

from yarl import URL

from palaver.config.settings import FetchSettings
from palaver.errors import Forbidden, InvalidInput
from palaver.origins import matches_host
from palaver.outbound import (
    REDIRECTS,
    AddressRefused,
    FindAddresses,
    OutboundClient,
    OutboundContent,
    OutboundError,
    find_addresses_by_system,
)
from palaver.text_pool import run_on_text

MAX_REDIRECTS = 5
MAX_FETCHES = 8
"""Pages that are fetched at once; each takes up to ``fetch.max_bytes`` of memory."""
MAX_URL = 2_000
"""Characters of an address."""
MAX_NAME = 100
SCHEMES = ("http", "https")
_ACCEPT = "text/html, application/xhtml+xml, application/pdf, application/json, text/*;q=0.9"
_TEXT_TYPES = re.compile(
    r"application/(?:[\w.-]+\+)?(?:json|xml|yaml)|application/(?:javascript|toml)"
)
_ADDRESS = re.compile(r"https?://[^\s<>\"'`|\\]+", re.IGNORECASE)
_WORD = re.compile(r"[^\s<>\"'`|\\]+")
_BEFORE, _AFTER = "([{*_„“«", ")]}.,;:!?*_”»"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FetchedFile:
    """A page or file, with the address at which it was found after all redirects."""

    url: str
    name: str
    media_type: str
    content: bytes = dataclasses.field(repr=False)


class Fetcher:
    """Fetches pages and files while it is open, as ``async with``."""

    def __init__(
        self,
        settings: FetchSettings,
        *,
        find_addresses: FindAddresses = find_addresses_by_system,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._settings = settings
        self._client = OutboundClient(
            allowed_networks=settings.allowed_networks,
            is_public_http_allowed=True,
            timeout=settings.timeout,
            find_addresses=find_addresses,
            ssl_context=ssl_context,
        )
        self._fetches = asyncio.Semaphore(MAX_FETCHES)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.__aexit__(*error)

    async def fetch(
        self, url: str, written: Iterable[str], *, any_type: bool = False
    ) -> FetchedFile:
        """Return the file at a URL, which is a text or PDF, or of ``any_type``. ``written`` are the
        texts of the people in the conversation.

        Raises `Forbidden` for an address that the operator does not allow, and `InvalidInput`; both
        with a sentence for the model.
        """
        parsed = _parse(url)
        if self._settings.only_written and not await _is_written(parsed, written):
            raise Forbidden(
                f"Only addresses that people have written in this conversation are fetched, and "
                f"{url!r} is none. Ask the person to write the address, or answer without it."
            )
        try:
            async with self._fetches, asyncio.timeout(self._settings.timeout):
                return await self._follow(parsed, any_type)
        except TimeoutError:
            seconds = self._settings.timeout
            raise InvalidInput(f"{parsed.host!r} did not answer in {seconds:g} s.") from None

    async def _follow(self, url: URL, any_type: bool) -> FetchedFile:
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._get(url)
            if response.status not in REDIRECTS:
                return _make_file(url, response, any_type)
            try:
                url = _parse(str(url.join(URL(response.headers.get("Location", "")))))
            except ValueError:
                raise InvalidInput(f"{url.host!r} redirects to a malformed address.") from None
        raise InvalidInput(f"The address redirects more than {MAX_REDIRECTS} times.")

    async def _get(self, url: URL) -> OutboundContent:
        """Return the response of one address. The reason of a refusal names no address of a host:
        it would tell strangers about the network of this server."""
        hosts = self._settings.hosts
        if hosts and not any(matches_host(pattern, url.raw_host or "") for pattern in hosts):
            raise Forbidden(f"The host {url.host!r} is none of those that may be fetched.")
        try:
            return await self._client.get(
                str(url), {"Accept": _ACCEPT}, max_bytes=self._settings.max_bytes
            )
        except AddressRefused:
            raise Forbidden(f"The host {url.host!r} is not on the public internet.") from None
        except OutboundError as error:
            raise InvalidInput(f"The address cannot be fetched: {error}.") from error


def _parse(url: str) -> URL:
    """Return a URL without its fragment. Raises `InvalidInput`."""
    if len(url) > MAX_URL:
        raise InvalidInput(f"An address has at most {MAX_URL} characters.")
    try:
        parsed = URL(url).with_fragment(None)
    except ValueError:
        raise InvalidInput(f"{url!r} is not an address.") from None
    if parsed.scheme not in SCHEMES or not parsed.host:
        raise InvalidInput(f"{url!r} is not an address of the form https://HOST/PATH.")
    if parsed.user is not None or parsed.password is not None:
        raise InvalidInput("An address with a user or a password is not fetched.")
    return parsed


def _make_file(url: URL, response: OutboundContent, any_type: bool) -> FetchedFile:
    """Return the file of a response. Raises `InvalidInput` unless it succeeded and holds text, or
    is of ``any_type``."""
    if response.status != 200:
        raise InvalidInput(f"{url.host!r} answered with the status {response.status}.")
    headers = Headers()
    headers["Content-Type"] = response.headers.get("Content-Type", "application/octet-stream")
    media_type = headers.get_content_type()
    if media_type == "application/xhtml+xml":
        media_type = "text/html"
    elif _TEXT_TYPES.fullmatch(media_type):
        media_type = "text/plain"
    is_text = media_type.startswith("text/") or media_type == "application/pdf"
    if not is_text and not any_type:
        raise InvalidInput(f"{url.host!r} sent a file of the type {media_type}, which is no text.")
    return FetchedFile(
        url=str(url),
        name=(url.name or url.host or "")[:MAX_NAME],
        media_type=media_type,
        content=response.body,
    )


async def _is_written(url: URL, texts: Iterable[str]) -> bool:
    """Return whether one of the texts holds the address, with or without its scheme."""
    wanted = _comparable(url)
    for text in texts:
        if await run_on_text(_holds, text, wanted):
            return True
    return False


def _holds(text: str, wanted: str) -> bool:
    for word in (*_ADDRESS.findall(text), *_WORD.findall(text)):
        address = word.lstrip(_BEFORE)
        for candidate in {address, address.rstrip(_AFTER)}:
            if "." not in candidate or len(candidate) > MAX_URL:
                continue
            try:
                url = URL(candidate if "://" in candidate else f"https://{candidate}")
            except ValueError:
                continue
            if url.scheme in SCHEMES and url.host and _comparable(url) == wanted:
                return True
    return False


def _comparable(url: URL) -> str:
    """Return what must be equal of an address that was written and one that is fetched."""
    return (
        f"{url.raw_host}:{url.explicit_port or ''}{url.raw_path.rstrip('/')}?{url.raw_query_string}"
    )
