"""What every engine must do. An ability that one does not declare must raise `Unsupported`."""

import asyncio
import json
import math
import random
import re
import shutil
from pathlib import Path

import pytest
from tests.plugins.engines.models import ENDING_PROMPT, ENDLESS_PROMPT, damage_model
from tests.plugins.engines.support import IDLE, StartedEngine, TextCollector, request
from tests.proof import SEED

from palaver.engine import ChatMessage, Choice, Generation, JsonSchema, Regex, Sampling
from palaver.errors import (
    ConfigurationError,
    EngineTimeout,
    EngineUnavailable,
    InvalidInput,
    NotFound,
    PromptTooLong,
    Unsupported,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

LOADS_FILES = ("openvino", "transformers", "vllm")
"""Engines that open the model's directory themselves, and so must tell what is wrong with it."""

VERDICT = JsonSchema(
    {
        "type": "object",
        "properties": {
            "known": {"type": "boolean"},
            "size": {"enum": ["small", "large"]},
            "flags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
        },
        "required": ["known", "size", "flags"],
        "additionalProperties": False,
    }
)
COLOURS = Choice(("red", "green", "blue", 'a "deep" blue', "grün"))
PLATE = Regex("[A-Z]{2}-[0-9]{3}")


# Text


async def test_the_pieces_are_the_text(subject: StartedEngine, ear: TextCollector) -> None:
    said = await subject.generate(ENDLESS_PROMPT, ear)
    assert ear.text == said.text
    assert len(ear.pieces) > 3
    assert all(ear.pieces), "an empty piece is no piece"


async def test_a_character_of_several_tokens_arrives_whole(
    subject: StartedEngine, ear: TextCollector
) -> None:
    said = await subject.generate(ENDLESS_PROMPT, ear, max_tokens=120)
    assert not said.text.isascii()
    assert "\ufffd" not in ear.text


async def test_a_reply_cut_inside_a_character_leaves_it_out_or_replaces_it(
    subject: StartedEngine,
) -> None:
    whole = (await subject.generate(ENDLESS_PROMPT, max_tokens=40)).text
    for tokens in range(1, 40):
        ear = TextCollector()
        said = await subject.generate(ENDLESS_PROMPT, ear, max_tokens=tokens)
        assert ear.text == said.text
        assert whole.startswith(said.text.rstrip("\ufffd"))


async def test_greedy_generation_repeats_itself(subject: StartedEngine) -> None:
    first, second = [await subject.generate(ENDLESS_PROMPT) for _ in range(2)]
    assert first.text == second.text


async def test_different_prompts_get_different_replies(subject: StartedEngine) -> None:
    replies = {
        (await subject.generate(prompt)).text
        for prompt in ("Hello", ENDLESS_PROMPT, "What is new", "x")
    }
    assert len(replies) > 1


async def test_sixteen_at_once_say_what_each_says_alone(subject: StartedEngine) -> None:
    prompts = [f"Question number {index}" for index in range(16)]
    alone = [(await subject.generate(prompt, max_tokens=24)).text for prompt in prompts]
    ears = [TextCollector() for _ in prompts]
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(subject.generate(prompt, ear, max_tokens=24))
            for prompt, ear in zip(prompts, ears, strict=True)
        ]
    assert [task.result().text for task in tasks] == alone
    assert [ear.text for ear in ears] == alone
    assert await subject.engine.stats() == IDLE


async def test_every_sampling_parameter_is_taken(subject: StartedEngine) -> None:
    said = await subject.generate(
        ENDLESS_PROMPT, temperature=0.7, top_p=0.9, top_k=20, repetition_penalty=1.1, max_tokens=10
    )
    assert said.text


async def test_temperature_makes_replies_differ(subject: StartedEngine) -> None:
    replies = {(await subject.generate(ENDLESS_PROMPT, temperature=1.5)).text for _ in range(4)}
    assert len(replies) > 1


# The end


async def test_max_tokens_ends_with_length(subject: StartedEngine) -> None:
    for tokens in (1, 5):
        said = await subject.generate(ENDLESS_PROMPT, max_tokens=tokens)
        assert (said.finish_reason, said.usage.completion_tokens) == ("length", tokens)


async def test_the_model_may_end_by_itself(subject: StartedEngine, ear: TextCollector) -> None:
    said = await subject.generate(ENDING_PROMPT, ear, max_tokens=200)
    assert said.finish_reason == "stop"
    assert said.text
    assert said.usage.completion_tokens < 200
    assert "<|" not in ear.text


