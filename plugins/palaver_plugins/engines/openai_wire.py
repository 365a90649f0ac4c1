"""Wire format of the OpenAI API for engine ``openai``: request bodies, chunks and errors."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, assert_never

import msgspec

from palaver import (
    ChatMessage,
    Choice,
    EngineError,
    EngineUnavailable,
    FinishReason,
    Generation,
    GenerationRequest,
    InvalidInput,
    JsonSchema,
    OnText,
    Overloaded,
    PalaverError,
    PromptTooLong,
    Regex,
    Structure,
    TokenLogprob,
    Unsupported,
    Usage,
)

Flavor = Literal["vllm", "generic"]
Body = dict[str, Any]  # a JSON object of the API

PROMPT_TOO_LONG = re.compile(
    r"context.{0,12}(length|window|size)|max_model_len|too many tokens", re.IGNORECASE
)
"""Matches the error of vLLM, OpenAI, llama.cpp and SGLang for a prompt that is too long."""


MAX_RETRY_AFTER = 3600.0
"""Largest number of seconds that is taken from a server."""


class Delta(msgspec.Struct):
    content: str | None = None


class TopLogprob(msgspec.Struct):
    token: str
    logprob: float


class WireLogprob(msgspec.Struct):
    token: str
    logprob: float
    top_logprobs: list[TopLogprob] = []


class Logprobs(msgspec.Struct):
    content: list[WireLogprob] | None = None


class ChunkChoice(msgspec.Struct):
    delta: Delta = msgspec.field(default_factory=Delta)
    logprobs: Logprobs | None = None
    finish_reason: str | None = None


class PromptTokensDetails(msgspec.Struct):
    cached_tokens: int | None = None


class WireUsage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: PromptTokensDetails | None = None


class Chunk(msgspec.Struct):
    """One event of a streamed chat completion."""

    choices: list[ChunkChoice] = []
    usage: WireUsage | None = None
    error: Any = None  # an object or a string; servers differ


class ModelCard(msgspec.Struct):
    id: str
    owned_by: str = ""
    parent: str | None = None
    max_model_len: int | None = None


class ModelList(msgspec.Struct):
    data: list[ModelCard]


class Embedding(msgspec.Struct):
    index: int
    embedding: list[float]


class Embeddings(msgspec.Struct):
    data: list[Embedding]


class TokenCount(msgspec.Struct):
    count: int


class Completion(msgspec.Struct):
    usage: WireUsage


class UpstreamFailed(Exception):
    """A server failed, and another one may succeed.

    ``error`` is what the engine raises when no server succeeds. ``unhealthy``: the fault lies with
    the server itself, so that it needs a cooldown.
    """

    def __init__(self, error: PalaverError, *, unhealthy: bool = True) -> None:
        super().__init__(str(error))
        self.error = error
        self.unhealthy = unhealthy


class CallbackError(Exception):
    """The caller's ``on_text`` raised ``error``: the server is not at fault."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class CompletionStream:
    """The contents of one streamed completion. ``partial_tokens`` of the reply existed before."""

    def __init__(self, request: GenerationRequest, on_text: OnText, partial_tokens: int) -> None:
        self.request = request
        self.finish_reason: FinishReason | None = None
        self._partial_tokens = partial_tokens
        self._pieces: list[str] = []
        self._on_text = on_text
        self._logprobs: list[TokenLogprob] = []
        self._usage = WireUsage()

    def add(self, chunk: Chunk) -> None:
        if chunk.usage is not None:
            self._usage = chunk.usage
        for choice in chunk.choices:
            if choice.logprobs is not None and choice.logprobs.content:
                self._add_logprobs(choice.logprobs.content)
            if choice.delta.content:
                self._deliver(choice.delta.content)
            if choice.finish_reason == "abort":  # vLLM, when it shuts down
                raise UpstreamFailed(EngineUnavailable("the server aborted the generation"))
            if choice.finish_reason is not None:
                self.finish_reason = "length" if choice.finish_reason == "length" else "stop"

    def _deliver(self, piece: str) -> None:
        self._pieces.append(piece)
        try:
            self._on_text(piece)
        except Exception as error:
            raise CallbackError(error) from error

    def _add_logprobs(self, tokens: Sequence[WireLogprob]) -> None:
        count = self.request.sampling.logprobs or 0
        for token in tokens:
            best = sorted(token.top_logprobs, key=lambda other: -other.logprob)[:count]
            alternatives = tuple((other.token, other.logprob) for other in best)
            self._logprobs.append(TokenLogprob(token.token, token.logprob, alternatives))

    def generation(self, finish_reason: FinishReason) -> Generation:
        details = self._usage.prompt_tokens_details
        prompt = max(0, self._usage.prompt_tokens - self._partial_tokens)
        usage = Usage(
            prompt_tokens=prompt,
            cached_tokens=min(prompt, (details and details.cached_tokens) or 0),
            completion_tokens=self._usage.completion_tokens + self._partial_tokens,
        )
        return Generation(
            text="".join(self._pieces),
            finish_reason=finish_reason,
            usage=usage,
            logprobs=tuple(self._logprobs),
        )


