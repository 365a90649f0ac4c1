"""Requests to llama.cpp's ``/completion``, and replies made of its chunks."""

from collections.abc import Sequence

from palaver import (
    FinishReason,
    Generation,
    OnText,
    Sampling,
    StopStringFilter,
    TokenLogprob,
    Usage,
)
from palaver_plugins.engines.llamacpp_server import Json
from palaver_plugins.engines.prompt_slots import Slot


def completion_body(sampling: Sampling, tokens: Sequence[int], max_tokens: int, slot: Slot) -> Json:
    """Return the body of a request to llama.cpp's ``/completion``."""
    body: Json = {
        "prompt": tokens,
        "id_slot": slot.number,
        "cache_prompt": slot.reusable,
        "stream": True,
        "return_progress": True,  # it writes while it reads the prompt, and so finds out at once
        "n_predict": max_tokens,
        "samplers": ["penalties", "temperature", "top_k", "top_p"],
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "repeat_penalty": sampling.repetition_penalty,
        "repeat_last_n": len(tokens) + max_tokens,  # penalties look at all of them
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
    }
    if sampling.seed is not None:
        body["seed"] = sampling.seed & 0x7FFFFFFF
    if sampling.logprobs is not None:
        body["n_probs"] = max(1, sampling.logprobs)
    return body


class Reply:
    """The reply of one request, put together from the chunks of llama.cpp.

    Stop strings are found here: llama.cpp withholds a possible beginning of one at the end.
    """

    def __init__(
        self, sampling: Sampling, on_text: OnText, prompt_tokens: int, partial_tokens: int
    ) -> None:
        self.has_ended = False
        self._alternatives = sampling.logprobs
        self._on_text = on_text
        self._stops = StopStringFilter(sampling.stop)
        self._prompt_tokens = prompt_tokens
        self._partial_tokens = partial_tokens
        self._cached_tokens = self._new_tokens = 0
        self._pieces: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._reason: FinishReason = "length"

    def add(self, chunk: Json) -> None:
        """Add a chunk. Raises what the callback raises."""
        if self._alternatives is not None:
            found = chunk.get("completion_probabilities", ())
            self._logprobs += [read_logprob(it, self._alternatives) for it in found]
        self._new_tokens = chunk.get("tokens_predicted", self._new_tokens)
        for counts, key in (("prompt_progress", "cache"), ("timings", "cache_n")):
            self._cached_tokens = chunk.get(counts, {}).get(key, self._cached_tokens)
        self._deliver(self._stops.push(chunk.get("content", "")))
        if self._stops.found:
            self.has_ended, self._reason = True, "stop"
        elif chunk.get("stop"):
            self._deliver(self._stops.flush())
            self.has_ended = True
            self._reason = "stop" if chunk["stop_type"] in ("eos", "word") else "length"

    def _deliver(self, text: str) -> None:
        if text:
            self._pieces.append(text)
            self._on_text(text)

    def generation(self) -> Generation:
        return Generation(
            text="".join(self._pieces),
            finish_reason=self._reason,
            usage=Usage(
                prompt_tokens=self._prompt_tokens,
                cached_tokens=min(self._prompt_tokens, self._cached_tokens),
                completion_tokens=self._partial_tokens + self._new_tokens,
            ),
            logprobs=tuple(self._logprobs),
        )


def read_logprob(item: Json, alternatives: int) -> TokenLogprob:
    others = item["top_logprobs"][:alternatives]
    return TokenLogprob(
        item["token"], item["logprob"], tuple((it["token"], it["logprob"]) for it in others)
    )
