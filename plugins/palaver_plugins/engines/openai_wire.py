"""Wire format of the OpenAI API for engine ``openai``: request bodies, chunks and errors."""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, assert_never

import msgspec

from palaver import (
    ChatMessage,
    Choice,
    EngineError,
    EngineUnavailable,
    GenerationRequest,
    Image,
    InvalidInput,
    JsonSchema,
    Overloaded,
    PalaverError,
    PromptTooLong,
    Regex,
    Structure,
    Unsupported,
)
from palaver_plugins.engines.openai_tools import message_fields, request_fields

Flavor = Literal["vllm", "generic"]
Body = dict[str, Any]  # a JSON object of the API

PROMPT_TOO_LONG = re.compile(
    r"context.{0,12}(length|window|size)|max_model_len|too many tokens|prompt is too long"
    r"|maximum number of tokens allowed|`inputs`.{0,40}(tokens|max_new_tokens)",
    re.IGNORECASE,
)
"""Matches the error of vLLM, OpenAI, llama.cpp, SGLang, Anthropic, Gemini and TGI for a prompt that
is too long."""


LENGTHS = ("max_model_len", "context_length", "context_window")
"""Names of a model's context window, in tokens: vLLM's, OpenRouter's, Groq's."""
MAX_LENGTH = 1 << 40
MAX_RETRY_AFTER = 3600.0
"""Largest number of seconds that is taken from a server."""


class ModelCard(msgspec.Struct):
    id: str
    owned_by: str | None = None
    parent: str | None = None
    max_model_len: int | None = None
    vision: bool | None = None  # None: the server does not say
    tools: bool | None = None


class Embedding(msgspec.Struct):
    index: int
    embedding: list[float]


class Embeddings(msgspec.Struct):
    data: list[Embedding]


class TokenCount(msgspec.Struct):
    count: int


def read_cards(answer: object) -> list[ModelCard]:
    """Return the models that a server lists: the common fields, each where it has its type."""
    listed = answer.get("data") if isinstance(answer, dict) else answer
    return [
        ModelCard(
            id=card["id"],
            owned_by=_text(card.get("owned_by")),
            parent=_text(card.get("parent")),
            max_model_len=next(filter(None, (_count(card.get(name)) for name in LENGTHS)), None),
            vision=_sees_images(card),
            tools=_calls_tools(card),
        )
        for card in (listed if isinstance(listed, list) else ())
        if isinstance(card, dict) and isinstance(card.get("id"), str)
    ]


def _sees_images(card: Body) -> bool | None:
    """Return whether the model takes images, as OpenRouter, llama.cpp and Mistral say it."""
    architecture = card.get("architecture")
    if isinstance(architecture, dict) and isinstance(architecture.get("input_modalities"), list):
        return "image" in architecture["input_modalities"]
    capabilities = card.get("capabilities")
    if isinstance(capabilities, dict) and isinstance(capabilities.get("vision"), bool):
        return bool(capabilities["vision"])
    if isinstance(capabilities, list):
        return "multimodal" in capabilities
    return None


def _calls_tools(card: Body) -> bool | None:
    """Return whether the model calls tools, as OpenRouter, Mistral and LM Studio say it."""
    parameters = card.get("supported_parameters")
    if isinstance(parameters, list):
        return "tools" in parameters
    capabilities = card.get("capabilities")
    if isinstance(capabilities, dict) and isinstance(capabilities.get("function_calling"), bool):
        return bool(capabilities["function_calling"])
    if isinstance(capabilities, list) and not {"tool_use", "tools"}.isdisjoint(
        it for it in capabilities if isinstance(it, str)
    ):
        return True
    return None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _count(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) and 1 <= value < MAX_LENGTH else None


class UpstreamFailed(Exception):
    """A server failed, and another one may succeed.

    ``error`` is what the engine raises when no server succeeds. ``unhealthy``: the fault lies with
    the server itself, so that it needs a cooldown.
    """

    def __init__(self, error: PalaverError, *, unhealthy: bool = True) -> None:
        super().__init__(str(error))
        self.error = error
        self.unhealthy = unhealthy


def prompt_body(messages: Sequence[ChatMessage], partial: str = "", cache_salt: str = "") -> Body:
    """Return the fields of a body that determine the prompt, beside the tools, also for vLLM's
    /tokenize.

    ``cache_salt``: the images get ids that contain it, by which vLLM's caches know them.
    """
    prompt = [
        {"role": message.role, "content": _content(message, cache_salt)} | message_fields(message)
        for message in messages
    ]
    if not partial:
        return {"messages": prompt}
    return {
        "messages": [*prompt, {"role": "assistant", "content": partial}],
        "continue_final_message": True,
        "add_generation_prompt": False,
    }


def _content(message: ChatMessage, cache_salt: str) -> str | list[Body] | None:
    if message.tool_calls:
        return message.content or None
    if not message.images:
        return message.content
    parts = [_image_part(image, cache_salt) for image in message.images]
    return [*parts, {"type": "text", "text": message.content}] if message.content else parts


def _image_part(image: Image, cache_salt: str) -> Body:
    url = f"data:{image.media_type};base64,{base64.b64encode(image.data).decode()}"
    part: Body = {"type": "image_url", "image_url": {"url": url}}
    if cache_salt:
        part["uuid"] = hashlib.sha256(f"{cache_salt}\0".encode() + image.data).hexdigest()
    return part


