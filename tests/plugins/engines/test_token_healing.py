"""A reply that goes on, whatever the place where it was cut."""

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.plugins.engines.support import TextCollector, request

from palaver.engine import Choice, Generation, GenerationRequest, OnText
from palaver.messages import Usage
from palaver_plugins.engines.token_healing import MAX_OVERLAP, generate_healed, word_boundary


class Speaker:
    """Says ``whole`` from any place on, in pieces cut at random. A reply that it was not asked to
    go on with from ``exact`` characters it says in other words."""

    def __init__(self, whole: str, seed: int = 0, exact: int | None = None) -> None:
        self.whole = whole
        self.asked: list[GenerationRequest] = []
        self._chance = random.Random(seed)
        self._exact = exact

    async def __call__(self, request: GenerationRequest, on_text: OnText) -> Generation:
        self.asked.append(request)
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
def test_what_is_heard_is_the_rest(whole: str, cut: int, seed: int) -> None:
    collector, speaker = TextCollector(), Speaker(whole, seed)
    partial = whole[:cut]
    said = asyncio.run(generate_healed(request("x", partial=partial), collector, speaker))
    assert said.text == collector.text == whole[cut:]


@given(texts.filter(bool), st.integers(1, 90), st.integers())
def test_a_model_that_does_not_repeat_itself_goes_on_from_the_cut(
    whole: str, cut: int, seed: int
) -> None:
    partial = whole[:cut]
    collector, speaker = TextCollector(), Speaker(whole, seed, exact=len(partial))
    said = asyncio.run(generate_healed(request("x", partial=partial), collector, speaker))
    assert said.text == collector.text == whole[cut:]
    assert speaker.asked[-1].partial == partial


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
def test_a_word_ends_before_a_single_kind_of_space(text: str, kept: str) -> None:
    assert text[: word_boundary(text)] == kept


async def test_a_model_that_has_ended_before_the_cut_is_asked_once_more() -> None:
    class Silent(Speaker):
        async def __call__(self, request: GenerationRequest, on_text: OnText) -> Generation:
            self.asked.append(request)
            return Generation(text="", finish_reason="stop", usage=Usage())

    collector, speaker = TextCollector(), Silent("")
    assert (
        (await generate_healed(request("x", partial="The rain"), collector, speaker)).text
        == collector.text
        == ""
    )
    assert [it.partial for it in speaker.asked] == ["The", "The rain"]
    assert speaker.asked[1].timeout < speaker.asked[0].timeout


@pytest.mark.parametrize("wanted", [{"structure": Choice(("The rain",))}, {"logprobs": 1}])
async def test_what_makes_sense_only_as_a_whole_has_no_seam(wanted: dict[str, object]) -> None:
    speaker = Speaker("The rain falls")
    await generate_healed(request("x", partial="The ra", **wanted), TextCollector(), speaker)
    assert [it.partial for it in speaker.asked] == ["The ra"]
