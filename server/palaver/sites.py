"""Sites: the web sites whose pages may show the widget, and the identities that they sign."""

import dataclasses
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from palaver.authentication import (
    Principal,
    comes_from,
    list_secrets,
    reveal_if_possible,
    shared_identities,
)
from palaver.config.settings import Right, Settings, SiteSettings
from palaver.errors import ConfigurationError, Forbidden, Unauthenticated
from palaver.messages import MAX_ID_LENGTH
from palaver.visitors import (
    VisitorSignatures,
    identified_person,
    new_visitor_id,
    visitor_person,
)

if TYPE_CHECKING:  # programs without the web surface do not load aiohttp
    from aiohttp import web

VISITOR_RIGHTS: frozenset[Right] = frozenset({"talk", "read", "export", "erase"})
"""What visitors may do, with what is their own."""
MIN_SECRET_CHARACTERS = 32
"""HS256 needs a secret as long as its hash (RFC 7518, 3.2)."""
MIN_RSA_BITS = 2048
MAX_IDENTITY_SECONDS = 12 * 3600
"""Most seconds for which an identity may be valid: a stolen one is of use for no longer."""
CLOCK_TOLERANCE_SECONDS = 60
"""Seconds by which the clock of a site's backend may deviate."""
MAX_IDENTITY_LENGTH = 8_192
"""Characters of a signed identity."""
PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey


@dataclasses.dataclass(frozen=True, slots=True)
class Site:
    """One site. ``keys`` verify the identities that its backend signs, by the one algorithm that
    each is for: what a token's header says chooses among these and nothing else."""

    name: str
    settings: SiteSettings
    keys: Mapping[str, str | PublicKey]

    def find_person(self, identity: str) -> str:
        """Return the person of a signed identity. Raises `Unauthenticated`."""
        if not self.keys:
            raise Unauthenticated(
                "this site takes no signed identities: set "
                f"widget.sites.{self.name}.identity_secret or identity_public_key"
            )
        if len(identity) > MAX_IDENTITY_LENGTH:
            raise Unauthenticated(f"an identity has at most {MAX_IDENTITY_LENGTH} characters")
        try:
            claims = self._verify(identity)
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise Unauthenticated(f"the identity is not accepted: {error}") from error
        return identified_person(self.settings.tenant, self.name, claims["sub"])

    def _verify(self, identity: str) -> dict[str, str]:
        algorithm = jwt.get_unverified_header(identity).get("alg")
        if not isinstance(algorithm, str) or algorithm not in self.keys:
            raise ValueError(f"its algorithm must be {' or '.join(self.keys)}")
        claims = jwt.decode(
            identity,
            self.keys[algorithm],
            algorithms=[algorithm],
            audience=self.settings.key,
            leeway=CLOCK_TOLERANCE_SECONDS,
            options={"require": ["exp", "sub", "aud"]},
        )
        if int(claims["exp"]) > time.time() + MAX_IDENTITY_SECONDS + CLOCK_TOLERANCE_SECONDS:
            raise ValueError(f"'exp' may be {MAX_IDENTITY_SECONDS // 3600} hours ahead at most")
        if not 0 < len(claims["sub"]) <= MAX_ID_LENGTH:
            raise ValueError(f"'sub' must have 1 to {MAX_ID_LENGTH} characters")
        return claims


@dataclasses.dataclass(frozen=True, slots=True)
class VisitorGrant:
    """What a visitor gets: a token for ``person``, and the statement ``visitor`` to come back with.
    ``is_new``: nothing has shown who it is."""

    token: str
    person: str
    visitor: str
    is_new: bool


