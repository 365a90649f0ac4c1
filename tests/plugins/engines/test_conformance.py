"""Conformance suite of all engines. A missing capability must raise `Unsupported`."""

import asyncio
import json
import math
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.plugins.engines.models import ENDING_PROMPT, ENDLESS_PROMPT, damage_model
from tests.plugins.engines.support import IDLE, StartedEngine, TextCollector, request
from tests.plugins.engines.vision_models import draw_png
from tests.proof_settings import SEED

from palaver.engine import ChatMessage, Choice, Generation, Image, JsonSchema, Regex, Sampling
from palaver.errors import (
    ConfigurationError,
    EngineTimeout,
    EngineUnavailable,
    InvalidInput,
    NotFound,
    PromptTooLong,
    Unsupported,
)

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

LOADS_FILES = ("openvino", "transformers", "vllm")
"""Engines that load the model's directory themselves and so must report errors in it."""

COUNTS_CHARACTERS = ("llamacpp",)
"""Engines that give no log-probability for the tokens before the last one of a character."""

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


async def test_the_pieces_are_the_text(started: StartedEngine, collector: TextCollector) -> None:
    generation = await started.generate(ENDLESS_PROMPT, collector)
    assert collector.text == generation.text
    assert len(collector.pieces) > 3
    assert all(collector.pieces), "an empty piece is no piece"


async def test_a_character_of_several_tokens_arrives_whole(
    started: StartedEngine, collector: TextCollector
) -> None:
    generation = await started.generate(ENDLESS_PROMPT, collector, max_tokens=120)
    assert not generation.text.isascii()
    assert "\ufffd" not in collector.text


async def test_a_reply_cut_inside_a_character_leaves_it_out_or_replaces_it(
    started: StartedEngine,
) -> None:
    whole = (await started.generate(ENDLESS_PROMPT, max_tokens=40)).text
    for tokens in range(1, 40):
        collector = TextCollector()
        generation = await started.generate(ENDLESS_PROMPT, collector, max_tokens=tokens)
        assert collector.text == generation.text
        assert whole.startswith(generation.text.rstrip("\ufffd"))


async def test_greedy_generation_repeats_itself(started: StartedEngine) -> None:
    first, second = [await started.generate(ENDLESS_PROMPT) for _ in range(2)]
    assert first.text == second.text


async def test_different_prompts_get_different_replies(started: StartedEngine) -> None:
    replies = {
        (await started.generate(prompt)).text
        for prompt in ("Hello", ENDLESS_PROMPT, "What is new", "x")
    }
    assert len(replies) > 1


async def test_sixteen_concurrent_generations_equal_single_ones(started: StartedEngine) -> None:
    prompts = [f"Question number {index}" for index in range(16)]
    alone = [(await started.generate(prompt, max_tokens=24)).text for prompt in prompts]
    collectors = [TextCollector() for _ in prompts]
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(started.generate(prompt, collector, max_tokens=24))
            for prompt, collector in zip(prompts, collectors, strict=True)
        ]
    assert [task.result().text for task in tasks] == alone
    assert [collector.text for collector in collectors] == alone
    assert await started.engine.stats() == IDLE


async def test_every_sampling_parameter_is_accepted(started: StartedEngine) -> None:
    generation = await started.generate(
        ENDLESS_PROMPT, temperature=0.7, top_p=0.9, top_k=20, repetition_penalty=1.1, max_tokens=10
    )
    assert generation.text


@pytest.mark.parametrize("name", ["presence_penalty", "frequency_penalty"])
async def test_penalties_change_the_reply_or_are_refused(started: StartedEngine, name: str) -> None:
    if not started.has("penalties"):
        await check_unsupported(started, **{name: 1.0})
        return
    strong: Any = {name: 2.0}
    plain = await started.generate(ENDLESS_PROMPT, max_tokens=40)
    changed = await started.generate(ENDLESS_PROMPT, max_tokens=40, **strong)
    assert changed.text != plain.text
    beyond: Any = {name: 2.5}
    with pytest.raises(InvalidInput, match=name):
        await started.generate(ENDLESS_PROMPT, **beyond)


