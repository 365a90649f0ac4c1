"""Model servers: those of this machine, and the models that a server with the OpenAI API lists."""

import asyncio
import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from yarl import URL

from palaver.errors import InvalidInput
from palaver.outbound import REDIRECTS, OutboundClient, OutboundContent, OutboundError

USUAL_PORTS = {
    11434: "Ollama",
    1234: "LM Studio",
    8080: "llama.cpp",
    8000: "vLLM",
    30000: "SGLang",
    1337: "Jan",
    5001: "KoboldCpp",
    5000: "text-generation-webui",
    4891: "GPT4All",
    23333: "LMDeploy",
}
"""The port of each program, unless the person who runs it chooses another one."""
OWNERS = {"library": "Ollama", "llamacpp": "llama.cpp", "vllm": "vLLM", "sglang": "SGLang"}
"""What a program writes into ``owned_by`` of its models."""
OWN_OWNER = "palaver"
"""What Palaver's own OpenAI API writes there."""
LOOPBACK = "127.0.0.1"
DISCOVERY_TIMEOUT = 2.0
"""Seconds that a server of this machine has to list its models."""
LIST_TIMEOUT = 10.0
"""Seconds that any other server has."""
MAX_LIST_BYTES = 4_000_000
MAX_MODELS = 1_000
MAX_URL = 2_000
MAX_KEY = 4_000
MODEL_ID = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
_NO_TEXT = re.compile(r"embed|rerank|whisper|(?:^|[-_/])tts", re.IGNORECASE)
"""Matches the names of models that generate no text."""
_LOCAL_HOST = re.compile(r"localhost|[\d.]+|\[[\da-f:.]+\]|[^.:]+", re.IGNORECASE)
_ENDPOINTS = re.compile(r"/(?:chat/completions|completions|models|responses|embeddings)$")


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that a server lists. ``size`` is in bytes, null when it is unknown."""

    id: str
    size: int | None = None


class ModelServer(msgspec.Struct, frozen=True, kw_only=True):
    """A server with the OpenAI API. ``needs_key``: it lists its models only with a key."""

    name: str
    url: str
    models: tuple[ServedModel, ...]
    needs_key: bool = False


class ListRefused(InvalidInput):
    """A server does not list its models. ``needs_key``: because it wants another key, or one."""

    def __init__(self, message: str, *, needs_key: bool = False) -> None:
        super().__init__(message)
        self.needs_key = needs_key


async def find_model_servers(ports: Iterable[int], own_port: int = 0) -> list[ModelServer]:
    """Return the model servers of this machine, asked all at once. ``own_port`` is not asked."""
    async with OutboundClient(
        allowed_networks=(f"{LOOPBACK}/32",), timeout=DISCOVERY_TIMEOUT
    ) as client:
        asked = (_ask(client, port) for port in dict.fromkeys(ports) if port != own_port)
        return [server for server in await asyncio.gather(*asked) if server is not None]


async def _ask(client: OutboundClient, port: int) -> ModelServer | None:
    url, name = f"http://{LOOPBACK}:{port}/v1", USUAL_PORTS.get(port, "")
    try:
        cards = await _list_cards(client, url, "")
    except ListRefused as refusal:
        named = name or "A model server"
        return ModelServer(name=named, url=url, models=(), needs_key=True) if (
            refusal.needs_key
        ) else None  # fmt: skip
    owners = {str(card.get("owned_by")) for card in cards}
    if OWN_OWNER in owners:
        return None
    name = next((OWNERS[owner] for owner in owners if owner in OWNERS), name) or "A model server"
    sizes = await _ollama_sizes(client, port) if name == "Ollama" else {}
    models = tuple(_served_models(cards, sizes))
    return ModelServer(name=name, url=url, models=models) if models else None


async def list_models(url: str, key: str) -> tuple[str, tuple[ServedModel, ...]]:
    """Return the base URL of a server, as `normalize_url` writes it or with ``/v1`` at its end, and
    its models. Raises `ListRefused` with a sentence for the person who gave the URL."""
    url = normalize_url(url)
    check_key(key)
    async with OutboundClient(
        # The operator chooses the server, which is often in a private network.
        allowed_networks=("0.0.0.0/0", "::/0"),
        is_public_http_allowed=True,
        timeout=LIST_TIMEOUT,
    ) as client:
        try:
            return url, tuple(_served_models(await _list_cards(client, url, key), {}))
        except ListRefused as refusal:
            if refusal.needs_key or url.endswith("/v1"):
                raise
            longer = f"{url}/v1"
            try:
                return longer, tuple(_served_models(await _list_cards(client, longer, key), {}))
            except ListRefused:
                raise refusal from None


def normalize_url(text: str) -> str:
    """Return a base URL as people write it in its full form, such as ``http://localhost:1234/v1``
    for ``localhost:1234``. Raises `ListRefused`."""
    text = text.strip()
    if "://" not in text:
        host = text.partition("/")[0]
        is_local = _LOCAL_HOST.fullmatch(re.sub(r":\d+$", "", host)) is not None
        text = f"{'http' if is_local else 'https'}://{text}"
    try:
        url = URL(text)
    except ValueError:
        url = URL()
    if len(text) > MAX_URL or url.scheme not in ("http", "https") or not url.host:
        raise ListRefused("expected an address such as http://127.0.0.1:8000/v1")
    if url.user is not None or url.password is not None:
        raise ListRefused("write the key into its own field, and not into the address")
    if url.query_string or url.fragment:
        raise ListRefused("the address must not have a part after '?' or '#'")
    path = _ENDPOINTS.sub("", url.path.rstrip("/"))
    return str(url.with_path(path or "/v1"))


def check_key(key: str) -> None:
    """Raise `ListRefused` for a key that no header can carry."""
    if len(key) > MAX_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise ListRefused("a key is one word of ASCII characters")


async def _list_cards(client: OutboundClient, url: str, key: str) -> list[dict[str, Any]]:  # JSON
    """Return the descriptions of models that a server lists. Raises `ListRefused`."""
    headers = {"Accept": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    try:
        response = await client.get(f"{url}/models", headers, max_bytes=MAX_LIST_BYTES)
    except OutboundError as error:
        raise ListRefused(f"no model server can be reached at {url}: {error}") from error
    _check_status(response, url, key)
    try:
        listed = msgspec.json.decode(response.body)
    except (msgspec.DecodeError, RecursionError):
        listed = None
    cards = listed.get("data") if isinstance(listed, dict) else listed
    if not isinstance(cards, list):
        raise ListRefused(f"{url} does not answer as a server with the OpenAI API does")
    return [card for card in cards[:MAX_MODELS] if isinstance(card, dict)]


def _check_status(response: OutboundContent, url: str, key: str) -> None:
    status = response.status
    if status in (401, 403):
        asks = f"{url} refuses the key" if key else f"{url} asks for a key"
        raise ListRefused(f"{asks} (HTTP {status})", needs_key=True)
    if status in REDIRECTS:
        raise ListRefused(f"{url} redirects to another address (HTTP {status}): give that one")
    if status == 404:
        raise ListRefused(f"{url} has no list of models: is it the address of the OpenAI API?")
    if status != 200:
        raise ListRefused(f"{url} answers with HTTP {status}")


def _served_models(cards: list[dict[str, Any]], sizes: dict[str, int]) -> Iterator[ServedModel]:
    """Yield the models that may generate text."""
    for card in cards:
        id, meta = card.get("id"), card.get("meta")
        if not isinstance(id, str) or not MODEL_ID.fullmatch(id) or _NO_TEXT.search(id):
            continue
        size = meta.get("size") if isinstance(meta, dict) else None  # of llama.cpp
        yield ServedModel(id=id, size=size if isinstance(size, int) else sizes.get(id))


async def _ollama_sizes(client: OutboundClient, port: int) -> dict[str, int]:
    """Return the sizes of Ollama's models in bytes, which its list for the OpenAI API lacks."""
    try:
        url = f"http://{LOOPBACK}:{port}/api/tags"
        response = await client.get(url, {}, max_bytes=MAX_LIST_BYTES)
        models = msgspec.json.decode(response.body)["models"]
        return {str(model["name"]): int(model["size"]) for model in models}
    except (OutboundError, msgspec.DecodeError, RecursionError, LookupError, TypeError, ValueError):
        return {}
