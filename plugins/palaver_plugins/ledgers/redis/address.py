"""Addresses of Redis servers, as a URL gives them."""

import re
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from redis.asyncio.connection import SSLConnection, parse_url

from palaver import check_url

Kind = Literal["server", "sentinel", "cluster"]

FORMS = (
    "a URL begins with redis://, rediss:// (TLS) or unix:// for one server, "
    "redis+sentinel://host:port,host:port/service or redis+cluster://host:port,host:port "
    "(with TLS: rediss+sentinel://, rediss+cluster://); env:NAME and file:PATH refer to one"
)
SENTINEL_PORT = 26379
_DATABASE = re.compile(r"/?[0-9]{0,6}/?")


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
    """Parse a URL. Raises `ValueError`, which quotes no password, when it is not valid."""
    scheme, _, rest = url.partition("://")
    base, _, kind = scheme.partition("+")
    if not kind:
        return Target("server", (parse_address(url),))
    if base not in ("redis", "rediss") or kind not in ("sentinel", "cluster"):
        raise ValueError(f"its scheme is not known; {FORMS}")
    # Not by `urlsplit`: it refuses several IPv6 addresses.
    place, _, query = rest.partition("?")
    authority, _, path = place.partition("/")
    credentials, at, hosts = authority.rpartition("@")
    service, _, db = path.strip("/").partition("/")
    if kind == "cluster" and path.strip("/") not in ("", "0"):
        raise ValueError("a Cluster has only the database 0")
    if kind == "sentinel" and not service:
        raise ValueError("the name of the service must follow the sentinels: …:26379/mymaster")
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
    """Parse the ``url`` of one server. Raises `ValueError`, which quotes no password."""
    check_url(url, ("redis", "rediss", "unix"), FORMS, has_query=True)
    if not url.startswith("unix:") and not _DATABASE.fullmatch(urlsplit(url).path):
        raise ValueError(f"its path is not the number of a database, as in …:6379/0; {FORMS}")
    options: dict[str, Any] = dict(parse_url(url))  # Any: each option has its own type
    secure = options.pop("connection_class", None) is SSLConnection
    tls: dict[str, str] = {}
    for name in [name for name in options if name.startswith("ssl_")]:
        if not secure or name not in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
            raise ValueError(f"the option {name!r} is not supported")
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
    if address.db < 0:
        raise ValueError("the number of its database is negative")
    if options:
        raise ValueError(
            f"the options {sorted(options)} are not supported; timeouts are settings of "
            "ledger.redis"
        )
    return address