async def test_the_end_of_the_context_is_a_length(subject: StartedEngine) -> None:
    prompt = await nearly_full_prompt(subject)
    said = await subject.generate(prompt, max_tokens=subject.engine_info.context_window)
    assert said.finish_reason == "length"
    used = said.usage.prompt_tokens + said.usage.completion_tokens
    assert subject.engine_info.context_window - 2 <= used <= subject.engine_info.context_window


async def nearly_full_prompt(subject: StartedEngine, room: int = 60) -> str:
    """A prompt that leaves about ``room`` tokens of the context."""

    async def tokens(words: int) -> int:
        return await subject.engine.count_tokens([ChatMessage("user", " rain" * words)])

    overhead = 2 * await tokens(1) - await tokens(2)
    each = await tokens(2) - await tokens(1)
    return " rain" * ((subject.engine_info.context_window - room - overhead) // each)


@pytest.mark.parametrize("cut", [(10, 13), (9, 22), (30, 31), (24, 40)])
async def test_a_stop_string_ends_the_text_and_is_not_part_of_it(
    subject: StartedEngine, ear: TextCollector, cut: tuple[int, int]
) -> None:
    whole = (await subject.generate(ENDLESS_PROMPT)).text
    stop = whole[slice(*cut)]
    said = await subject.generate(ENDLESS_PROMPT, ear, stop=("never said", stop))
    assert said.text == whole[: whole.index(stop)] == ear.text
    assert said.finish_reason == "stop"


async def test_the_earliest_stop_string_wins(subject: StartedEngine) -> None:
    whole = (await subject.generate(ENDLESS_PROMPT)).text
    early, late = whole[12:16], whole[14:30]
    said = await subject.generate(ENDLESS_PROMPT, stop=(late, early))
    assert said.text == whole[: min(whole.index(early), whole.index(late))]


async def test_a_beginning_of_a_stop_string_is_said_after_all(
    subject: StartedEngine, ear: TextCollector
) -> None:
    whole = (await subject.generate(ENDLESS_PROMPT)).text
    stops = (whole[10:14] + "\0", whole[-3:] + "\0")
    said = await subject.generate(ENDLESS_PROMPT, ear, stop=stops)
    assert (said.text, said.finish_reason) == (whole, "length")
    assert ear.text == whole


# Slots


async def test_cancelling_frees_the_slot(subject: StartedEngine, ear: TextCollector) -> None:
    talk = asyncio.create_task(subject.generate(ENDLESS_PROMPT, ear, max_tokens=3000))
    await asyncio.wait_for(ear.first.wait(), 5)
    assert (await subject.engine.stats()).running == 1
    await cancelled(talk)
    assert await subject.engine.stats() == IDLE
    heard = len(ear.pieces)
    assert (await subject.generate(ENDLESS_PROMPT, max_tokens=5)).text
    assert len(ear.pieces) == heard, "nothing is heard after the cancellation"


async def test_cancelling_before_the_first_token_frees_the_slot(subject: StartedEngine) -> None:
    talks = [
        asyncio.create_task(subject.generate(ENDLESS_PROMPT, max_tokens=3000)) for _ in range(16)
    ]
    await asyncio.sleep(0)
    for talk in talks:
        talk.cancel()
    ends = await asyncio.wait_for(asyncio.gather(*talks, return_exceptions=True), 5)
    assert all(isinstance(end, asyncio.CancelledError) for end in ends)
    await subject.wait_until_idle()


async def cancelled(task: asyncio.Task[Generation]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)


async def test_the_deadline_ends_a_generation_and_frees_the_slot(
    subject: StartedEngine, ear: TextCollector
) -> None:
    with pytest.raises(EngineTimeout):
        await asyncio.wait_for(
            subject.generate(ENDLESS_PROMPT, ear, max_tokens=4000, timeout=0.05), 5
        )
    await subject.wait_until_idle()
    assert (await subject.generate(ENDLESS_PROMPT, max_tokens=5)).text


async def test_a_listener_that_fails_ends_its_own_generation_only(subject: StartedEngine) -> None:
    def fail(piece: str) -> None:
        raise LookupError("the listener's own fault")

    other = asyncio.create_task(subject.generate(ENDLESS_PROMPT))
    with pytest.raises(LookupError):
        await asyncio.wait_for(
            subject.engine.generate(request(ENDLESS_PROMPT, max_tokens=3000), fail), 5
        )
    assert (await other).text
    await subject.wait_until_idle()


# Tokens


async def test_count_tokens_is_what_the_prompt_took(subject: StartedEngine) -> None:
    messages = (
        ChatMessage("system", "Be brief."),
        ChatMessage("user", "Grüße, 漢字 and\nnew lines"),
        ChatMessage("assistant", "Yes 😀"),
        ChatMessage("user", "Go on"),
    )
    said = await subject.engine.generate(request(messages), TextCollector())
    assert said.usage.prompt_tokens == await subject.engine.count_tokens(messages)


async def test_a_prompt_that_is_too_long_is_refused_before_any_work(
    subject: StartedEngine, ear: TextCollector
) -> None:
    prompt = " rain" * (subject.engine_info.context_window + 1)
    with pytest.raises(PromptTooLong):
        await asyncio.wait_for(subject.generate(prompt, ear), 5)
    assert not ear.pieces
    assert await subject.engine.stats() == IDLE
    assert (await subject.generate(ENDLESS_PROMPT)).text


async def test_no_tenant_sees_what_another_has_cached(subject: StartedEngine) -> None:
    prompt = "A prompt of some length, " * 40
    cached = [
        (await subject.generate(prompt, tenant=tenant, max_tokens=2)).usage.cached_tokens
        for tenant in ("first", "first", "second")
    ]
    assert cached[0] == cached[2] == 0
    # An engine without a visible cache shows 0; one with a cache used it for its own tenant.
    assert 0 <= cached[1] <= (await subject.generate(prompt, max_tokens=2)).usage.prompt_tokens


async def test_a_nonsensical_parameter_is_the_callers_fault(subject: StartedEngine) -> None:
    for wrong in ({"max_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"stop": ("",)}):
        with pytest.raises(InvalidInput):
            await subject.generate(ENDLESS_PROMPT, **wrong)


# Abilities


async def test_a_seed_repeats_a_sample(subject: StartedEngine) -> None:
    if not subject.has("seed"):
        await refuses(subject, seed=1)
        return
    seeds = (1, 2, 3, 1, 2, 3)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(subject.generate(ENDLESS_PROMPT, temperature=1.2, seed=it))
            for it in seeds
        ]
    texts = [task.result().text for task in tasks]
    assert texts[:3] == texts[3:]
    assert len(set(texts)) == 3


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_json_obeys_its_schema(subject: StartedEngine, temperature: float) -> None:
    if not subject.has("json_schema"):
        await refuses(subject, structure=VERDICT)
        return
    said = await subject.generate(
        ENDLESS_PROMPT, structure=VERDICT, temperature=temperature, max_tokens=200
    )
    value = json.loads(said.text)
    assert said.finish_reason == "stop"
    assert value.keys() == {"known", "size", "flags"}
    assert value["known"] in (True, False)
    assert value["size"] in ("small", "large")
    assert len(value["flags"]) <= 2


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_a_choice_is_one_of_its_options(subject: StartedEngine, temperature: float) -> None:
    if not subject.has("choice"):
        await refuses(subject, structure=COLOURS)
        return
    said = await subject.generate(ENDLESS_PROMPT, structure=COLOURS, temperature=temperature)
    assert said.text in COLOURS.options
    assert said.finish_reason == "stop"
    for only in ('a "deep" \\ blue', "größer als Öl", "漢字 😀", "a|b (c)*"):
        assert (await subject.generate(ENDLESS_PROMPT, structure=Choice((only,)))).text == only


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_a_regular_expression_is_matched_whole(
    subject: StartedEngine, temperature: float
) -> None:
    if not subject.has("regex"):
        await refuses(subject, structure=PLATE)
        return
    said = await subject.generate(ENDLESS_PROMPT, structure=PLATE, temperature=temperature)
    assert re.fullmatch(PLATE.pattern, said.text)
    assert said.finish_reason == "stop"


async def test_structures_do_not_leak_into_other_requests(subject: StartedEngine) -> None:
    if not subject.has("choice"):
        await refuses(subject, structure=COLOURS)
        return
    free = (await subject.generate(ENDLESS_PROMPT)).text
    async with asyncio.TaskGroup() as group:
        bound = [
            group.create_task(subject.generate(ENDLESS_PROMPT, structure=COLOURS)) for _ in range(4)
        ]
        loose = [group.create_task(subject.generate(ENDLESS_PROMPT)) for _ in range(4)]
    assert {task.result().text for task in bound} <= set(COLOURS.options)
    assert {task.result().text for task in loose} == {free}


@pytest.mark.parametrize(
    ("ability", "structure"),
    [
        ("choice", Choice(())),
        ("regex", Regex("(unclosed")),
        ("json_schema", JsonSchema({"type": "no such type"})),
    ],
    ids=["choice", "regex", "json_schema"],
)
async def test_a_structure_that_cannot_work_is_the_callers_fault(
    subject: StartedEngine, ability: str, structure: Choice | Regex | JsonSchema
) -> None:
    expected = InvalidInput if subject.has(ability) else Unsupported
    with pytest.raises(expected):
        await subject.generate(ENDLESS_PROMPT, structure=structure)
    assert (await subject.generate(ENDLESS_PROMPT)).text


@pytest.mark.parametrize("alternatives", [0, 3])
async def test_there_is_a_log_probability_for_every_token(
    subject: StartedEngine, alternatives: int
) -> None:
    if not subject.has("alternatives" if alternatives else "logprobs"):
        await refuses(subject, logprobs=alternatives)
        return
    said = await subject.generate(ENDLESS_PROMPT, logprobs=alternatives)
    assert len(said.logprobs) == said.usage.completion_tokens
    for token in said.logprobs:
        assert -30 < token.logprob <= 1e-3
        assert len(token.alternatives) == alternatives
        others = [logprob for _, logprob in token.alternatives]
        assert others == sorted(others, reverse=True)
        assert sum(map(math.exp, others)) <= 1.001
        assert not others or token.logprob >= others[0] - 1e-3, "greedy takes the most likely"
    plain = [token.token for token in said.logprobs if token.token.isascii()]
    assert all(token in said.text for token in plain)


async def test_a_partial_reply_goes_on_at_the_cuts_that_streaming_makes(
    subject: StartedEngine,
) -> None:
    if not subject.has("continuation"):
        await refuses(subject, partial="The rain")
        return
    ear = TextCollector()
    whole = await subject.generate(ENDLESS_PROMPT, ear, max_tokens=48)
    for count in range(1, len(ear.pieces), 3):
        partial = "".join(ear.pieces[:count])
        rest = await subject.generate(ENDLESS_PROMPT, partial=partial, max_tokens=48)
        assert partial + rest.text == whole.text


async def test_a_partial_reply_goes_on_at_any_character(subject: StartedEngine) -> None:
    if not subject.has("continuation"):
        await refuses(subject, partial="The rain")
        return
    whole = (await subject.generate(ENDLESS_PROMPT, max_tokens=40)).text
    cuts = range(1, len(whole), 5)
    ears = [TextCollector() for _ in cuts]
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(
                subject.generate(ENDLESS_PROMPT, ear, partial=whole[:cut], max_tokens=40)
            )
            for cut, ear in zip(cuts, ears, strict=True)
        ]
    together = [whole[:cut] + task.result().text for cut, task in zip(cuts, tasks, strict=True)]
    assert set(together) == {whole}
    assert [ear.text for ear in ears] == [task.result().text for task in tasks]


class Cut(Exception):
    """The listener has gone."""


async def heard_until(subject: StartedEngine, length: int) -> str:
    """The first characters of a reply whose listener then leaves."""
    said = ""

    def hear(piece: str) -> None:
        nonlocal said
        said += piece
        if len(said) >= length:
            raise Cut

    with pytest.raises(Cut):
        await subject.engine.generate(request(ENDLESS_PROMPT, max_tokens=60), hear)
    return said[:length]


async def test_a_reply_cut_at_a_random_character_goes_on_at_another_instance(
    subject: StartedEngine,
) -> None:
    if not subject.has("continuation"):
        await refuses(subject, partial="The rain")
        return
    whole = (await subject.generate(ENDLESS_PROMPT, max_tokens=60)).text
    chance = random.Random(SEED)
    async with subject.factory(subject.model) as another:
        await another.start()
        for _ in range(8):
            partial = await heard_until(subject, chance.randrange(1, len(whole)))
            rest = await another.generate(
                request(ENDLESS_PROMPT, partial=partial, max_tokens=60), TextCollector()
            )
            assert partial + rest.text == whole, SEED
        await another.close()


async def test_a_partial_reply_counts_as_reply(subject: StartedEngine) -> None:
    if not subject.has("continuation"):
        await refuses(subject, partial="The rain")
        return
    whole = await subject.generate(ENDLESS_PROMPT, max_tokens=30)
    for cut in (len(whole.text) // 2, len(whole.text)):
        partial = whole.text[:cut]
        rest = await subject.generate(ENDLESS_PROMPT, partial=partial, max_tokens=30)
        assert (partial + rest.text, rest.finish_reason) == (whole.text, "length")
        assert rest.usage.completion_tokens == whole.usage.completion_tokens
        assert rest.usage.prompt_tokens == whole.usage.prompt_tokens
    full = await subject.generate(ENDLESS_PROMPT, partial="x\n" * 100, max_tokens=5)
    assert (full.text, full.finish_reason) == ("", "length")


async def test_an_unknown_adapter_is_named(subject: StartedEngine) -> None:
    if not subject.has("adapter"):
        await refuses(subject, adapter="no-such-adapter")
        return
    with pytest.raises((InvalidInput, NotFound), match="no-such-adapter"):
        await subject.generate(ENDLESS_PROMPT, adapter="no-such-adapter")


async def test_priorities_are_taken(subject: StartedEngine) -> None:
    if not subject.has("priority"):
        await refuses(subject, priority=-1)
        return
    plain = (await subject.generate(ENDLESS_PROMPT)).text
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(subject.generate(ENDLESS_PROMPT, priority=it)) for it in (-5, 0, 5)
        ]
    assert {task.result().text for task in tasks} == {plain}


async def test_vectors_have_unit_length(subject: StartedEngine) -> None:
    texts = ["The rain", "The old dog", "The rain"]
    if not subject.has("embed"):
        with pytest.raises(Unsupported):
            await subject.engine.embed(texts)
        return
    first, second, third = await subject.engine.embed(texts)
    assert sum(x * x for x in first) == pytest.approx(1, abs=1e-3)
    assert first == pytest.approx(third, abs=1e-4)
    assert first != pytest.approx(second, abs=1e-2)


async def test_labels_have_probabilities(subject: StartedEngine) -> None:
    if not subject.has("classify"):
        with pytest.raises(Unsupported):
            await subject.engine.classify(["The rain"])
        return
    for scores in await subject.engine.classify(["The rain", "The old dog"]):
        assert sum(scores.values()) == pytest.approx(1, abs=1e-3)


async def refuses(subject: StartedEngine, **options: object) -> None:
    """An ability that is not declared is refused, and the engine lives on."""
    ear = TextCollector()
    with pytest.raises(Unsupported):
        await subject.generate(ENDLESS_PROMPT, ear, **options)
    assert not ear.pieces
    assert (await subject.generate(ENDLESS_PROMPT, max_tokens=2)).text


# Lifetime


async def test_a_closed_engine_is_unavailable_and_can_be_started_again(
    subject: StartedEngine,
) -> None:
    engine = subject.engine
    before = (await subject.generate(ENDLESS_PROMPT)).text
    talk = asyncio.create_task(subject.generate(ENDLESS_PROMPT, max_tokens=4000))
    await asyncio.sleep(0)
    await engine.close()
    await engine.close()
    with pytest.raises(EngineUnavailable):
        await asyncio.wait_for(talk, 5)
    with pytest.raises(EngineUnavailable):
        await subject.generate(ENDLESS_PROMPT)
    with pytest.raises(EngineUnavailable):
        await engine.count_tokens([ChatMessage("user", ENDLESS_PROMPT)])
    assert await engine.start() == subject.engine_info
    assert (await subject.generate(ENDLESS_PROMPT)).text == before


async def test_an_engine_that_was_not_started_is_unavailable(subject: StartedEngine) -> None:
    async with subject.factory(subject.model) as engine:
        with pytest.raises(EngineUnavailable):
            await engine.generate(request(ENDLESS_PROMPT), TextCollector())
        await engine.close()


@pytest.mark.parametrize("how", ["no config", "truncated weights", "bad tokenizer", "empty"])
async def test_a_broken_model_is_a_configuration_error_that_names_it(
    subject: StartedEngine, tmp_path: Path, how: str
) -> None:
    if subject.name not in LOADS_FILES:
        pytest.skip(f"{subject.name} opens no model files")
    broken = tmp_path / "broken-model"
    shutil.copytree(subject.model, broken)
    damage_model(broken, how)
    async with subject.factory(broken) as engine:
        with pytest.raises(ConfigurationError, match="broken-model"):
            await engine.start()
        await engine.close()


async def test_abilities_tell_the_model_and_its_context(subject: StartedEngine) -> None:
    assert subject.engine_info.model
    assert subject.engine_info.context_window > 0
    assert "generate" in subject.engine_info.capabilities
    assert Sampling().max_tokens <= subject.engine_info.context_window
