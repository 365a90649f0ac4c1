"""Model servers of this machine are found, and what any server lists is read with care."""

import json
import socket

import pytest
from tests.model_servers import model_server, raw_server
from tests.ports import free_port

from palaver.models.servers import (
    MAX_LIST_BYTES,
    USUAL_PORTS,
    ListRefused,
    ModelServer,
    ServedModel,
    find_model_servers,
    list_models,
    normalize_url,
)

pytestmark = pytest.mark.slow


async def test_all_servers_of_this_machine_are_found_at_once() -> None:
    async with (
        model_server("llama3.2:3b", "nomic-embed-text", owner="library") as ollama,
        model_server("qwen.gguf", owner="llamacpp") as llama,
        model_server("secret", key="k") as guarded,
        model_server("auto", owner="palaver") as another_palaver,
        model_server() as without_models,
        model_server("own") as own,
    ):
        ollama.tags = {"models": [{"name": "llama3.2:3b", "size": 2_000_000_000}]}
        llama.listed["data"][0]["meta"] = {"size": 500_000_000}
        ports = [it.port for it in (ollama, llama, guarded, another_palaver, without_models, own)]
        ports += [free_port(), ollama.port]
        found = await find_model_servers(ports, own_port=own.port)
        assert own.requests == []
    assert found == [
        ModelServer(
            name="Ollama",
            url=ollama.url,
            models=(ServedModel(id="llama3.2:3b", size=2_000_000_000),),
        ),
        ModelServer(
            name="llama.cpp",
            url=llama.url,
            models=(ServedModel(id="qwen.gguf", size=500_000_000),),
        ),
        ModelServer(name="A model server", url=guarded.url, models=(), needs_key=True),
    ]


async def test_a_port_that_accepts_and_stays_silent_is_left_out() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        async with model_server("m") as server:
            found = await find_model_servers([silent.getsockname()[1], server.port])
    assert [it.url for it in found] == [server.url]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 200),
        (b"<html>", 200),
        (b"[" * 100_000, 200),
        (b'{"data": 7}', 200),
        (b'{"data": [7, {}, {"id": 5}, {"id": ""}, {"id": "a\\nb"}]}', 200),
        (b"x" * (MAX_LIST_BYTES + 1), 200),
        (b"\xff\xfe", 200),
        (b"{}", 500),
        (b'{"data": [{"id": "m"}]}', 302),
    ],
)
async def test_what_is_no_list_of_models_is_no_server(body: bytes, status: int) -> None:
    async with raw_server(body, status) as port:
        assert await find_model_servers([port]) == []


async def test_sizes_that_are_none_are_left_out() -> None:
    async with model_server("m", owner="library") as server:
        for models in (3, [{"name": "m"}], [3]):
            server.tags = {"models": models}
            (found,) = await find_model_servers([server.port])
            assert found.models == (ServedModel(id="m"),)


def test_the_usual_ports_have_names() -> None:
    assert {11434, 8080, 1234, 8000} <= USUAL_PORTS.keys()


# An address that a person gives


async def test_a_server_lists_its_models_for_its_key() -> None:
    async with model_server("a", "b", key="right") as server:
        assert await list_models(f"127.0.0.1:{server.port}", "right") == (
            server.url,
            (ServedModel(id="a"), ServedModel(id="b")),
        )
        for key, sentence in (("", "asks for a key"), ("wrong", "refuses the key")):
            with pytest.raises(ListRefused, match=sentence) as caught:
                await list_models(server.url, key)
            assert caught.value.needs_key
            assert "wrong" not in str(caught.value)


async def test_the_path_of_the_api_is_found() -> None:
    async with model_server("a") as server:
        for path in ("", "/", "/v1/", "/v1/models", "/v1/chat/completions"):
            url, models = await list_models(f"http://127.0.0.1:{server.port}{path}", "")
            assert (url, len(models)) == (server.url, 1)
        with pytest.raises(ListRefused, match="has no list of models"):
            await list_models(f"http://127.0.0.1:{server.port}/other", "")


async def test_a_redirect_is_not_followed() -> None:
    async with model_server("m") as target:
        async with raw_server(status=307, headers={"Location": f"{target.url}/models"}) as port:
            with pytest.raises(ListRefused, match="redirects to another address"):
                await list_models(f"http://127.0.0.1:{port}/v1", "key")
        assert target.requests == []


async def test_a_long_list_is_cut_and_a_huge_one_refused() -> None:
    cards = json.dumps({"data": [{"id": f"m{n}"} for n in range(3_000)]}).encode()
    async with raw_server(cards) as port:
        _, models = await list_models(f"http://127.0.0.1:{port}/v1", "")
        assert len(models) == 1_000
    async with raw_server(b" " * (MAX_LIST_BYTES + 1)) as port:
        with pytest.raises(ListRefused, match="sent more than"):
            await list_models(f"http://127.0.0.1:{port}/v1", "")


async def test_services_that_give_away_credentials_of_a_cloud_are_not_asked() -> None:
    with pytest.raises(ListRefused, match="no model server can be reached"):
        await list_models("http://169.254.169.254/v1", "")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("localhost:1234", "http://localhost:1234/v1"),
        ("127.0.0.1:8000/v1/", "http://127.0.0.1:8000/v1"),
        ("[::1]:8000", "http://[::1]:8000/v1"),
        ("gpu-box:8000", "http://gpu-box:8000/v1"),
        ("api.example.org", "https://api.example.org/v1"),
        (
            " https://api.example.org/openai/v1/chat/completions ",
            "https://api.example.org/openai/v1",
        ),
        ("http://h/v1/models", "http://h/v1"),
    ],
)
def test_an_address_is_completed(text: str, url: str) -> None:
    assert normalize_url(text) == url
    assert normalize_url(url) == url


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "expected an address"),
        ("http://", "expected an address"),
        ("ftp://h/v1", "expected an address"),
        ("file:///etc/passwd", "expected an address"),
        ("http://[::/", "expected an address"),
        ("h" * 3_000, "expected an address"),
        ("http://user:secret@h/v1", "into its own field"),
        ("http://h/v1?key=secret", "after '\\?'"),
    ],
)
def test_what_is_no_address_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(ListRefused, match=sentence) as caught:
        normalize_url(text)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("key", ["a b", "a\nb", "ü", "k" * 5_000])
async def test_a_key_that_no_header_carries_is_refused(key: str) -> None:
    with pytest.raises(ListRefused, match="one word of ASCII"):
        await list_models("http://127.0.0.1:1/v1", key)
