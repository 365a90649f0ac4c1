"""Token healing continues a reply at any character."""

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.plugins.engines.support import TextCollector, request

from palaver.engine import Choice, Generation, GenerationRequest, OnText
from palaver.messages import Usage
from palaver_plugins.engines.token_healing import MAX_OVERLAP, generate_healed, word_boundary


class TextGenerator:
    """A ``generate`` that continues ``whole`` at any character, in pieces of random length. With
    ``exact``, it generates other text unless the partial reply has that many characters."""

    def __init__(self, whole: str, seed: int = 0, exact: int | None = None) -> None:
        self.whole = whole
        self.requests: list[GenerationRequest] = []
        self._chance = random.Random(seed)
        self._exact = exact

    async def __call__(self, request: GenerationRequest, on_text: OnText) -> Generation:
        self.requests.append(request)
        rest = self.whole[len(request.partial) :]
        if self._exact is not None and len(request.partial) != self._exact:
            rest = "!" + rest
        for piece in self._pieces(rest):
            on_text(piece)
        return Generation(text=rest, finish_reason="stop", usage=Usage())

    def _pieces(self, text: str) -> list[str]:
        places = sorted(self._chance.sample(range(len(text)), k=len(text) // 2))
        bounds = zip([0, *places], [*places, len(text)], strict=True)
        return [text[start:end] for start, end in bounds if end > start]


texts = st.text(st.sampled_from("ab \n漢."), max_size=90)


@given(texts, st.integers(0, 90), st.integers())
def test_only_the_rest_is_delivered(whole: str, cut: int, seed: int) -> None:
    collector, generate = TextCollector(), TextGenerator(whole, seed)
    partial = whole[:cut]
    generation = asyncio.run(generate_healed(request("x", partial=partial), collector, generate))
    assert generation.text == collector.text == whole[cut:]


@given(texts.filter(bool), st.integers(1, 90), st.integers())
def test_a_model_that_does_not_repeat_the_overlap_continues_from_the_cut(
    whole: str, cut: int, seed: int
) -> None:
    partial = whole[:cut]
    collector, generate = TextCollector(), TextGenerator(whole, seed, exact=len(partial))
    generation = asyncio.run(generate_healed(request("x", partial=partial), collector, generate))
    assert generation.text == collector.text == whole[cut:]
    assert generate.requests[-1].partial == partial


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", ""),
        ("The", ""),
        (" The", ""),
        ("The rain", "The"),
        ("The rain ", "The rain"),
        ("The rain falls.\n", "The rain"),
        ("a\n\n  b", ""),
        ("it is so.\n    def f", "it is so.\n    def"),
        ("one  two", "one"),
        ("word " + "x" * MAX_OVERLAP, "word " + "x" * MAX_OVERLAP),
        ("漢" * MAX_OVERLAP, ""),
        ("漢" * (MAX_OVERLAP + 1), "漢" * (MAX_OVERLAP + 1)),
    ],
)
def test_a_word_boundary_is_before_a_space_that_follows_a_character(text: str, kept: str) -> None:
    assert text[: word_boundary(text)] == kept


async def test_a_model_that_ends_before_the_cut_is_called_once_more() -> None:
    class Silent(TextGenerator):
        async def __call__(self, request: GenerationRequest, on_text: OnText) -> Generation:
            self.requests.append(request)
            return Generation(text="", finish_reason="stop", usage=Usage())

    collector, generate = TextCollector(), Silent("")
    assert (
        (await generate_healed(request("x", partial="The rain"), collector, generate)).text
        == collector.text
        == ""
    )
    assert [it.partial for it in generate.requests] == ["The", "The rain"]
    assert generate.requests[1].timeout < generate.requests[0].timeout


@pytest.mark.parametrize("wanted", [{"structure": Choice(("The rain",))}, {"logprobs": 1}])
async def test_structures_and_logprobs_are_not_healed(wanted: dict[str, object]) -> None:
    generate = TextGenerator("The rain falls")
    await generate_healed(request("x", partial="The ra", **wanted), TextCollector(), generate)
    assert [it.partial for it in generate.requests] == ["The ra"]