def prompt_body(messages: Sequence[ChatMessage], partial: str = "") -> Body:
    """Return the fields of a body that determine the prompt, also for vLLM's /tokenize."""
    prompt = [{"role": message.role, "content": message.content} for message in messages]
    if not partial:
        return {"messages": prompt}
    return {
        "messages": [*prompt, {"role": "assistant", "content": partial}],
        "continue_final_message": True,
        "add_generation_prompt": False,
    }


def chat_body(request: GenerationRequest, model: str, flavor: Flavor, max_tokens: int) -> Body:
    """Return the body of a streamed chat completion."""
    sampling = request.sampling
    body = prompt_body(request.messages, request.partial) | {
        "model": request.adapter or model,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
    }
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": sampling.logprobs}
    if sampling.structure is not None:
        body |= structure_fields(sampling.structure, flavor)
    # vLLM always gets these two, or the model's generation config would decide. Other servers may
    # refuse unknown fields, so they get only what differs from the default.
    if flavor == "vllm" or sampling.top_k:
        body["top_k"] = sampling.top_k
    if flavor == "vllm" or sampling.repetition_penalty != 1:
        body["repetition_penalty"] = sampling.repetition_penalty
    if flavor == "vllm":
        body |= {"priority": request.priority, "cache_salt": request.tenant}
    return body


def structure_fields(structure: Structure, flavor: Flavor) -> Body:
    if flavor == "generic" and isinstance(structure, JsonSchema):
        schema = {"name": "answer", "schema": structure.schema, "strict": True}
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
    if status == 404:
        return EngineError(f"{detail}: {quoted}; the setting engine.openai.model names the model")
    if status in (400, 413, 422):
        kind = PromptTooLong if PROMPT_TOO_LONG.search(quoted) else InvalidInput
        return kind(detail, quoted=quoted)
    if status == 501:
        return Unsupported(detail, quoted=quoted)
    return EngineError(detail, quoted=quoted)


def error_message(body: bytes) -> str:
    """Return the message in an error's body, in any of the shapes that servers use."""
    try:
        value: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return body[:500].decode("utf-8", "replace").strip()
    while isinstance(value, dict):
        key = next((key for key in ("error", "message", "detail") if key in value), None)
        if key is None:
            break
        value = value[key]
    return str(value)[:500]


def stream_error(url: str, error: object) -> UpstreamFailed | PalaverError:
    """Return the exception for an error event within a stream."""
    code = error.get("code") if isinstance(error, dict) else None
    status = code if isinstance(code, int) else 500
    return response_error(url, status, msgspec.json.encode(error), {})


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
decode_chunk = msgspec.json.Decoder(Chunk).decode
