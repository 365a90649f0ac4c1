"""The OpenAI API as engine ``openai`` uses it: bodies, chunks, and what errors stand for."""

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

TOO_LONG = re.compile(
    r"context.{0,12}(length|window|size)|max_model_len|too many tokens", re.IGNORECASE
)
"""How servers say that prompt and reply do not fit: vLLM, OpenAI, llama.cpp, SGLang."""


class Delta(msgspec.Struct):
    content: str | None = None


class Alternative(msgspec.Struct):
    token: str
    logprob: float


class LoggedToken(msgspec.Struct):
    token: str
    logprob: float
    top_logprobs: list[Alternative] = []


class Logged(msgspec.Struct):
    content: list[LoggedToken] | None = None


class Part(msgspec.Struct):
    """One of a chunk's ``choices``."""

    delta: Delta = msgspec.field(default_factory=Delta)
    logprobs: Logged | None = None
    finish_reason: str | None = None


class PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class Used(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: PromptDetails | None = None


class Chunk(msgspec.Struct):
    """One event of a streamed chat completion."""

    choices: list[Part] = []
    usage: Used | None = None
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


class Counted(msgspec.Struct):
    count: int


class Completed(msgspec.Struct):
    usage: Used


class UpstreamFailed(Exception):
    """A server failed in a way that another one may make good.

    ``error`` is what to raise when none does. ``broken``: the server itself is at fault, so it is
    not asked again for a while.
    """

    def __init__(self, error: PalaverError, *, broken: bool = True) -> None:
        super().__init__(str(error))
        self.error = error
        self.broken = broken


class CallbackError(Exception):
    """The caller's own ``on_text`` raised ``error``: no server is to blame."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class CompletionStream:
    """What a server has said of a reply that ``begun`` tokens exist of."""

    def __init__(self, request: GenerationRequest, on_text: OnText, begun: int) -> None:
        self.request = request
        self.reason: FinishReason | None = None
        self._begun = begun
        self._pieces: list[str] = []
        self._on_text = on_text
        self._logprobs: list[TokenLogprob] = []
        self._used = Used()

    def take(self, chunk: Chunk) -> None:
        if chunk.usage is not None:
            self._used = chunk.usage
        for part in chunk.choices:
            if part.logprobs is not None and part.logprobs.content:
                self._log(part.logprobs.content)
            if part.delta.content:
                self._say(part.delta.content)
            if part.finish_reason == "abort":  # vLLM, when it is told to end
                raise UpstreamFailed(EngineUnavailable("the server gave the generation up"))
            if part.finish_reason is not None:
                self.reason = "length" if part.finish_reason == "length" else "stop"

    def _say(self, piece: str) -> None:
        self._pieces.append(piece)
        try:
            self._on_text(piece)
        except Exception as error:
            raise CallbackError(error) from error

    def _log(self, tokens: Sequence[LoggedToken]) -> None:
        wanted = self.request.sampling.logprobs or 0
        for token in tokens:
            others = sorted(token.top_logprobs, key=lambda other: -other.logprob)[:wanted]
            alternatives = tuple((other.token, other.logprob) for other in others)
            self._logprobs.append(TokenLogprob(token.token, token.logprob, alternatives))

    def generation(self, reason: FinishReason) -> Generation:
        details = self._used.prompt_tokens_details
        prompt = max(0, self._used.prompt_tokens - self._begun)
        usage = Usage(
            prompt_tokens=prompt,
            cached_tokens=min(prompt, (details and details.cached_tokens) or 0),
            completion_tokens=self._used.completion_tokens + self._begun,
        )
        return Generation(
            text="".join(self._pieces),
            finish_reason=reason,
            usage=usage,
            logprobs=tuple(self._logprobs),
        )


def wire_messages(messages: Sequence[ChatMessage], partial: str = "") -> list[dict[str, str]]:
    told = [{"role": message.role, "content": message.content} for message in messages]
    return [*told, {"role": "assistant", "content": partial}] if partial else told


def prompt_body(messages: Sequence[ChatMessage], partial: str = "") -> Body:
    """The part of a body that makes the prompt, as vLLM's /tokenize takes it, too."""
    body: Body = {"messages": wire_messages(messages, partial)}
    if partial:
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return body


def chat_body(request: GenerationRequest, model: str, flavor: Flavor, max_tokens: int) -> Body:
    """The body of a streamed chat completion."""
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
        body |= wire_structure(sampling.structure, flavor)
    # Said to vLLM in any case: a model's own defaults are not to decide. Strict servers refuse
    # names that they do not know, so these hear only what was asked for.
    if flavor == "vllm" or sampling.top_k:
        body["top_k"] = sampling.top_k
    if flavor == "vllm" or sampling.repetition_penalty != 1:
        body["repetition_penalty"] = sampling.repetition_penalty
    if flavor == "vllm":
        body |= {"priority": request.priority, "cache_salt": request.tenant}
    return body


def wire_structure(structure: Structure, flavor: Flavor) -> Body:
    match structure:
        case JsonSchema() if flavor == "generic":
            named = {"name": "answer", "schema": structure.schema, "strict": True}
            return {"response_format": {"type": "json_schema", "json_schema": named}}
        case JsonSchema():
            return {"structured_outputs": {"json": structure.schema}}
        case Choice():
            return {"structured_outputs": {"choice": list(structure.options)}}
        case Regex():
            return {"structured_outputs": {"regex": structure.pattern}}
        case _:
            assert_never(structure)


def refusal(
    url: str, status: int, body: bytes, headers: Mapping[str, str], model: str = ""
) -> UpstreamFailed | PalaverError:
    """What an answer other than 200 stands for."""
    detail = f"{url}: HTTP {status}: {complaint(body)}"
    if status in (429, 503):
        pause = retry_after(headers)
        return UpstreamFailed(Overloaded(detail, retry_after=pause), broken=False)
    if status >= 500:
        return UpstreamFailed(EngineUnavailable(detail, retry_after=1))
    if status in (401, 403):
        return EngineError(f"{detail}; set engine.openai.api_key to a key that {url} accepts")
    if status == 404:
        return EngineError(f"{detail}; the setting engine.openai.model names the model")
    if status in (400, 413, 422) and TOO_LONG.search(detail):
        return PromptTooLong(detail)
    if status in (400, 413, 422):
        return InvalidInput(detail)
    if status == 501:
        return Unsupported(detail)
    return EngineError(detail)


def complaint(body: bytes) -> str:
    """The sentence in an error's body; what it looks like differs between servers."""
    try:
        parsed = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return body[:500].decode("utf-8", "replace").strip()
    return spoken(parsed)[:500]


def spoken(parsed: object) -> str:
    if isinstance(parsed, dict):
        for key in ("error", "message", "detail"):
            if key in parsed:
                return spoken(parsed[key])
    return str(parsed)


def stream_error(url: str, error: object) -> UpstreamFailed | PalaverError:
    """What an error event within a stream stands for."""
    code = error.get("code") if isinstance(error, dict) else None
    status = code if isinstance(code, int) else 500
    return refusal(url, status, msgspec.json.encode(error), {})


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds; 1 when the server does not say (a date, which the header may hold, is not read)."""
    said = headers.get("Retry-After", "")
    return float(said) if said.isascii() and said.isdigit() else 1.0


def request_counts(metrics: bytes) -> tuple[int, int] | None:
    """Running and waiting requests in vLLM's metrics, or None when they are not there."""
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
