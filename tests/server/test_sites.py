"""Sites: their settings, and the identities that their backends sign."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from aiohttp.test_utils import make_mocked_request
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from palaver.admission.quotas import Quotas
from palaver.authentication import Principal, check_bind
from palaver.config.loading import load_settings
from palaver.config.settings import (
    AdmissionSettings,
    AuthKey,
    AuthSettings,
    PersonSettings,
    Secret,
    ServerSettings,
    Settings,
    SiteSettings,
    WidgetSettings,
)
from palaver.errors import ConfigurationError, Forbidden, Unauthenticated
from palaver.messages import MAX_ID_LENGTH, check_name
from palaver.sites import MAX_IDENTITY_LENGTH, MAX_IDENTITY_SECONDS, Sites, find_site_problems
from palaver.visitors import (
    MAX_SIGNED_LENGTH,
    STATEMENT_SECONDS,
    TOKEN_SECONDS,
    VisitorSignatures,
    site_of_person,
    visitor_person,
)

KEY, ORIGIN = "pk_the-key-of-the-shop", "https://shop.example"
SECRET = "the secret of the backend of the shop"
NOW = 1_767_225_600.0


def pem(key: Any) -> str:
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return str(public.decode())


RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
SIGNERS: dict[str, tuple[dict[str, Any], Any, str]] = {
    "secret": ({"identity_secret": Secret("env:SHOP")}, SECRET, "HS256"),
    "RSA": ({"identity_public_key": pem(RSA_KEY)}, RSA_KEY, "RS256"),
    "EC": ({"identity_public_key": pem(EC_KEY)}, EC_KEY, "ES256"),
    "Ed25519": ({"identity_public_key": pem(ED_KEY)}, ED_KEY, "EdDSA"),
}


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP", SECRET)
    monkeypatch.setenv("BLOG", "the secret of the backend of the blog")


def site(**fields: Any) -> SiteSettings:
    return SiteSettings(**{"key": KEY, "origins": (ORIGIN,), "tenant": "shop", **fields})


def settings(**sites: SiteSettings) -> Settings:
    return Settings(widget=WidgetSettings(sites=sites))


def load(site: SiteSettings, name: str = "shop") -> Sites:
    sites = Sites(settings(**{name: site}), VisitorSignatures([b"secret of the server"]))
    sites.load()
    return sites


def person_of(sites: Sites, identity: str = "", visitor: str = "") -> str:
    shop = sites.find(KEY, ORIGIN)
    return sites.grant(shop, ORIGIN, visitor=visitor, identity=identity).person


def claims(**changed: Any) -> dict[str, Any]:
    usual = {"sub": "ada@shop.example", "aud": KEY, "exp": int(time.time()) + 300}
    return {key: value for key, value in (usual | changed).items() if value is not None}


# Signed identities


@pytest.mark.parametrize("kind", SIGNERS)
def test_a_signed_identity_is_a_person(kind: str) -> None:
    fields, key, algorithm = SIGNERS[kind]
    sites = load(site(**fields))
    person = person_of(sites, jwt.encode(claims(), key, algorithm))
    later = claims(exp=int(time.time()) + 500, iat=int(time.time()), aud=[KEY, "others"])
    assert person_of(sites, jwt.encode(later, key, algorithm)) == person
    assert person_of(sites, jwt.encode(claims(sub="bob"), key, algorithm)) != person
    assert person == check_name(person, "person")
    assert "ada" not in person
    with pytest.raises(Unauthenticated, match="takes no signed identities"):
        person_of(load(site()), jwt.encode(claims(), key, algorithm))


def test_a_site_may_have_a_secret_and_a_public_key() -> None:
    sites = load(site(**SIGNERS["secret"][0], **SIGNERS["RSA"][0]))
    assert person_of(sites, jwt.encode(claims(), SECRET, "HS256")) == person_of(
        sites, jwt.encode(claims(), RSA_KEY, "RS256")
    )


def test_the_same_subject_is_another_person_at_another_site_and_tenant() -> None:
    identity = jwt.encode(claims(), SECRET, "HS256")
    fields = SIGNERS["secret"][0]
    people = [
        person_of(load(site(**fields)), identity),
        person_of(load(site(**fields), "store"), identity),
        person_of(load(site(**fields, tenant="other")), identity),
    ]
    assert len(set(people)) == 3


def test_an_identity_is_no_visitor_of_the_same_name() -> None:
    sites = load(site(**SIGNERS["secret"][0]))
    shop = sites.find(KEY, ORIGIN)
    anonymous = sites.grant(shop, ORIGIN, visitor="", identity="")
    identity = jwt.encode(claims(), SECRET, "HS256")
    known = sites.grant(shop, ORIGIN, visitor=anonymous.visitor, identity=identity)
    assert known.person != anonymous.person
    assert person_of(sites, visitor=known.visitor) == anonymous.person


def forge(header: dict[str, Any], body: dict[str, Any], signature: str = "") -> str:
    parts = (base64.urlsafe_b64encode(json.dumps(part).encode()) for part in (header, body))
    return ".".join([*(part.decode().rstrip("=") for part in parts), signature])


def sign_with_public_key(body: dict[str, Any]) -> str:
    """Sign as if the public key, which everybody knows, was a secret."""
    unsigned = forge({"alg": "HS256", "typ": "JWT"}, body).rstrip(".")
    mac = hmac.new(pem(RSA_KEY).encode(), unsigned.encode(), hashlib.sha256).digest()
    return f"{unsigned}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


NOT_ACCEPTED: dict[str, Callable[[], str]] = {
    "no algorithm": lambda: forge({"alg": "none"}, claims()),
    "no algorithm, in capitals": lambda: forge({"alg": "NONE"}, claims()),
    "an algorithm that is a list": lambda: forge({"alg": ["RS256"]}, claims(), "x"),
    "no header": lambda: forge({}, claims(), "x"),
    "the public key as a secret": lambda: sign_with_public_key(claims()),
    "another key": lambda: jwt.encode(
        claims(), rsa.generate_private_key(65537, 2048), "RS256"
    ),
    "another algorithm of the same key": lambda: jwt.encode(claims(), RSA_KEY, "RS512"),
    "a secret that the site does not have": lambda: jwt.encode(claims(), SECRET, "HS256"),
    "without aud": lambda: jwt.encode(claims(aud=None), RSA_KEY, "RS256"),
    "the aud of another site": lambda: jwt.encode(claims(aud="pk_other"), RSA_KEY, "RS256"),
    "an empty aud": lambda: jwt.encode(claims(aud=[]), RSA_KEY, "RS256"),
    "without exp": lambda: jwt.encode(claims(exp=None), RSA_KEY, "RS256"),
    "an exp that is over": lambda: jwt.encode(claims(exp=time.time() - 61), RSA_KEY, "RS256"),
    "an exp that is far ahead": lambda: jwt.encode(
        claims(exp=time.time() + MAX_IDENTITY_SECONDS + 120), RSA_KEY, "RS256"
    ),
    "an exp that is infinite": lambda: jwt.encode(claims(exp=float("inf")), RSA_KEY, "RS256"),
    "an exp that is no number": lambda: jwt.encode(claims(exp=float("nan")), RSA_KEY, "RS256"),
    "an exp that is text": lambda: jwt.encode(claims(exp="soon"), RSA_KEY, "RS256"),
    "an exp that is a list": lambda: jwt.encode(claims(exp=[1]), RSA_KEY, "RS256"),
    "an iat ahead": lambda: jwt.encode(claims(iat=time.time() + 120), RSA_KEY, "RS256"),
    "an nbf ahead": lambda: jwt.encode(claims(nbf=time.time() + 120), RSA_KEY, "RS256"),
    "without sub": lambda: jwt.encode(claims(sub=None), RSA_KEY, "RS256"),
    "an empty sub": lambda: jwt.encode(claims(sub=""), RSA_KEY, "RS256"),
    "a sub that is a number": lambda: forge({"alg": "RS256"}, claims(sub=7), "x"),
    "a long sub": lambda: jwt.encode(claims(sub="x" * 201), RSA_KEY, "RS256"),
    "a long identity": lambda: jwt.encode(
        claims(more="x" * MAX_IDENTITY_LENGTH), RSA_KEY, "RS256"
    ),
    "a changed body": lambda: jwt.encode(claims(), RSA_KEY, "RS256").replace(".", ".x", 1),
    "no JWT": lambda: "not a token",
    "dots": lambda: "...",
    "not ASCII": lambda: "é.é.é",
    "half a character": lambda: "\ud800.x.y",
    "deep JSON": lambda: base64.urlsafe_b64encode(b'{"a":' + b"[" * 5000).decode() + ".x.y",
}  # fmt: skip


@pytest.mark.parametrize("fault", NOT_ACCEPTED)
def test_what_is_no_identity_of_the_site_is_refused(fault: str) -> None:
    sites = load(site(identity_public_key=pem(RSA_KEY)))
    with pytest.raises(Unauthenticated):
        person_of(sites, NOT_ACCEPTED[fault]())


def test_a_clock_may_deviate_by_a_minute() -> None:
    sites = load(site(**SIGNERS["secret"][0]))
    furthest = time.time() + MAX_IDENTITY_SECONDS + 30
    for changed in ({"exp": time.time() - 30}, {"iat": time.time() + 30}, {"exp": furthest}):
        assert person_of(sites, jwt.encode(claims(**changed), SECRET, "HS256"))


def test_the_limits_of_an_identity_are_named() -> None:
    sites = load(site(**SIGNERS["secret"][0]))
    assert person_of(sites, jwt.encode(claims(sub="x" * MAX_ID_LENGTH), SECRET, "HS256"))
    for identity, limit in (
        ("x" * MAX_IDENTITY_LENGTH, "not accepted"),
        ("x" * (MAX_IDENTITY_LENGTH + 1), f"at most {MAX_IDENTITY_LENGTH} characters"),
        (jwt.encode(claims(sub="x" * (MAX_ID_LENGTH + 1)), SECRET, "HS256"), "1 to 200 characters"),
        (jwt.encode(claims(exp=time.time() + 90_000), SECRET, "HS256"), "12 hours ahead at most"),
        (jwt.encode(claims(), EC_KEY, "ES256"), "its algorithm must be HS256"),
    ):
        with pytest.raises(Unauthenticated, match=limit):
            person_of(sites, identity)


def test_a_site_may_require_an_identity() -> None:
    fields = SIGNERS["secret"][0]
    sites = load(site(**fields, require_identity=True))
    statement = VisitorSignatures([b"secret of the server"]).sign_visitor("shop", "x")
    with pytest.raises(Unauthenticated, match="need a signed identity"):
        person_of(sites, visitor=statement)
    assert person_of(sites, jwt.encode(claims(), SECRET, "HS256"))
    assert person_of(load(site(**fields)))


# Tokens and statements


def test_tokens_and_statements_end() -> None:
    now = NOW
    signatures = VisitorSignatures([b"secret"], lambda: now)
    token = signatures.read_token(signatures.sign_token("shop", ORIGIN, "person"))
    statement = signatures.sign_visitor("shop", "id")
    assert token is not None
    now = NOW + TOKEN_SECONDS - 1
    assert not signatures.is_expired(token)
    now = NOW + TOKEN_SECONDS
    assert signatures.is_expired(token)
    assert signatures.read_visitor(statement, "shop") == "id"
    now = NOW + STATEMENT_SECONDS
    assert signatures.read_visitor(statement, "shop") == ""


def test_neither_passes_for_the_other_or_at_another_site() -> None:
    signatures = VisitorSignatures([b"secret"])
    token = signatures.sign_token("shop", ORIGIN, "person")
    statement = signatures.sign_visitor("shop", "id")
    assert signatures.read_token(statement) is None
    assert signatures.read_visitor(token, "shop") == ""
    assert signatures.read_visitor(statement, "blog") == ""


def test_an_earlier_secret_verifies_and_the_current_one_signs() -> None:
    old, both, new = (
        VisitorSignatures([b"old"]),
        VisitorSignatures([b"new", b"old"]),
        VisitorSignatures([b"new"]),
    )
    assert both.read_token(old.sign_token("shop", ORIGIN, "person"))
    assert both.read_visitor(old.sign_visitor("shop", "id"), "shop") == "id"
    assert new.read_token(old.sign_token("shop", ORIGIN, "person")) is None
    assert new.read_visitor(old.sign_visitor("shop", "id"), "shop") == ""
    assert new.read_token(both.sign_token("shop", ORIGIN, "person"))
    assert new.read_visitor(both.sign_visitor("shop", "id"), "shop") == "id"


def test_servers_without_a_secret_do_not_trust_each_other() -> None:
    one, two = VisitorSignatures([]), VisitorSignatures([])
    assert two.read_token(one.sign_token("shop", ORIGIN, "person")) is None


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "a.b.c", "é.é.é", "\ud800..", "x" * 100_000, "." * 5000,
     base64.urlsafe_b64encode(b'{"a":' + b"[" * 1000).decode() + ".x.y",
     forge({"alg": "none"}, {"site": "shop", "origin": ORIGIN, "person": "p", "exp": 9e9}),
     forge({"alg": "HS256", "crit": ["x"]}, {"site": "shop", "id": "p", "exp": 9e9}, "x")],
)  # fmt: skip
def test_what_the_server_has_not_signed_is_no_token(text: str) -> None:
    signatures = VisitorSignatures([b"secret"])
    assert signatures.read_token(text) is None
    assert signatures.read_visitor(text, "shop") == ""


def test_a_token_has_a_length() -> None:
    signatures = VisitorSignatures([b"secret"], lambda: NOW)
    lengths = range(MAX_SIGNED_LENGTH // 2, MAX_SIGNED_LENGTH)  # encoded, they are longer
    tokens = [signatures.sign_token("shop", "x" * length, "person") for length in lengths]
    accepted = [len(token) for token in tokens if signatures.read_token(token)]
    assert accepted == [len(token) for token in tokens if len(token) <= MAX_SIGNED_LENGTH]
    assert MAX_SIGNED_LENGTH in accepted


def test_a_person_tells_the_site() -> None:
    assert site_of_person(visitor_person("tenant", "shop", "id")) == "shop"
    for other in ("", "ada", "visitor", "visitor.", "browser-x", "shop.visitor.x"):
        assert site_of_person(other) == ""


SERVER = VisitorSignatures([b"secret of the server"])


def principal_of(sites: Sites, token: str, **headers: str) -> Principal | None:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = make_mocked_request("GET", "/v1/skills", {"Host": "chat.example", **named})
    return sites.find_principal(request, token)


def test_a_token_is_a_visitor_of_its_site() -> None:
    sites = load(site())
    before = time.time()
    granted = sites.grant(sites.find(KEY, ORIGIN), ORIGIN, visitor="", identity="")
    principal = principal_of(sites, granted.token, Origin=ORIGIN)
    assert principal is not None
    assert (principal.tenant, principal.person) == ("shop", granted.person)
    assert (principal.site, principal.name) == ("shop", "shop")
    assert principal.rights == {"talk", "read", "export", "erase"}
    assert before + TOKEN_SECONDS <= principal.expires_at <= time.time() + TOKEN_SECONDS
    assert granted.is_new
    again = sites.grant(sites.find(KEY, ORIGIN), ORIGIN, visitor=granted.visitor, identity="")
    assert (again.person, again.is_new) == (granted.person, False)


def test_a_token_is_for_pages_of_its_origin() -> None:
    own = "https://chat.example"
    sites = load(site(origins=(ORIGIN, own)))
    token = SERVER.sign_token("shop", ORIGIN, "person")
    for headers in ({}, {"Origin": own}, {"Origin": "null"}, {"Sec_Fetch_Site": "same-origin"}):
        with pytest.raises(Forbidden, match=r"for pages of 'https://shop\.example' alone"):
            principal_of(sites, token, **headers)
    token = SERVER.sign_token("shop", own, "person")
    assert principal_of(sites, token, Origin=own)
    assert principal_of(sites, token, Sec_Fetch_Site="same-origin")
    for headers in ({"Sec_Fetch_Site": "none"}, {}, {"Origin": ORIGIN}):
        with pytest.raises(Forbidden):
            principal_of(sites, token, **headers)


def test_a_token_ends_with_its_time_its_origin_and_its_site() -> None:
    sites = load(site())
    past = VisitorSignatures([b"secret of the server"], lambda: time.time() - TOKEN_SECONDS)
    for token, reason in (
        (past.sign_token("shop", ORIGIN, "person"), "expired"),
        (SERVER.sign_token("shop", "https://old.example", "person"), "no longer served"),
        (SERVER.sign_token("gone", ORIGIN, "person"), "no longer served"),
    ):
        with pytest.raises(Unauthenticated, match=reason):
            principal_of(sites, token, Origin=ORIGIN)


def test_a_server_without_sites_has_no_visitors() -> None:
    sites = Sites(settings(), SERVER)
    sites.load()
    assert principal_of(sites, SERVER.sign_token("shop", ORIGIN, "person"), Origin=ORIGIN) is None


@pytest.mark.parametrize(("key", "origin"), [(KEY, "https://blog.example"), ("pk_x", ORIGIN)])
def test_a_key_counts_for_pages_of_its_site(key: str, origin: str) -> None:
    with pytest.raises(Forbidden, match="no site has the key 'pk_"):
        load(site()).find(key, origin)


def test_visitors_have_the_rate_of_their_site() -> None:
    admission = AdmissionSettings(person=PersonSettings(messages_per_minute=5))
    quotas = Quotas(admission, lambda: 0.0, {"shop": site(messages_per_minute=2)})
    for tenant, person, most in (
        ("shop", visitor_person("shop", "shop", "id"), 2),
        ("shop", "ada", 5),
        ("other", visitor_person("shop", "shop", "id"), 5),
        ("shop", visitor_person("shop", "blog", "id"), 5),
    ):
        for _ in range(most):
            assert quotas.excess(tenant, person) is None
            quotas.take("messages", tenant, person, 1)
        excess = quotas.excess(tenant, person)
        assert excess is not None
        assert (excess.unit, excess.rate) == ("messages", most)


# Settings


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"key": "sk_the-key-of-the-shop"}, r"widget\.sites\.shop\.key: expected 'pk_'"),
        ({"key": "pk_short"}, r"widget\.sites\.shop\.key: expected 'pk_'"),
        ({"key": None}, r"widget\.sites\.shop\.key must be set"),
        ({"origins": None}, r"widget\.sites\.shop\.origins must be set"),
        ({"origins": "[]"}, r"widget\.sites\.shop\.origins: expected at least one origin"),
        ({"origins": "['*']"}, r"widget\.sites\.shop\.origins: '\*' is not an origin"),
        ({"origins": "['null']"}, r"widget\.sites\.shop\.origins: 'null' is not an origin"),
        ({"tenant": "a/b"}, r"widget\.sites\.shop\.tenant: tenant 'a/b' is not usable"),
        ({"identity_secret": "plain"}, r"widget\.sites\.shop\.identity_secret: a secret must be"),
        ({"messages_per_minute": "0"}, r"widget\.sites\.shop\.messages_per_minute must be more"),
        ({"new_visitors_per_minute": "0"}, r"shop\.new_visitors_per_minute must be more"),
        ({"origin": "x"}, r"unknown key 'widget\.sites\.shop\.origin'"),
    ],
)
def test_a_mistake_in_a_site_is_named(values: dict[str, str | None], problem: str) -> None:
    given = {"key": KEY, "origins": f"['{ORIGIN}']", **values}
    flags = [f"widget.sites.shop.{key}={value}" for key, value in given.items() if value]
    with pytest.raises(ConfigurationError, match=problem):
        load_settings(None, {}, flags)


def test_a_site_has_a_name_that_a_person_may_have() -> None:
    with pytest.raises(ValueError, match=r"the site 'a\.b' needs a name"):
        settings(**{"a.b": site()})


def problems(given: Settings) -> list[str]:
    with pytest.raises(ConfigurationError):
        Sites(given, VisitorSignatures([])).load()
    return list(find_site_problems(given))


def test_a_key_belongs_to_one_site() -> None:
    (problem,) = problems(settings(shop=site(), blog=site()))
    assert problem.startswith("widget.sites.blog.key and widget.sites.shop.key are equal")


def test_a_secret_belongs_to_one_site() -> None:
    one = site(identity_secret=Secret("env:SHOP"))
    two = site(identity_secret=Secret("env:SHOP"), key="pk_another-key-000")
    (problem,) = problems(settings(shop=one, blog=two))
    assert problem.startswith("widget.sites.blog.identity_secret and widget.sites.shop.identity")
    assert SECRET not in problem


def test_a_public_key_is_no_secret_of_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADA", KEY)
    auth = AuthSettings(keys={"ada": AuthKey(secret=Secret("env:ADA"))})
    given = Settings(auth=auth, widget=WidgetSettings(sites={"shop": site()}))
    (problem,) = problems(given)
    assert problem.startswith("widget.sites.shop.key and auth.keys.ada.secret are equal")


def test_a_weak_secret_of_a_site_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP", "x" * 31)
    (problem,) = problems(settings(shop=site(identity_secret=Secret("env:SHOP"))))
    assert problem.startswith("widget.sites.shop.identity_secret has 31 characters")
    monkeypatch.setenv("SHOP", "x" * 32)
    load(site(identity_secret=Secret("env:SHOP")))


def test_a_secret_that_cannot_be_read_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOP")
    given = settings(shop=site(identity_secret=Secret("env:SHOP")))
    assert list(find_site_problems(given)) == []
    with pytest.raises(ConfigurationError, match="env:SHOP is empty or not set"):
        Sites(given, VisitorSignatures([])).load()


def private_pem(key: Any) -> str:
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return str(private.decode())


@pytest.mark.parametrize(
    "text",
    ["rubbish", "-----BEGIN PUBLIC KEY-----\nrubbish\n-----END PUBLIC KEY-----\n",
     private_pem(ED_KEY), pem(rsa.generate_private_key(65537, 1024)),
     pem(ec.generate_private_key(ec.SECP384R1()))],
)  # fmt: skip
def test_a_public_key_that_signs_nothing_here_is_refused(text: str) -> None:
    (problem,) = problems(settings(shop=site(identity_public_key=text)))
    assert problem.startswith("widget.sites.shop.identity_public_key: expected a public key in PEM")
    assert text not in problem


def test_an_identity_that_nobody_can_sign_cannot_be_required() -> None:
    (problem,) = problems(settings(shop=site(require_identity=True)))
    assert problem.startswith("widget.sites.shop.require_identity needs identity_secret or")


def test_the_skills_of_a_site_include_the_default() -> None:
    (problem,) = problems(settings(shop=site(skills=("qa", "translation"))))
    assert problem.startswith("widget.sites.shop.skills lacks routing.default, 'chat'")
    for skills in (("qa",), ("qa", "chat"), ("qa", "qa"), ()):
        load(site(skills=skills))


def test_the_tenants_are_those_of_keys_and_sites() -> None:
    auth = AuthSettings(keys={"ada": AuthKey(secret=Secret("env:ADA"), tenant="acme")})
    sites = {"shop": site(), "blog": site(key="pk_another-key-000")}
    assert Settings(auth=auth, widget=WidgetSettings(sites=sites)).tenants() == {"acme", "shop"}
    assert Settings().tenants() == frozenset()


def test_sites_do_not_stand_for_keys() -> None:
    given = Settings(
        server=ServerSettings(host="0.0.0.0"), widget=WidgetSettings(sites={"shop": site()})
    )
    with pytest.raises(ConfigurationError, match=r"auth\.keys.*widget\.sites are public"):
        check_bind(given)
