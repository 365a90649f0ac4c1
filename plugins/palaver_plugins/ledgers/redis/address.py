"""Addresses of Redis servers, as a URL gives them."""

from typing import Any, Literal, NamedTuple

from redis.asyncio.connection import SSLConnection, parse_url

from palaver import ConfigurationError

Kind = Literal["server", "sentinel", "cluster"]

FORMS = (
    "redis://, rediss:// (TLS) or unix:// for one server, "
    "redis+sentinel://host:port,host:port/service or redis+cluster://host:port,host:port "
    "(with TLS: rediss+sentinel://, rediss+cluster://)"
)
SENTINEL_PORT = 26379


class Address(NamedTuple):
    """Address and credentials of a Redis server."""

    host: str
    port: int
    path: str
    db: int
    username: str
    password: str
    tls: frozenset[tuple[str, str]] | None

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"

    def __repr__(self) -> str:
        return str(self)  # never the password


class Target(NamedTuple):
    """Meaning of a URL: a server, the seed nodes of a Cluster, or the sentinels of ``service``."""

    kind: Kind
    addresses: tuple[Address, ...]
    service: str = ""

    def __str__(self) -> str:
        return ", ".join(map(str, self.addresses))


def parse_target(url: str) -> Target:
    """Parse a URL. Raises `ConfigurationError`, without the password, when it is not valid."""
    scheme, _, rest = url.partition("://")
    base, _, kind = scheme.partition("+")
    if not kind:
        return Target("server", (parse_address(url),))
    if base not in ("redis", "rediss") or kind not in ("sentinel", "cluster"):
        raise _bad(f"a URL begins with {FORMS}")
    # Not by `urlsplit`: it refuses several IPv6 addresses.
    place, _, query = rest.partition("?")
    authority, _, path = place.partition("/")
    credentials, at, hosts = authority.rpartition("@")
    service, _, db = path.strip("/").partition("/")
    if kind == "cluster" and path.strip("/") not in ("", "0"):
        raise _bad("a Cluster has only the database 0")
    if kind == "sentinel" and not service:
        raise _bad("the name of the service must follow the sentinels: …:26379/mymaster")
    addresses = [
        parse_address(f"{base}://{credentials}{at}{_with_port(host, kind)}/{db}?{query}")
        for host in hosts.split(",")
    ]
    if kind == "cluster":
        return Target("cluster", tuple(addresses))
    return Target("sentinel", tuple(addresses), service)


def _with_port(host: str, kind: str) -> str:
    """Return ``host`` with a port; the default one of a sentinel if it has none."""
    if kind == "sentinel" and not host.rpartition("]")[2].rpartition(":")[1]:
        return f"{host}:{SENTINEL_PORT}"
    return host


def parse_address(url: str) -> Address:
    """Parse the ``url`` of one server. Raises `ConfigurationError` for unknown options."""
    try:
        options: dict[str, Any] = dict(parse_url(url))  # Any: each option has its own type
    except ValueError as error:
        raise _bad(f"a URL begins with {FORMS}") from error
    secure = options.pop("connection_class", None) is SSLConnection
    tls: dict[str, str] = {}
    for name in [name for name in options if name.startswith("ssl_")]:
        if not secure or name not in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
            raise _bad(f"the option {name!r} is not supported")
        tls[name] = str(options.pop(name))
    address = Address(
        host=str(options.pop("host", "127.0.0.1")),
        port=int(options.pop("port", 6379)),
        path=str(options.pop("path", "")),
        db=int(options.pop("db", 0)),
        username=str(options.pop("username", None) or "default"),
        password=str(options.pop("password", None) or ""),
        tls=frozenset(tls.items()) if secure else None,
    )
    if options:
        raise _bad(
            f"the options {sorted(options)} are not supported; timeouts are settings of "
            "ledger.redis"
        )
    return address


def _bad(reason: str) -> ConfigurationError:
    return ConfigurationError(f"ledger.redis.url: {reason}")
