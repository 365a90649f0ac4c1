"""Web origins: scheme, host and port of a page, in one form in which they can be compared."""

import ipaddress
import re

import idna

MAX_PORT = 65_535
DEFAULT_PORTS = {"http": "80", "https": "443"}
_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://"
    r"(?P<host>\[[0-9a-f:.]+\]|[^\s\x00-\x20/?#@:*,;%\\\[\]]+)"
    r"(?::(?P<port>[0-9]{1,5}))?"
)


def parse_origin(text: str) -> str:
    """Return an origin as browsers send it: in lower case, without the scheme's default port.

    Raises `ValueError`.
    """
    match = _ORIGIN.fullmatch(text.lower())
    try:
        host = _normalize_host(match["host"]) if match else ""
    except ValueError:
        host = ""
    port = int(match["port"] or DEFAULT_PORTS.get(match["scheme"], "1")) if match else 0
    if match is None or not host or not 1 <= port <= MAX_PORT:
        raise ValueError(f"{text!r} is not an origin such as 'https://www.example.org'")
    scheme = match["scheme"]
    has_default = match["port"] is None or str(port) == DEFAULT_PORTS.get(scheme)
    suffix = "" if has_default else f":{port}"
    return f"{scheme}://{host}{suffix}"


def parse_host_pattern(text: str) -> str:
    """Return a host, or ``*.`` and a domain for the hosts below it, in the form in which
    `matches_host` compares. Raises `ValueError`."""
    wildcard = "*." if text.startswith("*.") else ""
    try:
        host = parse_origin(f"https://{text.removeprefix('*.')}").removeprefix("https://")
    except ValueError:
        host = ":"
    if ":" in host and not host.startswith("["):
        raise ValueError(f"{text!r} is not a host such as 'www.example.org' or '*.example.org'")
    return wildcard + host


def matches_host(pattern: str, host: str) -> bool:
    """Return whether a parsed pattern stands for a host in ASCII."""
    host = host.lower()
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern


def _normalize_host(host: str) -> str:
    """Return a host in ASCII, an IPv6 address in its shortest form."""
    if host.startswith("["):
        return f"[{ipaddress.IPv6Address(host[1:-1])}]"
    if host.isascii():
        return host
    try:
        return idna.encode(host, uts46=True).decode("ascii")
    except idna.IDNAError:  # such as an emoji, which browsers encode by the older rules
        return host.encode("idna").decode("ascii")


def find_origin_of_page(header: str) -> str:
    """Return the origin that an ``Origin`` header names; empty: none that can be told from others,
    such as ``null``."""
    try:
        return parse_origin(header) if header.isascii() else ""
    except ValueError:
        return ""


def is_origin_of_host(origin: str, host: str) -> bool:
    """Return whether a parsed origin is that of the pages of a ``Host`` header."""
    scheme = origin.partition("://")[0]
    return scheme in DEFAULT_PORTS and find_origin_of_page(f"{scheme}://{host}") == origin