class Sites:
    """All sites of one server, and the tokens of their visitors."""

    def __init__(self, settings: Settings, signatures: VisitorSignatures) -> None:
        self._settings = settings
        self._signatures = signatures
        self._sites: dict[str, Site]

    def load(self) -> None:
        """Read the secrets; blocks. Raises `ConfigurationError`."""
        if problems := list(find_site_problems(self._settings)):
            raise ConfigurationError("\n".join(problems))
        self._sites = {
            name: Site(name, site, _load_keys(site))
            for name, site in self._settings.widget.sites.items()
        }

    def find(self, key: str, origin: str) -> Site:
        """Return the site of a public key that a page of ``origin`` uses. Raises `Forbidden`."""
        for site in self._sites.values():
            if site.settings.key == key and origin in site.settings.origins:
                return site
        raise Forbidden(
            f"no site has the key {key[:100]!r} and pages of {origin[:100]!r}; widget.sites has "
            "the keys and origins"
        )

    def grant(self, site: Site, origin: str, *, visitor: str, identity: str) -> VisitorGrant:
        """Return a token for a visitor: whom ``identity`` names, else whom the statement
        ``visitor`` proves, else somebody new. Raises `Unauthenticated`."""
        if site.settings.require_identity and not identity:
            raise Unauthenticated("this site's visitors need a signed identity")
        known = self._signatures.read_visitor(visitor, site.name)
        id = known or new_visitor_id()
        if identity:
            person = site.find_person(identity)
        else:
            person = visitor_person(site.settings.tenant, site.name, id)
        return VisitorGrant(
            token=self._signatures.sign_token(site.name, origin, person),
            person=person,
            visitor=self._signatures.sign_visitor(site.name, id),
            is_new=not (known or identity),
        )

    def find_principal(self, request: "web.Request", token: str) -> Principal | None:
        """Return the visitor of a token; None: this server has signed no such token. Raises
        `Unauthenticated` for one that is over, `Forbidden` for a page of another origin."""
        found = self._signatures.read_token(token) if self._sites else None
        if found is None:
            return None
        site = self._sites.get(found.site)
        if site is None or found.origin not in site.settings.origins:
            raise Unauthenticated("the site of this token is no longer served")
        if not comes_from(request, found.origin):
            raise Forbidden(f"this token is for pages of {found.origin!r} alone")
        if self._signatures.is_expired(found):
            raise Unauthenticated("this token has expired; get another one")
        tenant = site.settings.tenant
        shared = shared_identities(self._settings.auth, tenant)
        return Principal(
            tenant, found.person, site.name, VISITOR_RIGHTS, shared, site.name, found.exp
        )


def _load_keys(site: SiteSettings) -> dict[str, str | PublicKey]:
    keys: dict[str, str | PublicKey] = {}
    if site.identity_secret is not None:
        keys["HS256"] = site.identity_secret.reveal()
    if site.identity_public_key:
        algorithm, key = _load_public_key(site.identity_public_key)
        keys[algorithm] = key
    return keys


def _load_public_key(pem: str) -> tuple[str, PublicKey]:
    """Return a public key and the one algorithm that it is used for. Raises `ValueError`."""
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if isinstance(key, RSAPublicKey) and key.key_size >= MIN_RSA_BITS:
        return "RS256", key
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return "ES256", key
    if isinstance(key, Ed25519PublicKey):
        return "EdDSA", key
    raise ValueError(
        f"expected a public key in PEM ('-----BEGIN PUBLIC KEY-----'): RSA of {MIN_RSA_BITS} bits "
        "or more, P-256 or Ed25519"
    )


def find_site_problems(settings: Settings) -> Iterator[str]:
    """Yield a sentence for each site that cannot work, or whose secrets are not its own. Blocks. A
    secret that cannot be read is not its concern."""
    names: dict[str, str] = {}
    for owner, secret in list_secrets(settings.auth):
        names.setdefault(reveal_if_possible(secret), owner)
    for name, site in settings.widget.sites.items():
        prefix = f"widget.sites.{name}"
        signs = "" if site.identity_secret is None else reveal_if_possible(site.identity_secret)
        for owner, value in ((f"{prefix}.key", site.key), (f"{prefix}.identity_secret", signs)):
            if value and names.setdefault(value, owner) != owner:
                yield f"{owner} and {names[value]} are equal; each needs a value of its own"
        if 0 < len(signs) < MIN_SECRET_CHARACTERS:
            yield (
                f"{prefix}.identity_secret has {len(signs)} characters; it needs at least "
                f"{MIN_SECRET_CHARACTERS}. Make one with: openssl rand -hex 32"
            )
        default = settings.routing.default
        if len(set(site.skills)) > 1 and default not in site.skills:
            yield f"{prefix}.skills lacks routing.default, {default!r}, for what fits no other"
        yield from _find_identity_problems(prefix, site)


def _find_identity_problems(prefix: str, site: SiteSettings) -> Iterator[str]:
    if site.identity_public_key:
        try:
            _load_public_key(site.identity_public_key)
        except ValueError as error:
            yield f"{prefix}.identity_public_key: {error}"
    elif site.require_identity and site.identity_secret is None:
        yield f"{prefix}.require_identity needs identity_secret or identity_public_key"
