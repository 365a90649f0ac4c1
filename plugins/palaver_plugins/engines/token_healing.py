"""The seam of a reply that goes on.

A reply that was cut inside a word is not made of the tokens that the model would have written: the
token of " ra" is no part of that of " rain". So the model goes on from the end of the word before,
where a tokenizer begins a new token whatever follows, and what it repeats is not heard.
"""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable

from palaver import Generation, GenerationRequest, OnText

MAX_OVERLAP = 64
"""Characters that are written again at most: a longer run of them has no words."""

Generate = Callable[[GenerationRequest, OnText], Awaitable[Generation]]


class _Differs(Exception):
    """The model does not repeat what was written."""


class _Repeat:
    """Holds back what has been heard before: ``known``."""

    def __init__(self, known: str, on_text: OnText) -> None:
        self.known = known
        self._on_text = on_text

    def __call__(self, piece: str) -> None:
        known = self.known
        if not (piece.startswith(known) or known.startswith(piece)):
            raise _Differs
        self.known = known[len(piece) :]
        if len(piece) > len(known):
            self._on_text(piece[len(known) :])


async def generate_healed(
    request: GenerationRequest, on_text: OnText, generate: Generate
) -> Generation:
    """Let ``generate`` go on after ``request.partial``: from the end of a word, when the model
    writes the rest of the partial reply once more; else from its last character."""
    known = request.partial[word_boundary(request.partial) :]
    if not known or request.sampling.structure is not None or request.sampling.logprobs is not None:
        return await generate(request, on_text)
    ends = asyncio.get_running_loop().time() + request.timeout
    kept = request.partial[: -len(known)]
    repeat = _Repeat(known, on_text)
    try:
        said = await generate(dataclasses.replace(request, partial=kept), repeat)
        if not repeat.known:
            return dataclasses.replace(said, text=said.text[len(known) :])
    except _Differs:
        pass
    left = max(0.001, ends - asyncio.get_running_loop().time())
    return await generate(dataclasses.replace(request, timeout=left), on_text)


def word_boundary(text: str) -> int:
    """Where the last word that is surely whole ends: before a space after something else. The end
    of ``text`` when there is none near."""
    start = max(0, len(text) - MAX_OVERLAP)
    place = text.rfind(" ", start)
    while place > 0 and text[place - 1].isspace():
        place = text.rfind(" ", start, place)
    if place > 0:
        return place
    return 0 if start == 0 else len(text)
