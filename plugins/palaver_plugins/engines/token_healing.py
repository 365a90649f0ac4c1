"""Token healing: continues a partial reply that ends inside a word.

The tokens of a text that is cut inside a word are not the tokens that the model would generate: the
token of " ra" is no part of the token of " rain". So the model continues from the last word
boundary, where a tokenizer starts a new token in any case, and the text that overlaps the partial
reply is withheld.
"""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable

from palaver import Generation, GenerationRequest, OnText

MAX_OVERLAP = 64
"""Characters that are generated again at most: longer text without a space has no words."""

Generate = Callable[[GenerationRequest, OnText], Awaitable[Generation]]


class _OverlapMismatch(Exception):
    """The model generates other text than the end of the partial reply."""


class _OverlapFilter:
    """An ``on_text`` that withholds text while it repeats ``overlap``."""

    def __init__(self, overlap: str, on_text: OnText) -> None:
        self.overlap = overlap
        self._on_text = on_text

    def __call__(self, text: str) -> None:
        overlap = self.overlap
        if not (text.startswith(overlap) or overlap.startswith(text)):
            raise _OverlapMismatch
        self.overlap = overlap[len(text) :]
        if len(text) > len(overlap):
            self._on_text(text[len(overlap) :])


async def generate_healed(
    request: GenerationRequest, on_text: OnText, generate: Generate
) -> Generation:
    """Continue ``request.partial`` with ``generate``, from its last word boundary.

    Continue from its last character when the model does not repeat the overlap, and for structures
    and log-probabilities, which belong to exact tokens.
    """
    boundary = word_boundary(request.partial)
    overlap = request.partial[boundary:]
    sampling = request.sampling
    if not overlap or sampling.structure is not None or sampling.logprobs is not None:
        return await generate(request, on_text)
    deadline = asyncio.get_running_loop().time() + request.timeout
    overlap_filter = _OverlapFilter(overlap, on_text)
    try:
        shortened = dataclasses.replace(request, partial=request.partial[:boundary])
        generation = await generate(shortened, overlap_filter)
        if not overlap_filter.overlap:
            return dataclasses.replace(generation, text=generation.text[len(overlap) :])
    except _OverlapMismatch:
        pass
    timeout = max(0.001, deadline - asyncio.get_running_loop().time())
    return await generate(dataclasses.replace(request, timeout=timeout), on_text)


def word_boundary(text: str) -> int:
    """Return the index where the last complete word ends: before a space that follows a character
    other than white space. Return ``len(text)`` when the last `MAX_OVERLAP` characters have none.
    """
    start = max(0, len(text) - MAX_OVERLAP)
    index = text.rfind(" ", start)
    while index > 0 and text[index - 1].isspace():
        index = text.rfind(" ", start, index)
    if index > 0:
        return index
    return 0 if start == 0 else len(text)