async def test_temperature_makes_replies_differ(started: StartedEngine) -> None:
    replies = {(await started.generate(ENDLESS_PROMPT, temperature=1.5)).text for _ in range(4)}
    assert len(replies) > 1


# The end


async def test_max_tokens_ends_with_length(started: StartedEngine) -> None:
    for tokens in (1, 5):
        generation = await started.generate(ENDLESS_PROMPT, max_tokens=tokens)
        assert (generation.finish_reason, generation.usage.completion_tokens) == ("length", tokens)


async def test_the_model_may_end_by_itself(
    started: StartedEngine, collector: TextCollector
) -> None:
    generation = await started.generate(ENDING_PROMPT, collector, max_tokens=200)
    assert generation.finish_reason == "stop"
    assert generation.text
    assert generation.usage.completion_tokens < 200
    assert "<|" not in collector.text


async def test_the_end_of_the_context_is_a_length(started: StartedEngine) -> None:
    prompt = await nearly_full_prompt(started)
    generation = await started.generate(prompt, max_tokens=started.engine_info.context_window)
    assert generation.finish_reason == "length"
    used = generation.usage.prompt_tokens + generation.usage.completion_tokens
    assert started.engine_info.context_window - 2 <= used <= started.engine_info.context_window


async def nearly_full_prompt(started: StartedEngine, remaining: int = 60) -> str:
    """Return a prompt that leaves about ``remaining`` tokens of the context."""

    async def tokens(words: int) -> int:
        return await started.engine.count_tokens([ChatMessage("user", " rain" * words)])

    overhead = 2 * await tokens(1) - await tokens(2)
    each = await tokens(2) - await tokens(1)
    return " rain" * ((started.engine_info.context_window - remaining - overhead) // each)


@pytest.mark.parametrize("cut", [(10, 13), (9, 22), (30, 31), (24, 40)])
async def test_a_stop_string_ends_the_text_and_is_not_part_of_it(
    started: StartedEngine, collector: TextCollector, cut: tuple[int, int]
) -> None:
    whole = (await started.generate(ENDLESS_PROMPT)).text
    stop = whole[slice(*cut)]
    generation = await started.generate(ENDLESS_PROMPT, collector, stop=("never said", stop))
    assert generation.text == whole[: whole.index(stop)] == collector.text
    assert generation.finish_reason == "stop"


async def test_the_earliest_stop_string_wins(started: StartedEngine) -> None:
    whole = (await started.generate(ENDLESS_PROMPT)).text
    early, late = whole[12:16], whole[14:30]
    generation = await started.generate(ENDLESS_PROMPT, stop=(late, early))
    assert generation.text == whole[: min(whole.index(early), whole.index(late))]


async def test_a_beginning_of_a_stop_string_is_delivered_after_all(
    started: StartedEngine, collector: TextCollector
) -> None:
    whole = (await started.generate(ENDLESS_PROMPT)).text
    stops = (whole[10:14] + "\0", whole[-3:] + "\0")
    generation = await started.generate(ENDLESS_PROMPT, collector, stop=stops)
    assert (generation.text, generation.finish_reason) == (whole, "length")
    assert collector.text == whole


# Slots


async def test_running_generations_are_counted(started: StartedEngine) -> None:
    # Several generations, because a count may miss a short one when this process is paused.
    async with asyncio.timeout(30):
        seen = False
        while not seen:
            task = asyncio.create_task(started.generate(ENDLESS_PROMPT, max_tokens=3000))
            while not seen and not task.done():
                seen = (await started.engine.stats()).running >= 1
                await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.wait([task])
    await started.wait_until_idle()


class CancellingCollector(TextCollector):
    """A collector that cancels ``tasks`` at its first piece, and so before its own task ends."""

    def __init__(self, tasks: list[asyncio.Task[Generation]]) -> None:
        super().__init__()
        self._tasks = tasks

    def __call__(self, piece: str) -> None:
        super().__call__(piece)
        for task in self._tasks:
            task.cancel()


async def test_cancelling_frees_the_slots(started: StartedEngine) -> None:
    tasks: list[asyncio.Task[Generation]] = []
    collectors = [CancellingCollector(tasks), *(TextCollector() for _ in range(31))]
    tasks += [
        asyncio.create_task(started.generate(ENDLESS_PROMPT, collector, max_tokens=3000))
        for collector in collectors
    ]
    ends = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
    assert isinstance(ends[0], asyncio.CancelledError), ends
    kinds = {type(end) for end in ends}
    assert kinds <= {asyncio.CancelledError, Generation}, ends  # some may have ended before
    assert await started.engine.stats() == IDLE
    delivered = [len(collector.pieces) for collector in collectors]
    assert (await started.generate(ENDLESS_PROMPT, max_tokens=5)).text
    assert [len(collector.pieces) for collector in collectors] == delivered, (
        "no text arrives after the cancellation"
    )


async def test_cancelling_before_the_first_token_frees_the_slot(started: StartedEngine) -> None:
    tasks = [
        asyncio.create_task(started.generate(ENDLESS_PROMPT, max_tokens=3000)) for _ in range(16)
    ]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    ends = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
    assert all(isinstance(end, asyncio.CancelledError) for end in ends)
    await started.wait_until_idle()


async def test_the_timeout_ends_a_generation_and_frees_the_slot(
    started: StartedEngine, collector: TextCollector
) -> None:
    with pytest.raises(EngineTimeout):
        await asyncio.wait_for(
            started.generate(ENDLESS_PROMPT, collector, max_tokens=4000, timeout=0.05), 5
        )
    await started.wait_until_idle()
    assert (await started.generate(ENDLESS_PROMPT, max_tokens=5)).text


async def test_a_failing_callback_ends_only_its_own_generation(started: StartedEngine) -> None:
    def fail(piece: str) -> None:
        raise LookupError("the callback's own fault")

    other = asyncio.create_task(started.generate(ENDLESS_PROMPT))
    with pytest.raises(LookupError):
        await asyncio.wait_for(
            started.engine.generate(request(ENDLESS_PROMPT, max_tokens=3000), fail), 5
        )
    assert (await other).text
    await started.wait_until_idle()


# Tokens


async def test_count_tokens_equals_the_prompt_tokens_of_the_usage(started: StartedEngine) -> None:
    messages = (
        ChatMessage("system", "Be brief."),
        ChatMessage("user", "Grüße, 漢字 and\nnew lines"),
        ChatMessage("assistant", "Yes 😀"),
        ChatMessage("user", "Go on"),
    )
    generation = await started.engine.generate(request(messages), TextCollector())
    assert generation.usage.prompt_tokens == await started.engine.count_tokens(messages)


async def test_a_prompt_that_is_too_long_is_refused_before_any_work(
    started: StartedEngine, collector: TextCollector
) -> None:
    prompt = " rain" * (started.engine_info.context_window + 1)
    with pytest.raises(PromptTooLong):
        await asyncio.wait_for(started.generate(prompt, collector), 5)
    assert not collector.pieces
    assert await started.engine.stats() == IDLE
    assert (await started.generate(ENDLESS_PROMPT)).text


async def test_no_tenant_sees_what_another_has_cached(started: StartedEngine) -> None:
    prompt = "A prompt of some length, " * 40
    cached = [
        (await started.generate(prompt, tenant=tenant, max_tokens=2)).usage.cached_tokens
        for tenant in ("first", "first", "second")
    ]
    assert cached[0] == cached[2] == 0
    # An engine without a visible cache shows 0; one with a cache used it for its own tenant.
    assert 0 <= cached[1] <= (await started.generate(prompt, max_tokens=2)).usage.prompt_tokens


async def test_an_invalid_parameter_is_refused(started: StartedEngine) -> None:
    for wrong in ({"max_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"stop": ("",)}):
        with pytest.raises(InvalidInput):
            await started.generate(ENDLESS_PROMPT, **wrong)


# Capabilities


async def test_a_seed_repeats_a_sample(started: StartedEngine) -> None:
    if not started.has("seed"):
        await check_unsupported(started, seed=1)
        return
    seeds = (1, 2, 3, 1, 2, 3)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(started.generate(ENDLESS_PROMPT, temperature=1.2, seed=it))
            for it in seeds
        ]
    texts = [task.result().text for task in tasks]
    assert texts[:3] == texts[3:]
    assert len(set(texts)) == 3


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_json_obeys_its_schema(started: StartedEngine, temperature: float) -> None:
    if not started.has("json_schema"):
        await check_unsupported(started, structure=VERDICT)
        return
    generation = await started.generate(
        ENDLESS_PROMPT, structure=VERDICT, temperature=temperature, max_tokens=200
    )
    value = json.loads(generation.text)
    assert generation.finish_reason == "stop"
    assert value.keys() == {"known", "size", "flags"}
    assert value["known"] in (True, False)
    assert value["size"] in ("small", "large")
    assert len(value["flags"]) <= 2


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_a_choice_is_one_of_its_options(started: StartedEngine, temperature: float) -> None:
    if not started.has("choice"):
        await check_unsupported(started, structure=COLOURS)
        return
    generation = await started.generate(ENDLESS_PROMPT, structure=COLOURS, temperature=temperature)
    assert generation.text in COLOURS.options
    assert generation.finish_reason == "stop"
    for only in ('a "deep" \\ blue', "größer als Öl", "漢字 😀", "a|b (c)*"):
        assert (await started.generate(ENDLESS_PROMPT, structure=Choice((only,)))).text == only


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_a_regular_expression_is_matched_whole(
    started: StartedEngine, temperature: float
) -> None:
    if not started.has("regex"):
        await check_unsupported(started, structure=PLATE)
        return
    generation = await started.generate(ENDLESS_PROMPT, structure=PLATE, temperature=temperature)
    assert re.fullmatch(PLATE.pattern, generation.text)
    assert generation.finish_reason == "stop"


async def test_structures_do_not_leak_into_other_requests(started: StartedEngine) -> None:
    if not started.has("choice"):
        await check_unsupported(started, structure=COLOURS)
        return
    free = (await started.generate(ENDLESS_PROMPT)).text
    async with asyncio.TaskGroup() as group:
        bound = [
            group.create_task(started.generate(ENDLESS_PROMPT, structure=COLOURS)) for _ in range(4)
        ]
        loose = [group.create_task(started.generate(ENDLESS_PROMPT)) for _ in range(4)]
    assert {task.result().text for task in bound} <= set(COLOURS.options)
    assert {task.result().text for task in loose} == {free}


@pytest.mark.parametrize(
    ("capability", "structure"),
    [
        ("choice", Choice(())),
        ("regex", Regex("(unclosed")),
        ("json_schema", JsonSchema({"type": "no such type"})),
    ],
    ids=["choice", "regex", "json_schema"],
)
async def test_an_invalid_structure_is_refused(
    started: StartedEngine, capability: str, structure: Choice | Regex | JsonSchema
) -> None:
    expected = InvalidInput if started.has(capability) else Unsupported
    with pytest.raises(expected):
        await started.generate(ENDLESS_PROMPT, structure=structure)
    assert (await started.generate(ENDLESS_PROMPT)).text


@pytest.mark.parametrize("alternatives", [0, 3])
async def test_there_is_a_log_probcapability_for_every_token(
    started: StartedEngine, alternatives: int
) -> None:
    if not started.has("alternatives" if alternatives else "logprobs"):
        await check_unsupported(started, logprobs=alternatives)
        return
    generation = await started.generate(ENDLESS_PROMPT, logprobs=alternatives)
    tokens = generation.usage.completion_tokens
    if started.name in COUNTS_CHARACTERS:
        tokens -= sum(len(it.encode()) - 1 for it in generation.text)
    assert len(generation.logprobs) == tokens
    for token in generation.logprobs:
        assert -30 < token.logprob <= 1e-3
        assert len(token.alternatives) == alternatives
        others = [logprob for _, logprob in token.alternatives]
        assert others == sorted(others, reverse=True)
        assert sum(map(math.exp, others)) <= 1.001
        assert not others or token.logprob >= others[0] - 1e-3, "greedy takes the most likely"
    plain = [token.token for token in generation.logprobs if token.token.isascii()]
    assert all(token in generation.text for token in plain)


async def test_a_partial_reply_continues_between_streamed_pieces(
    started: StartedEngine,
) -> None:
    if not started.has("continuation"):
        await check_unsupported(started, partial="The rain")
        return
    collector = TextCollector()
    whole = await started.generate(ENDLESS_PROMPT, collector, max_tokens=48)
    for count in range(1, len(collector.pieces), 3):
        partial = "".join(collector.pieces[:count])
        rest = await started.generate(ENDLESS_PROMPT, partial=partial, max_tokens=48)
        assert partial + rest.text == whole.text


async def test_a_partial_reply_continues_at_any_character(started: StartedEngine) -> None:
    if not started.has("continuation"):
        await check_unsupported(started, partial="The rain")
        return
    whole = (await started.generate(ENDLESS_PROMPT, max_tokens=40)).text
    cuts = range(1, len(whole), 5)
    collectors = [TextCollector() for _ in cuts]
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(
                started.generate(ENDLESS_PROMPT, collector, partial=whole[:cut], max_tokens=40)
            )
            for cut, collector in zip(cuts, collectors, strict=True)
        ]
    together = [whole[:cut] + task.result().text for cut, task in zip(cuts, tasks, strict=True)]
    assert set(together) == {whole}
    assert [collector.text for collector in collectors] == [task.result().text for task in tasks]


class Interrupted(Exception):
    """The callback stops the generation."""


async def generate_prefix(started: StartedEngine, length: int) -> str:
    """Return the first ``length`` characters of a reply, and stop its generation there."""
    text = ""

    def interrupt(piece: str) -> None:
        nonlocal text
        text += piece
        if len(text) >= length:
            raise Interrupted

    with pytest.raises(Interrupted):
        await started.engine.generate(request(ENDLESS_PROMPT, max_tokens=60), interrupt)
    return text[:length]


async def test_a_reply_cut_at_a_random_character_continues_at_another_instance(
    started: StartedEngine,
) -> None:
    if not started.has("continuation"):
        await check_unsupported(started, partial="The rain")
        return
    whole = (await started.generate(ENDLESS_PROMPT, max_tokens=60)).text
    chance = random.Random(SEED)
    async with started.factory(started.model) as another:
        await another.start()
        for _ in range(8):
            partial = await generate_prefix(started, chance.randrange(1, len(whole)))
            rest = await another.generate(
                request(ENDLESS_PROMPT, partial=partial, max_tokens=60), TextCollector()
            )
            assert partial + rest.text == whole, SEED
        await another.close()


async def test_a_partial_reply_counts_as_reply(started: StartedEngine) -> None:
    if not started.has("continuation"):
        await check_unsupported(started, partial="The rain")
        return
    whole = await started.generate(ENDLESS_PROMPT, max_tokens=30)
    for cut in (len(whole.text) // 2, len(whole.text)):
        partial = whole.text[:cut]
        rest = await started.generate(ENDLESS_PROMPT, partial=partial, max_tokens=30)
        assert (partial + rest.text, rest.finish_reason) == (whole.text, "length")
        assert rest.usage.completion_tokens == whole.usage.completion_tokens
        assert rest.usage.prompt_tokens == whole.usage.prompt_tokens
    full = await started.generate(ENDLESS_PROMPT, partial="x\n" * 100, max_tokens=5)
    assert (full.text, full.finish_reason) == ("", "length")


async def test_an_unknown_adapter_is_named(started: StartedEngine) -> None:
    if not started.has("adapter"):
        await check_unsupported(started, adapter="no-such-adapter")
        return
    with pytest.raises((InvalidInput, NotFound), match="no-such-adapter"):
        await started.generate(ENDLESS_PROMPT, adapter="no-such-adapter")


async def test_priorities_are_accepted(started: StartedEngine) -> None:
    if not started.has("priority"):
        await check_unsupported(started, priority=-1)
        return
    plain = (await started.generate(ENDLESS_PROMPT)).text
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(started.generate(ENDLESS_PROMPT, priority=it)) for it in (-5, 0, 5)
        ]
    assert {task.result().text for task in tasks} == {plain}


async def test_an_engine_without_vision_refuses_images(started: StartedEngine) -> None:
    message = ChatMessage("user", ENDLESS_PROMPT, (Image("image/png", draw_png(1)),))
    if started.has("vision"):
        assert (await started.engine.generate(request((message,)), TextCollector())).text
        return
    with pytest.raises(Unsupported, match="vision"):
        await started.engine.generate(request((message,)), TextCollector())
    with pytest.raises(Unsupported, match="vision"):
        await started.engine.count_tokens([message])
    assert (await started.generate(ENDLESS_PROMPT, max_tokens=2)).text


async def test_vectors_have_unit_length(started: StartedEngine) -> None:
    texts = ["The rain", "The old dog", "The rain"]
    if not started.has("embed"):
        with pytest.raises(Unsupported):
            await started.engine.embed(texts)
        return
    first, second, third = await started.engine.embed(texts)
    assert sum(x * x for x in first) == pytest.approx(1, abs=1e-3)
    assert first == pytest.approx(third, abs=1e-4)
    assert first != pytest.approx(second, abs=1e-2)


async def test_labels_have_probabilities(started: StartedEngine) -> None:
    if not started.has("classify"):
        with pytest.raises(Unsupported):
            await started.engine.classify(["The rain"])
        return
    for scores in await started.engine.classify(["The rain", "The old dog"]):
        assert sum(scores.values()) == pytest.approx(1, abs=1e-3)


async def check_unsupported(started: StartedEngine, **options: object) -> None:
    """Check that the engine refuses the options and still works afterwards."""
    collector = TextCollector()
    with pytest.raises(Unsupported):
        await started.generate(ENDLESS_PROMPT, collector, **options)
    assert not collector.pieces
    assert (await started.generate(ENDLESS_PROMPT, max_tokens=2)).text


# Lifetime


async def test_a_closed_engine_is_unavailable_and_can_be_started_again(
    started: StartedEngine,
) -> None:
    engine = started.engine
    before = (await started.generate(ENDLESS_PROMPT)).text
    task = asyncio.create_task(started.generate(ENDLESS_PROMPT, max_tokens=4000))
    await asyncio.sleep(0)
    await engine.close()
    await engine.close()
    with pytest.raises(EngineUnavailable):
        await asyncio.wait_for(task, 5)
    with pytest.raises(EngineUnavailable):
        await started.generate(ENDLESS_PROMPT)
    with pytest.raises(EngineUnavailable):
        await engine.count_tokens([ChatMessage("user", ENDLESS_PROMPT)])
    assert await engine.start() == started.engine_info
    assert (await started.generate(ENDLESS_PROMPT)).text == before


async def test_an_engine_that_was_not_started_is_unavailable(started: StartedEngine) -> None:
    async with started.factory(started.model) as engine:
        with pytest.raises(EngineUnavailable):
            await engine.generate(request(ENDLESS_PROMPT), TextCollector())
        await engine.close()


@pytest.mark.parametrize("kind", ["no config", "truncated weights", "bad tokenizer", "empty"])
async def test_a_broken_model_is_a_configuration_error_that_names_it(
    started: StartedEngine, tmp_path: Path, kind: str
) -> None:
    if started.name not in LOADS_FILES:
        pytest.skip(f"{started.name} opens no model files")
    broken = tmp_path / "broken-model"
    shutil.copytree(started.model, broken)
    damage_model(broken, kind)
    async with started.factory(broken) as engine:
        with pytest.raises(ConfigurationError, match="broken-model"):
            await engine.start()
        await engine.close()


async def test_the_description_has_the_model_and_its_context_window(started: StartedEngine) -> None:
    assert started.engine_info.model
    assert started.engine_info.context_window > 0
    assert "generate" in started.engine_info.capabilities
    assert Sampling().max_tokens <= started.engine_info.context_window
