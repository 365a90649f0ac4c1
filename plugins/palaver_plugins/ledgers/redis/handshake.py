"""Opening and authentication of a connection to a Redis server or a sentinel."""

import asyncio
import ssl
from collections.abc import Callable

import hiredis

from palaver import ConfigurationError, LedgerUnavailable
from palaver_plugins.ledgers.redis.address import Address
from palaver_plugins.ledgers.redis.connection import Connection, ConnectionLost, RedisReply, pack

AUTH_ERRORS = ("WRONGPASS", "NOAUTH", "NOPERM")


async def connect(address: Address, make_connection: Callable[[], Connection]) -> Connection:
    """Open a connection to ``address`` and authenticate.

    Raises `LedgerUnavailable`, and `ConfigurationError` when the server refuses the configured
    credentials or certificate.
    """
    try:
        connection = await _open(address, make_connection)
    except (ssl.SSLEOFError, ConnectionError) as error:
        raise unavailable(address, error.strerror or str(error)) from error
    except ssl.SSLError as error:
        raise ConfigurationError(_describe_tls_error(address, error)) from error
    except OSError as error:
        raise unavailable(address, error.strerror or str(error)) from error
    try:
        await _authenticate(address, connection)
    except BaseException:
        connection.close("not authenticated")
        raise
    return connection


def check_reply(reply: RedisReply, address: Address) -> RedisReply:
    """Return the reply unless it is an error. Raises like `connect`."""
    if isinstance(reply, hiredis.ReplyError):
        if str(reply).startswith(AUTH_ERRORS):
            raise ConfigurationError(f"Redis at {address}: {reply}; see ledger.redis.url")
        raise unavailable(address, str(reply))
    if isinstance(reply, ConnectionLost):
        if "ALERT" in reply.reason:
            raise ConfigurationError(
                f"Redis at {address} refuses this client's certificate or got none: "
                f"{reply.reason}; see ssl_certfile and ssl_keyfile in ledger.redis.url"
            )
        raise unavailable(address, reply.reason)
    return reply


def unavailable(address: Address, reason: str) -> LedgerUnavailable:
    return LedgerUnavailable(f"Redis at {address}: {reason}", retry_after=1.0)


async def _open(address: Address, make_connection: Callable[[], Connection]) -> Connection:
    loop = asyncio.get_running_loop()
    if address.path:
        _, connection = await loop.create_unix_connection(make_connection, address.path)
        return connection
    tls = None
    if address.tls is not None:  # reads the files each time, as certificates are renewed
        tls = await asyncio.to_thread(_tls_context, dict(address.tls))
    _, connection = await loop.create_connection(
        make_connection, address.host, address.port, ssl=tls
    )
    return connection


async def _authenticate(address: Address, connection: Connection) -> None:
    hello: tuple[str | int, ...] = ("HELLO", 3)
    if address.password:
        hello += ("AUTH", address.username, address.password)
    check_reply(await connection.send(pack(*hello, "SETNAME", "palaver")), address)
    if address.db:
        check_reply(await connection.send(pack("SELECT", address.db)), address)


def _tls_context(options: dict[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        if "ssl_certfile" in options:
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    except OSError as error:
        raise ConfigurationError(f"ledger.redis.url: {options}: {error}") from error
    return context


def _describe_tls_error(address: Address, error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"Redis at {address} has a certificate that is not trusted "
            f"({error.verify_message.rstrip('.')}): set 'ssl_ca_certs' in ledger.redis.url to the "
            "certificate authority, and check that the certificate names this host"
        )
    return (
        f"Redis at {address} does not speak TLS as expected ({error.reason}): see ledger.redis.url"
    )
