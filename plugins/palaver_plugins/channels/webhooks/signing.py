"""Signatures of Standard Webhooks 1.0.0: what is signed is ``id.timestamp.body``, as it is sent.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence

from palaver import Unauthenticated

TOLERANCE_SECONDS = 300
"""Seconds by which the time of a message may differ from this server's."""
MIN_SECRET_BYTES, MAX_SECRET_BYTES = 24, 64
MAX_SIGNATURES = 20
"""Signatures of one message that are looked at."""
ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
_PREFIX = "whsec_"
_ID = re.compile(r"[!-\-/-~]{1,128}")
"""Printable ASCII without a dot: a dot in the id could move the borders of what is signed."""
_TIMESTAMP = re.compile(r"[0-9]{1,12}")


def parse_secret(text: str) -> bytes:
    """Return the key of a secret. Raises `ValueError` with what is wrong, without the secret."""
    if text.startswith("v1,"):
        raise ValueError(
            "begins with 'v1,', which is the mark of a signature; write the secret from 'whsec_' on"
        )
    if not text.startswith(_PREFIX):
        raise ValueError(
            "does not begin with 'whsec_'; make one with: echo whsec_$(openssl rand -base64 32)"
        )
    encoded = text.removeprefix(_PREFIX)
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is not base64 after 'whsec_'") from None
    if not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise ValueError(
            f"has {len(key)} bytes after 'whsec_', not {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES}"
        )
    return key


def sign(keys: Sequence[bytes], id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers of a message, with a signature by each key."""
    signatures = " ".join(_signature(key, id, str(timestamp), body) for key in keys)
    return {ID: id, TIMESTAMP: str(timestamp), SIGNATURE: signatures}


def verify(keys: Sequence[bytes], headers: Mapping[str, str], body: bytes, now: float) -> str:
    """Return the id of a message that one of the keys has signed. Raises `Unauthenticated`."""
    id, timestamp = headers.get(ID, ""), headers.get(TIMESTAMP, "")
    if not _ID.fullmatch(id):
        raise Unauthenticated(f"the header {ID} needs 1 to 128 visible characters, and no dot")
    if not _TIMESTAMP.fullmatch(timestamp):
        raise Unauthenticated(f"the header {TIMESTAMP} needs seconds since the epoch")
    if abs(now - int(timestamp)) > TOLERANCE_SECONDS:
        raise Unauthenticated(f"{TIMESTAMP} differs by more than 5 minutes from this server's time")
    given = headers.get(SIGNATURE, "").split(" ")[:MAX_SIGNATURES]
    is_valid = False
    for key in keys:  # all of them: the time must not tell which matched
        expected = _signature(key, id, timestamp, body).encode()
        for signature in given:
            is_valid |= hmac.compare_digest(expected, signature.encode(errors="replace"))
    if not is_valid:
        raise Unauthenticated(f"no signature of {SIGNATURE} is valid for this body")
    return id


def _signature(key: bytes, id: str, timestamp: str, body: bytes) -> str:
    signed = b".".join((id.encode(), timestamp.encode(), body))
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
