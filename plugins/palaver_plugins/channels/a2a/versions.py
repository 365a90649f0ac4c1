"""Versions: which version of the protocol a request speaks."""

from aiohttp import web

from palaver_plugins.channels.a2a.errors import VersionNotSupported

HEADER = "A2A-Version"
ABSENT = "0.3"
"""The version of a request that names none."""


def check_version(request: web.Request) -> None:
    """Raise `VersionNotSupported` unless the request speaks 1.x."""
    version = (request.headers.get(HEADER) or request.query.get(HEADER) or ABSENT).strip()
    major, _, minor = version.partition(".")
    if major != "1" or not (minor.isascii() and minor.replace(".", "").isdigit()):
        raise VersionNotSupported(
            f"the version {version[:20]!r} is not supported; send {HEADER}: 1.0"
        )
