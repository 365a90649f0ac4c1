"""The result of a running generation, which arrives in pieces."""

import asyncio
from collections.abc import Iterable

from palaver import FinishReason, Generation, OnText, TokenLogprob, Usage


class PendingGeneration:
    """A running generation: delivers its text and sets ``result`` at its end."""

    def __init__(self, on_text: OnText) -> None:
        self.result: asyncio.Future[Generation] = asyncio.get_running_loop().create_future()
        self._on_text = on_text
        self._pieces: list[str] = []
        self._logprobs: list[TokenLogprob] = []

    def deliver(self, text: str) -> None:
        """Pass ``text`` to the callback. A failing callback ends only its own generation."""
        if self.result.done():
            return
        self._pieces.append(text)
        try:
            self._on_text(text)
        except Exception as error:  # noqa: BLE001  it is passed on to the caller
            self.result.set_exception(error)

    def add_logprobs(self, tokens: Iterable[TokenLogprob]) -> None:
        self._logprobs += tokens

    def finish(self, reason: FinishReason, usage: Usage) -> None:
        if not self.result.done():
            text, logprobs = "".join(self._pieces), tuple(self._logprobs)
            self.result.set_result(
                Generation(text=text, finish_reason=reason, usage=usage, logprobs=logprobs)
            )

    def fail(self, error: Exception) -> None:
        if not self.result.done():
            self.result.set_exception(error)
