"""The Redis ledger over TLS: trusted certificates, client certificates, and the errors."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.plugins.ledgers.certificates import Certificate, CertificateAuthority, make_authority
from tests.plugins.ledgers.redis_cluster import run_cluster
from tests.plugins.ledgers.redis_helpers import answer_turn, claim_turn, make_message, needs_redis
from tests.plugins.ledgers.redis_helpers import open_ledger as opened_soon
from tests.plugins.ledgers.redis_sentinels import SERVICE, Sentinel
from tests.plugins.ledgers.redis_server import RedisServer, run_redis, run_server
from tests.ports import free_port

from palaver.errors import ConfigurationError, LedgerUnavailable
from palaver_plugins.ledgers.redis import RedisLedger

pytestmark = needs_redis


def opened(url: str, **options: Any) -> AbstractAsyncContextManager[RedisLedger]:
    """Open a ledger with time for a handshake on a busy machine."""
    return opened_soon(url, **({"connect_timeout": 5.0} | options))


class Secured(NamedTuple):
    """A Redis that speaks TLS at ``port``, and wants a certificate of ``authority``."""

    authority: CertificateAuthority
    client: Certificate
    directives: dict[str, str]
    server: RedisServer

    @property
    def port(self) -> str:
        return self.directives["tls-port"]

    @property
    def trusting(self) -> str:
        """Options that trust the authority."""
        return f"?ssl_ca_certs={self.authority.own.certificate}"

    @property
    def entering(self) -> str:
        """Options that also show a certificate."""
        shown = f"ssl_certfile={self.client.certificate}&ssl_keyfile={self.client.key}"
        return f"{self.trusting}&{shown}"

    def url(self, options: str) -> str:
        return f"rediss://127.0.0.1:{self.port}/0{options}"


def tls(authority: CertificateAuthority, own: Certificate) -> dict[str, str]:
    """Directives of a server."""
    return {
        "tls-port": str(free_port()),
        "tls-cert-file": str(own.certificate),
        "tls-key-file": str(own.key),
        "tls-ca-cert-file": str(authority.own.certificate),
    }


@pytest.fixture
async def secured(tmp_path: Path) -> AsyncIterator[Secured]:
    authority = await make_authority(tmp_path)
    directives = tls(authority, await authority.issue("server"))
    async with run_redis(**directives) as server:
        yield Secured(authority, await authority.issue("client"), directives, server)


async def test_a_turn_is_answered_over_tls_with_a_client_certificate(secured: Secured) -> None:
    async with opened(secured.url(secured.entering)) as ledger:
        await ledger.accept(make_message())
        await answer_turn(ledger)
        guarantee = await ledger.guarantee()
        assert "Connections to Redis are encrypted (TLS), and its certificate is verified." in (
            guarantee.promises
        )


async def test_a_certificate_of_an_unknown_authority_is_refused(
    secured: Secured, tmp_path: Path
) -> None:
    other = await make_authority(tmp_path, "other")
    for options in ("", f"?ssl_ca_certs={other.own.certificate}"):
        with pytest.raises(ConfigurationError, match=f"127.0.0.1:{secured.port}.*ssl_ca_certs"):
            async with opened(secured.url(options)):
                pass


async def test_a_certificate_for_another_host_is_refused(secured: Secured) -> None:
    elsewhere = await secured.authority.issue("elsewhere", address="127.0.0.9")
    secured.server.kill()
    secured.server.directives["tls-cert-file"] = str(elsewhere.certificate)
    secured.server.directives["tls-key-file"] = str(elsewhere.key)
    await asyncio.to_thread(secured.server.start)
    with pytest.raises(ConfigurationError, match=r"IP address mismatch.*names this host"):
        async with opened(secured.url(secured.entering)):
            pass


async def test_the_error_for_a_missing_client_certificate_names_the_option(
    secured: Secured,
) -> None:
    with pytest.raises(ConfigurationError, match="ssl_certfile and ssl_keyfile"):
        async with opened(secured.url(secured.trusting)):
            pass
    with pytest.raises(ConfigurationError, match="no-such-file"):
        async with opened(secured.url("?ssl_ca_certs=no-such-file")):
            pass


async def test_a_mismatch_of_tls_is_reported(secured: Secured) -> None:
    """Note that a Redis without TLS waits for the rest of a supposed command."""
    for url in (
        f"rediss://127.0.0.1:{secured.server.port}/0{secured.entering}",
        f"redis://127.0.0.1:{secured.port}/0",
    ):
        with pytest.raises(LedgerUnavailable, match="Redis at"):
            async with opened(url, connect_timeout=0.3):
                pass


async def test_a_server_that_is_no_redis_is_reported(secured: Secured) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.org ready\r\n")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1") as listener:
        port = listener.sockets[0].getsockname()[1]
        with pytest.raises(ConfigurationError, match="does not speak TLS as expected"):
            async with opened(f"rediss://127.0.0.1:{port}/0{secured.entering}"):
                pass


async def test_the_next_connection_uses_renewed_certificates(
    secured: Secured, tmp_path: Path
) -> None:
    async with opened(secured.url(secured.entering)) as ledger:
        await ledger.accept(make_message())
        renewed = await make_authority(tmp_path, "authority")  # its files are written over
        await renewed.issue("server")
        await renewed.issue("client")
        await asyncio.to_thread(secured.server.kill)
        await asyncio.to_thread(secured.server.start)
        await claim_turn(ledger)


async def test_sentinels_are_asked_over_tls_too(secured: Secured) -> None:
    own = {
        f"sentinel monitor {SERVICE}": f"127.0.0.1 {secured.port} 1",
        "tls-replication": "yes",
        **tls(secured.authority, await secured.authority.issue("sentinel")),
    }
    async with run_server(Sentinel, own) as sentinel:
        location = f"127.0.0.1:{sentinel.directives['tls-port']}/{SERVICE}"
        async with opened(f"rediss+sentinel://{location}{secured.entering}") as ledger:
            await ledger.accept(make_message())
        with pytest.raises(ConfigurationError, match="is not trusted"):
            async with opened(f"rediss+sentinel://{location}"):
                pass


async def test_the_nodes_of_a_cluster_are_found_over_tls(secured: Secured) -> None:
    own = await secured.authority.issue("node")
    async with (
        asyncio.timeout(20),
        run_cluster(
            directives=lambda: {"tls-cluster": "yes", **tls(secured.authority, own)}
        ) as nodes,
    ):
        seed = nodes.masters[0].directives["tls-port"]
        url = f"rediss+cluster://127.0.0.1:{seed}{secured.entering}"
        async with opened(url, partitions=8) as ledger:
            for number in range(8):
                await ledger.accept(make_message(thread=f"t{number}"))
            (location, *_) = (await ledger.guarantee()).promises
            assert all(node.directives["tls-port"] in location for node in nodes.masters)
