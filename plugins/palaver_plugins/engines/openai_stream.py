"""Stream of one chat completion for engine ``openai``, as any server of the API may write it.

Servers differ in what they leave out or set to null. Only what is no JSON object is an error, and
what says that it is one.
"""

import json
import re
from collections.abc import Iterator, Mapping

import msgspec

from palaver import (
    EngineUnavailable,
    FinishReason,
    Generation,
    GenerationRequest,
    OnText,
    TokenLogprob,
    Usage,
)
from palaver_plugins.engines.openai_tools import StreamedCalls
from palaver_plugins.engines.openai_wire import Body, UpstreamFailed
from palaver_plugins.engines.sse import SseParser

LENGTH_REASONS = frozenset({"length", "max_tokens", "model_length"})
FAILURE_REASONS = {"abort": True, "error": False}
"""Whether the server needs a cooldown: ``abort`` comes from a vLLM that shuts down, ``error`` from
routers of models."""
MAX_COUNT = 1 << 53
_SURROGATE = re.compile("[\ud800-\udfff]")
_BYTES = re.compile("[\udc80-\udcff]+")
"""Bytes that are not valid UTF-8, as the error handler ``surrogateescape`` decodes them."""
_HALF = re.compile("(?:[\ud800-\udbff]|[\udcc2-\udcf4][\udc80-\udcbf]{0,2})\\Z")
"""Matches the first half of a character at the end of a text: of its UTF-16, or of its UTF-8."""
_decode = msgspec.json.Decoder().decode


class CallbackError(Exception):
    """The caller's ``on_text`` raised ``error``: the server is not at fault."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class CompletionStream:
    """The contents of one streamed completion. ``partial_tokens`` of the reply existed before.

    ``is_done``: the server has ended the stream.
    """

    def __init__(self, request: GenerationRequest, on_text: OnText, partial_tokens: int) -> None:
        self.request = request
        self.finish_reason: FinishReason | None = None
        self.is_done = False
        self._parser = SseParser()
        self._partial_tokens = partial_tokens
        self._pieces: list[str] = []
        self._on_text = on_text
        self._half = ""
        """First half of a character whose second half has not come."""
        self._logprobs: list[TokenLogprob] = []
        self._usage: Body = {}
        self._calls = StreamedCalls([tool.name for tool in request.tools])

    def parse(self, data: bytes) -> Iterator[Body]:
        """Yield the chunks that ``data`` completes, up to the end of the stream. Raises
        `ValueError` and `RecursionError` for one that cannot be read."""
        for event in self._parser.feed(data):
            if event.strip() == b"[DONE]":
                self.is_done = True
                return
            yield read_object(event)

    def add(self, chunk: Body) -> None:
        """Deliver the text of a chunk, or of a whole completion, and store the rest."""
        self._usage = as_object(chunk.get("usage")) or self._usage
        choices = chunk.get("choices")
        choice = as_object(choices[0]) if isinstance(choices, list) and choices else {}
        self._logprobs += read_logprobs(choice.get("logprobs"), self.request.sampling.logprobs or 0)
        message = as_object(choice.get("delta")) or as_object(choice.get("message"))
        self._deliver(read_text(message.get("content")) or read_text(message.get("refusal")))
        if self.request.tools:
            self._calls.add(message)
        self._finish(choice.get("finish_reason"))

    def _deliver(self, piece: str) -> None:
        if self._half or _SURROGATE.search(piece):
            piece = self._join_halves(piece)
        if not piece:
            return
        self._pieces.append(piece)
        try:
            self._on_text(piece)
        except Exception as error:
            raise CallbackError(error) from error

    def _join_halves(self, piece: str) -> str:
        """Return the text without a half character at its end, which waits for its other half."""
        if not piece:
            return ""
        text = join_halves(self._half + piece)
        half = _HALF.search(text)
        self._half = half[0] if half else ""
        return _SURROGATE.sub("\ufffd", text.removesuffix(self._half))

    def _finish(self, reason: object) -> None:
        if not isinstance(reason, str) or not reason:
            return
        if reason.lower() in FAILURE_REASONS:
            error = EngineUnavailable("the server aborted the generation")
            raise UpstreamFailed(error, unhealthy=FAILURE_REASONS[reason.lower()])
        self.finish_reason = "length" if reason.lower() in LENGTH_REASONS else "stop"

    @property
    def is_complete(self) -> bool:
        """Return whether the reply is complete: the server has said so of it, or of the stream."""
        return self.is_done or self.finish_reason is not None

    def end(self) -> None:
        """Deliver what still waits for its other half."""
        if self._half:
            self._half = ""
            self._deliver("\ufffd")

    def generation(self, finish_reason: FinishReason = "stop") -> Generation:
        """Return the result. ``finish_reason``: where the server has given none."""
        details = as_object(self._usage.get("prompt_tokens_details"))
        prompt = max(0, read_count(self._usage, "prompt_tokens") - self._partial_tokens)
        usage = Usage(
            prompt_tokens=prompt,
            cached_tokens=min(prompt, read_count(details, "cached_tokens")),
            completion_tokens=read_count(self._usage, "completion_tokens") + self._partial_tokens,
        )
        calls, reason = self._calls.result(self.finish_reason or finish_reason)
        return Generation(
            text="".join(self._pieces),
            finish_reason=reason,
            usage=usage,
            logprobs=tuple(self._logprobs),
            tool_calls=calls,
        )


def read_object(data: bytes) -> Body:
    """Return the JSON object in ``data``: an empty one for nothing, which keeps a connection alive.

    Raises `ValueError` for anything else.
    """
    try:
        value = _decode(data) if data.strip() else None
    except ValueError:  # it takes no half of a surrogate pair, which this one does
        value = json.loads(data.decode("utf-8", "surrogateescape"))
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {type(value).__name__}")
    return value or {}


def as_object(value: object) -> Body:
    return value if isinstance(value, dict) else {}


def join_halves(text: str) -> str:
    """Return ``text`` with whole characters in place of surrogate pairs and of bytes in UTF-8."""
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return _BYTES.sub(_decode_bytes, joined)


def _decode_bytes(found: re.Match[str]) -> str:
    return found[0].encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


def read_text(content: object) -> str:
    """Return the text of a content: a string, or a list of parts."""
    if isinstance(content, list):
        return "".join(map(read_text, content))
    if isinstance(content, dict):
        content = content.get("text")
    return content if isinstance(content, str) else ""


def read_count(usage: Mapping[str, object], name: str) -> int:
    value = usage.get(name)
    return int(value) if isinstance(value, int | float) and 0 <= value < MAX_COUNT else 0


def read_logprobs(logprobs: object, count: int) -> Iterator[TokenLogprob]:
    """Yield the tokens with the ``count`` best alternatives of each."""
    for token, (text, logprob) in _read_tokens(as_object(logprobs).get("content")):
        others = [pair for _, pair in _read_tokens(token.get("top_logprobs"))]
        best = sorted(others, key=lambda pair: -pair[1])[:count]
        yield TokenLogprob(text, logprob, tuple(best))


def _read_tokens(tokens: object) -> Iterator[tuple[Body, tuple[str, float]]]:
    """Yield each token that has them with its text and log-probability."""
    for token in map(as_object, tokens if isinstance(tokens, list) else ()):
        text, logprob = token.get("token"), token.get("logprob")
        if isinstance(text, str) and isinstance(logprob, int | float):
            whole = _SURROGATE.sub("\ufffd", join_halves(text))
            yield token, (whole, float(logprob))
