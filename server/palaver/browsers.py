"""Browsers: each is a person of its own, which a cookie that the server has signed proves."""

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from palaver.config.settings import Settings
from palaver.errors import ConfigurationError
from palaver.private_files import remove_rights_of_others, write_private_file

SECRET_FILE = "cookie-secret"
"""Name of the file in ``server.data`` with the secret that signs, unless the settings name one."""
HOST_PREFIX = "__Host-"


class BrowserCookies:
    """Signs and verifies the ids of browsers. The first secret signs, all of them verify.

    A cookie's name derives from its secret, so that several servers on one host, which share their
    cookies, do not overwrite each other's. Over https it has the prefix ``__Host-``: no other host
    of the domain can set such a cookie, which would make a visitor its own person.
    """

    def __init__(self, signing_secrets: Sequence[bytes]) -> None:
        self._secrets = tuple(signing_secrets) or (secrets.token_bytes(32),)
        self._names = tuple(f"palaver_{_mac(secret, 'name')[:8]}" for secret in self._secrets)

    def name(self, *, is_https: bool) -> str:
        """Return the name of the cookie to set."""
        return f"{HOST_PREFIX}{self._names[0]}" if is_https else self._names[0]

    def read(self, cookies: Mapping[str, str], *, is_https: bool) -> str:
        """Return the browser's id; empty when no cookie of this server has a valid signature.

        A cookie without the prefix counts only where https is not known to be used.
        """
        for prefix in (HOST_PREFIX,) if is_https else (HOST_PREFIX, ""):
            for name, secret in zip(self._names, self._secrets, strict=True):
                if id := _verify(cookies.get(prefix + name, ""), secret):
                    return id
        return ""

    def sign(self, id: str) -> str:
        """Return the cookie's value for a browser."""
        return f"{id}.{_mac(self._secrets[0], f'browser {id}')}"


def _verify(cookie: str, secret: bytes) -> str:
    id, _, signature = cookie.partition(".")
    expected = _mac(secret, f"browser {id}") if cookie.isascii() else ""
    return id if expected and hmac.compare_digest(signature, expected) else ""


def new_browser_id() -> str:
    return secrets.token_hex(16)


def browser_person(id: str, tenant: str, key: str) -> str:
    """Return the person of a browser that uses ``key``. It is another one for each key, and does
    not reveal the id."""
    return "browser-" + hashlib.sha256("\0".join((id, tenant, key)).encode()).hexdigest()[:32]


def load_cookie_secrets(settings: Settings) -> tuple[bytes, ...]:
    """Return the secrets of `BrowserCookies`, and create the file of the first one where the
    settings name none. Blocks. Raises `ConfigurationError`."""
    auth = settings.auth
    if auth.cookie_secret is None:
        current = _read_or_create(settings.server.data / SECRET_FILE)
    else:
        current = auth.cookie_secret.reveal().encode()
    previous = auth.previous_cookie_secret
    return (current,) if previous is None else (current, previous.reveal().encode())


def _read_or_create(path: Path) -> bytes:
    try:
        if not path.exists():
            _create(path)
        remove_rights_of_others(path)
        secret = path.read_bytes().strip()
    except OSError as error:
        raise ConfigurationError(f"the cookie secret {str(path)!r}: {error.strerror}") from error
    if not secret:
        raise ConfigurationError(f"the cookie secret {str(path)!r} is empty; delete the file")
    return secret


def _create(path: Path) -> None:
    """Create the file whole or not at all; another process may do the same now."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        write_private_file(draft, secrets.token_hex(32).encode())
        os.link(draft, path)
    except FileExistsError:
        pass  # the other process was first
    finally:
        draft.unlink(missing_ok=True)


def _mac(secret: bytes, text: str) -> str:
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()
