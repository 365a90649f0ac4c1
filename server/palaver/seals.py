"""Seals: texts that only this server can have written, which a client keeps and brings back.

All replicas share the secret, so that none of them has to remember what a client may come back
with, such as a session. A sealed text is signed, not encrypted.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import TypeVar

import msgspec

MAX_SEALED_LENGTH = 8_192
"""Characters of a sealed text. Longer ones are not read."""
MAC_BYTES = 16
StatementT = TypeVar("StatementT", bound=msgspec.Struct)


class Seals:
    """Seals statements for one ``purpose``, and reads them. The first secret seals, all of them
    read; a statement that is sealed for another purpose is not valid."""

    def __init__(self, signing_secrets: Sequence[bytes], purpose: str) -> None:
        self._keys = [
            hmac.new(secret, f"palaver seal {purpose}".encode(), hashlib.sha256).digest()
            for secret in signing_secrets or (secrets.token_bytes(32),)
        ]

    def seal(self, statement: msgspec.Struct) -> str:
        """Return the statement as a text of letters, digits, ``_`` and ``-``."""
        content = msgspec.json.encode(statement)
        return _to_text(_mac(self._keys[0], content) + content)

    def read(self, sealed: str, kind: type[StatementT]) -> StatementT | None:
        """Return a sealed statement; None: it is none of this server and this purpose."""
        data = _from_text(sealed)
        mac, content = data[:MAC_BYTES], data[MAC_BYTES:]
        if not any(hmac.compare_digest(mac, _mac(key, content)) for key in self._keys):
            return None
        try:
            return msgspec.json.decode(content, type=kind)
        except (msgspec.DecodeError, msgspec.ValidationError):
            return None


def _mac(key: bytes, content: bytes) -> bytes:
    return hmac.new(key, content, hashlib.sha256).digest()[:MAC_BYTES]


def _to_text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _from_text(text: str) -> bytes:
    """Return the data of a text; nothing when it is none that `_to_text` has written."""
    if len(text) > MAX_SEALED_LENGTH or not text.isascii():
        return b""
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (ValueError, binascii.Error):
        return b""
    return data if _to_text(data) == text else b""
