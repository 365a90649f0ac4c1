"""Visitors of a site with the widget: their persons, and the signed statements that prove them.

A *visitor statement* makes the same browser the same person for months: the widget keeps it. A
*visitor token* lets pages of one origin act for the person for ten minutes.
"""

import contextlib
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import jwt
import msgspec

TOKEN_SECONDS = 600
"""Life of a token."""
STATEMENT_SECONDS = 400 * 86_400
"""Life of a visitor statement, that of a browser's cookie. Each new token comes with a new one."""
MAX_SIGNED_LENGTH = 2_048
"""Characters of a token or statement. Longer ones are not read."""
PREFIX = "visitor"
_ALGORITHM = "HS256"
StatementT = TypeVar("StatementT", bound=msgspec.Struct)


class VisitorToken(msgspec.Struct, frozen=True):
    """The right of pages of ``origin`` to act for a person until ``exp``, in seconds since 1970."""

    site: str
    origin: str
    person: str
    exp: float


class VisitorStatement(msgspec.Struct, frozen=True):
    """The random id of a site's visitor."""

    site: str
    id: str
    exp: float


class VisitorSignatures:
    """Signs and verifies tokens and statements. The first secret signs, all of them verify.

    Each kind has a key of its own that derives from the secret, so that none passes for the other
    or for a browser's cookie.
    """

    def __init__(
        self, signing_secrets: Sequence[bytes], clock: Callable[[], float] = time.time
    ) -> None:
        known = tuple(signing_secrets) or (secrets.token_bytes(32),)
        self._token_keys = [_derive_key(secret, "visitor token") for secret in known]
        self._statement_keys = [_derive_key(secret, "visitor statement") for secret in known]
        self._clock = clock

    def sign_token(self, site: str, origin: str, person: str) -> str:
        exp = self._clock() + TOKEN_SECONDS
        return _sign(VisitorToken(site, origin, person, exp), self._token_keys[0])

    def read_token(self, token: str) -> VisitorToken | None:
        """Return a token that has this server's signature, perhaps an expired one."""
        return _read(token, self._token_keys, VisitorToken)

    def is_expired(self, token: VisitorToken) -> bool:
        return token.exp <= self._clock()

    def sign_visitor(self, site: str, id: str) -> str:
        exp = self._clock() + STATEMENT_SECONDS
        return _sign(VisitorStatement(site, id, exp), self._statement_keys[0])

    def read_visitor(self, statement: str, site: str) -> str:
        """Return the id of a site's visitor; empty when the statement is not a valid one."""
        found = _read(statement, self._statement_keys, VisitorStatement)
        if found is None or found.site != site or found.exp <= self._clock():
            return ""
        return found.id


def _derive_key(secret: bytes, purpose: str) -> bytes:
    return hmac.new(secret, f"palaver {purpose}".encode(), hashlib.sha256).digest()


def _sign(statement: msgspec.Struct, key: bytes) -> str:
    return jwt.encode(msgspec.structs.asdict(statement), key, algorithm=_ALGORITHM)


def _read(text: str, keys: Sequence[bytes], kind: type[StatementT]) -> StatementT | None:
    for key in keys if len(text) <= MAX_SIGNED_LENGTH else ():
        # An expired token is no wrong key: `is_expired` and `read_visitor` check the time.
        with contextlib.suppress(jwt.PyJWTError, ValueError, RecursionError):  # it may be anything
            claims = jwt.decode(text, key, [_ALGORITHM], options={"verify_exp": False})
            return msgspec.convert(claims, kind)
    return None


# Persons


def new_visitor_id() -> str:
    return secrets.token_hex(16)


def visitor_person(tenant: str, site: str, id: str) -> str:
    """Return the person of a visitor's random id, which it does not reveal."""
    return _person(site, "visitor", tenant, site, id)


def identified_person(tenant: str, site: str, subject: str) -> str:
    """Return the person whom a site's own backend calls ``subject``."""
    return _person(site, "identity", tenant, site, subject)


def _person(site: str, *parts: str) -> str:
    digest = hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()[:32]
    return f"{PREFIX}.{site}.{digest}"


def site_of_person(person: str) -> str:
    """Return the name of the site whose visitor a person is; empty: of none."""
    prefix, _, rest = person.partition(".")
    return rest.rpartition(".")[0] if prefix == PREFIX else ""
