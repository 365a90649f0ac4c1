"""Secrets and callbacks that cannot work are refused in one clear sentence."""

import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook
from tests.plugins.channels.webhooks.support import (
    CHANNEL,
    channel_of,
    endpoint_settings,
    secret_of,
)

from palaver import ConfigurationError, OutboundClient
from palaver.config.loading import plugin_settings
from palaver.config.settings import Settings as ServerSettings
from palaver.server import Server
from palaver.testing import ListKnowledge, MemoryLedger, ScriptedEngine
from palaver_plugins.channels.webhooks import palaver_register_channels
from palaver_plugins.channels.webhooks.settings import EndpointSettings, Settings
from palaver_plugins.channels.webhooks.signing import parse_secret, sign, verify

PREFIX = "channels.webhooks.endpoints.orders"


def encoded(size: int) -> str:
    return "whsec_" + base64.b64encode(b"x" * size).decode()


WRONG_SECRETS = [
    ("v1," + secret_of("orders"), "begins with 'v1,', which is the mark of a signature"),
    (secret_of("orders").removeprefix("whsec_"), "does not begin with 'whsec_'"),
    ("a passphrase that is long enough", "does not begin with 'whsec_'"),
    ("whsec_%%%%", "is not base64"),
    ("whsec_ab-_" + "A" * 40, "is not base64"),
    (encoded(23), "has 23 bytes after 'whsec_', not 24 to 64"),
    (encoded(65), "has 65 bytes"),
    ("whsec_", "has 0 bytes"),
    ("", "is empty or not set"),
]


@pytest.mark.parametrize("field", ["secret", "previous_secret"])
@pytest.mark.parametrize(("secret", "words"), WRONG_SECRETS)
async def test_a_wrong_secret_is_one_sentence(
    tmp_path: Path, secret: str, words: str, field: str
) -> None:
    file = tmp_path / "wrong"
    file.write_text(secret, encoding="utf-8")
    right = endpoint_settings(tmp_path, "orders").secret
    endpoint = EndpointSettings.model_validate({"secret": right, field: f"file:{file}"})
    channel = channel_of({"orders": endpoint})
    (problem,) = await channel.check()
    assert problem.startswith(f"{PREFIX}.{field}: ")
    assert words in problem
    assert not secret or secret.removeprefix("v1,") not in problem.replace("'whsec_'", "")
    with pytest.raises(ConfigurationError) as caught:
        await start(channel)
    assert str(caught.value) == problem


async def start(channel: Any) -> None:
    server = Server(
        ServerSettings(),
        ledger=MemoryLedger(),
        engine=ScriptedEngine(),
        knowledge=ListKnowledge(),
        skills={},
        channels={CHANNEL: channel},
    )
    try:
        await channel.start(server)
    finally:
        await channel.close()


async def test_two_endpoints_have_no_secret_in_common(tmp_path: Path) -> None:
    one = endpoint_settings(tmp_path, "one")
    two = endpoint_settings(tmp_path, "two", previous_secret=one.secret.root)
    (problem,) = await channel_of({"one": one, "two": two}).check()
    assert "'one' and 'two' have the same secret" in problem


@given(st.binary(min_size=24, max_size=64), st.binary(max_size=200).map(lambda b: b.hex()))
def test_signatures_are_those_of_the_library(key: bytes, text: str) -> None:
    secret = "whsec_" + base64.b64encode(key).decode()
    assert parse_secret(secret) == parse_secret(secret.rstrip("=")) == key
    at = datetime.now(UTC)
    body = f'"{text}"'.encode()
    headers = sign([key, b"x" * 32], "msg_1", int(at.timestamp()), body)
    assert Webhook(secret).verify(body, headers) == text
    theirs = Webhook(secret).sign("msg_1", at, body.decode())
    assert headers["webhook-signature"].split(" ")[0] == theirs
    assert verify([b"y" * 32, key], headers, body, at.timestamp()) == "msg_1"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"callback": "example.org"}, "callback: it does not begin with a scheme"),
        ({"callback": "ftp://example.org"}, "its scheme is 'ftp'"),
        ({"callback": "https://"}, "it has no host"),
        ({"callback": "https://u:pass@example.org/"}, "a user or a password"),
        ({"callback": "https://example.org/#a"}, "fragment"),
        ({"callback": "http://example.org/"}, "'callback' needs https"),
        ({"allowed_networks": ["10.0.0.0/99"]}, "allowed_networks"),
        ({"tenant": "a/b"}, "tenant"),
        ({"secret": "whsec_abc"}, "a secret must be a reference"),
        ({"colour": "red"}, "unknown key"),
    ],
)
def test_other_mistakes_are_found_before_anything_starts(
    values: dict[str, Any], words: str
) -> None:
    endpoint = {"secret": "env:ORDERS", **values}
    tree = {"channels": {CHANNEL: {"endpoints": {"orders": endpoint}}}}
    settings = ServerSettings.model_validate(tree)
    (backend,) = palaver_register_channels()
    with pytest.raises(ConfigurationError) as caught:
        plugin_settings(settings, "channels", CHANNEL, backend.settings)
    assert words in str(caught.value)
    assert "pass@" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.b", "a/b", "", "a" * 41, "ä"])
def test_the_name_of_an_endpoint_is_simple(name: str) -> None:
    with pytest.raises(ValueError, match="needs a name of 1 to 40 letters"):
        Settings.model_validate({"endpoints": {name: {"secret": "env:X"}}})


async def test_check_says_which_callback_cannot_be_reached(tmp_path: Path) -> None:
    def make_client(settings: EndpointSettings) -> OutboundClient:
        names = {"inside.test": ["10.0.0.1"], "outside.test": ["8.8.8.8"]}

        def find(host: str, port: int) -> list[str]:
            if host not in names:
                raise OSError
            return names[host]

        return OutboundClient(allowed_networks=settings.allowed_networks, find_addresses=find)

    endpoints = {
        name: endpoint_settings(tmp_path, name, callback=f"https://{name}.test/x")
        for name in ("inside", "outside", "gone")
    }
    channel = channel_of(endpoints, make_client=make_client)
    inside, gone = await channel.check()
    assert inside.startswith("channels.webhooks.endpoints.inside.callback: 'inside.test' has the ")
    assert gone == (
        "channels.webhooks.endpoints.gone.callback: the address of 'gone.test' is not found"
    )


async def test_a_channel_without_endpoints_is_told() -> None:
    assert await channel_of({}).check() == [
        "channels.webhooks.endpoints is empty: nobody can send messages"
    ]