def chat_body(
    request: GenerationRequest, model: str, flavor: Flavor, max_tokens: int | None
) -> Body:
    """Return the body of a streamed chat completion."""
    sampling = request.sampling
    cache_salt = request.tenant if flavor == "vllm" else ""
    body = prompt_body(request.messages, request.partial, cache_salt) | {
        "model": request.adapter or model,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
    }
    optional = {"max_tokens": max_tokens, "seed": sampling.seed}
    body |= {name: value for name, value in optional.items() if value is not None}
    for name in ("presence_penalty", "frequency_penalty"):
        if penalty := getattr(sampling, name):
            body[name] = penalty
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": sampling.logprobs}
    if sampling.structure is not None:
        body |= structure_fields(sampling.structure, flavor)
    body |= request_fields(request, strict=flavor == "vllm")
    # vLLM always gets these two, or the model's generation config would decide. Other servers may
    # refuse unknown fields, so they get only what differs from the default.
    if flavor == "vllm" or sampling.top_k:
        body["top_k"] = sampling.top_k
    if flavor == "vllm" or sampling.repetition_penalty != 1:
        body["repetition_penalty"] = sampling.repetition_penalty
    if flavor == "vllm":
        body |= {"priority": request.priority, "cache_salt": cache_salt}
    return body


def structure_fields(structure: Structure, flavor: Flavor) -> Body:
    if flavor == "generic" and isinstance(structure, JsonSchema):
        is_strict = structure.schema != {"type": "object"}  # any object is refused as strict
        schema = {"name": "answer", "schema": structure.schema, "strict": is_strict}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    return {"structured_outputs": structured_outputs(structure)}


def structured_outputs(structure: Structure) -> Body:
    """Return ``structure`` as an argument of vLLM's StructuredOutputsParams."""
    match structure:
        case JsonSchema():
            return {"json": structure.schema}
        case Choice():
            return {"choice": list(structure.options)}
        case Regex():
            return {"regex": structure.pattern}
        case _:
            assert_never(structure)


def connection_error(url: str, error: Exception) -> EngineUnavailable:
    """Return the exception for a failed exchange. Only the system's own words are for the log."""
    kind = type(error).__name__
    if isinstance(error, OSError):
        return EngineUnavailable(f"{url}: {str(error) or kind} ({kind})", retry_after=1)
    return EngineUnavailable(f"{url}: {kind}", quoted=str(error), retry_after=1)


def response_error(
    url: str, status: int, body: bytes, headers: Mapping[str, str]
) -> UpstreamFailed | PalaverError:
    """Return the exception for a response with a status other than 200."""
    detail, quoted = f"{url}: HTTP {status}", error_message(body)
    if status in (429, 503):
        pause = retry_after(headers)
        return UpstreamFailed(Overloaded(detail, quoted=quoted, retry_after=pause), unhealthy=False)
    if status >= 500:
        return UpstreamFailed(EngineUnavailable(detail, quoted=quoted, retry_after=1))
    if status in (401, 403):
        return EngineError(
            f"{detail}: {quoted}; set engine.openai.api_key to a key that {url} accepts"
        )
    if 300 <= status < 400:
        return EngineError(f"{detail}: redirects are not followed; set engine.openai.urls")
    if status == 404:
        return EngineError(f"{detail}: {quoted}; the setting engine.openai.model names the model")
    if status in (400, 413, 422):
        kind = PromptTooLong if PROMPT_TOO_LONG.search(quoted) else InvalidInput
        return kind(detail, quoted=quoted)
    if status == 501:
        return Unsupported(detail, quoted=quoted)
    return EngineError(detail, quoted=quoted)


def error_message(body: bytes) -> str:
    """Return the message in an error's body, in any of the shapes that servers use, with the word
    for its kind."""
    try:
        value: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return body[:500].decode("utf-8", "replace").strip()
    code: object = None
    while isinstance(value, dict) or (isinstance(value, list) and len(value) == 1):
        if isinstance(value, list):
            value = value[0]
            continue
        code = value.get("code")
        key = next((key for key in ("error", "message", "detail") if key in value), None)
        if key is None:
            break
        value = value[key]
    return str(value)[:500] + (f" ({code[:100]})" if isinstance(code, str) else "")


def find_error(chunk: Body) -> object:
    """Return the error that a chunk is, in any of the shapes that servers use, or None."""
    if chunk.get("object") == "error":
        return chunk
    return chunk.get("error") or None


def stream_error(url: str, error: object) -> UpstreamFailed | PalaverError:
    """Return the exception for an error event within a stream. The server itself has answered, so
    that it needs no cooldown."""
    failure = response_error(url, error_status(error), msgspec.json.encode(error), {})
    if isinstance(failure, UpstreamFailed):
        failure.unhealthy = False
    return failure


def error_status(error: object) -> int:
    """Return the HTTP status that belongs to an error event: its code, or what its words mean."""
    fields = error if isinstance(error, dict) else {}
    for value in (fields.get("code"), fields.get("status")):
        if str(value).isdecimal() and 400 <= int(str(value)[:4]) < 600:
            return int(str(value))
    kind = f"{fields.get('type')} {fields.get('code')}".lower()
    if "rate_limit" in kind or "overloaded" in kind:
        return 429
    return 400 if "invalid" in kind or "bad" in kind or PROMPT_TOO_LONG.search(kind) else 500


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds in the header Retry-After; 1 when it is missing or holds a date."""
    value = headers.get("Retry-After", "")
    return min(float(value), MAX_RETRY_AFTER) if value.isascii() and value.isdigit() else 1.0


def request_counts(metrics: bytes) -> tuple[int, int] | None:
    """Return the running and waiting requests in vLLM's metrics, or None when they are missing."""
    totals = {b"vllm:num_requests_running{": 0.0, b"vllm:num_requests_waiting{": 0.0}
    found = False
    for line in metrics.splitlines():
        name = line[: line.find(b"{") + 1]
        if name in totals:
            totals[name] += float(line.rpartition(b" ")[2])
            found = True
    running, waiting = totals.values()
    return (round(running), round(waiting)) if found else None


encode = msgspec.json.Encoder().encode
