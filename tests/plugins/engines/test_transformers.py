"""Engine ``transformers``, beyond the conformance suite."""

import asyncio
import json
import logging
import math
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.plugins.engines.conftest import build_engine
from tests.plugins.engines.models import ENDLESS_PROMPT, TEMPLATE, write_json
from tests.plugins.engines.support import IDLE, TextCollector, request
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from palaver.errors import (
    ConfigurationError,
    EngineError,
    EngineUnavailable,
    PromptTooLong,
    Unsupported,
)
from palaver.hooks import BuildContext
from palaver_plugins.engines import openvino, transformers
from palaver_plugins.engines.generation_thread import GenerationThread
from palaver_plugins.engines.image_prompts import load_encoder, vision_obstacle
from palaver_plugins.engines.padded_batch import CausalModel, batching_obstacle
from palaver_plugins.engines.tokenization import ChatTokenizer
from palaver_plugins.engines.torch_runner import BatchingPlan, TorchRunner

pytestmark = [pytest.mark.transformers, pytest.mark.live]

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "old", "dog", "rain", "falls")
TEXTS = ["the old dog", "the rain falls", "dog"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a BERT of two layers with a word-piece tokenizer."""
    torch: Any = pytest.importorskip("torch")
    hugging_face: Any = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("encoders") / "bert"
    torch.manual_seed(5)
    config = hugging_face.BertConfig(
        vocab_size=16,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        initializer_range=0.5,
    )
    hugging_face.utils.logging.disable_progress_bar()
    hugging_face.BertModel(config).save_pretrained(folder)
    tokenizer = Tokenizer(
        models.WordPiece({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def cosine(first: list[float], second: list[float]) -> float:
    return math.fsum(x * y for x, y in zip(first, second, strict=True))


async def embedded(folder: Path, texts: list[str]) -> list[list[float]]:
    settings = transformers.TransformersSettings(
        load_model=False, embedding_model="bert", threads=1
    )
    build_context = BuildContext(
        data_directory=folder, resolve_model=lambda name: folder.with_name(name)
    )
    engine = transformers.TransformersEngine(settings, build_context)
    engine_info = await engine.start()
    assert engine_info.capabilities == {"embed"}
    try:
        with pytest.raises(Unsupported):
            await engine.generate(request(ENDLESS_PROMPT), TextCollector())
        return await engine.embed(texts)
    finally:
        await engine.close()


async def test_an_encoder_embeds_alike_alone_and_among_longer_texts(encoder: Path) -> None:
    together = await embedded(encoder, TEXTS)
    alone = await embedded(encoder, TEXTS[-1:])
    assert cosine(together[-1], alone[0]) == pytest.approx(1, abs=1e-5)
    assert cosine(together[0], together[1]) < 0.999
    assert await embedded(encoder, []) == []


async def test_the_pooling_of_sentence_transformers_is_obeyed(encoder: Path) -> None:
    mean = await embedded(encoder, TEXTS)
    (encoder / "1_Pooling").mkdir()
    write_json(encoder / "1_Pooling" / "config.json", {"pooling_mode_cls_token": True})
    first = await embedded(encoder, TEXTS)
    assert cosine(mean[0], first[0]) < 0.9999


async def test_a_text_that_is_too_long_is_cut_off(encoder: Path) -> None:
    long, longer = await embedded(encoder, ["dog " * 20, "dog " * 5000])
    assert long == pytest.approx(longer)


async def test_it_says_what_openvino_says(model: Path) -> None:
    pytest.importorskip("openvino_genai")
    texts = []
    for plugin in (openvino, transformers):
        engine = build_engine(plugin, model, threads=1)
        await engine.start()
        texts.append(
            (await engine.generate(request(ENDLESS_PROMPT, max_tokens=100), TextCollector())).text
        )
        await engine.close()
    assert texts[0] == texts[1]


async def test_a_model_that_lacks_weights_is_refused(model: Path, tmp_path: Path) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        (tmp_path / file).symlink_to(model / file)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    write_json(tmp_path / "config.json", config | {"num_hidden_layers": 3})
    with pytest.raises(ConfigurationError, match="lacks weights"):
        await build_engine(transformers, tmp_path, threads=1).start()


# Together

ALONE = BatchingPlan(batched=False, chunked_prefill=True)
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 1024,
    "initializer_range": 0.5,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.5},
    "llama": SMALL | {"num_key_value_heads": 2},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.5},
    "mistral": SMALL | {"num_key_value_heads": 2, "sliding_window": 8},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2},
}
PROMPTS = (
    "x",
    ENDLESS_PROMPT,
    "The old dog " * 9,
    "Hello",
    "Who are you, and what is new in the café?",
)


def write_network(folder: Path, kind: str, model: Path) -> Path:
    """Write a model of architecture ``kind`` with random weights and the tokenizer of ``model``."""
    torch: Any = pytest.importorskip("torch")
    hugging_face: Any = pytest.importorskip("transformers")
    known = json.loads((model / "config.json").read_text(encoding="utf-8"))
    names = ("vocab_size", "eos_token_id", "pad_token_id")
    words = {name: known[name] for name in names} | {"bos_token_id": known["eos_token_id"]}
    config = hugging_face.AutoConfig.for_model(kind, **words, **ARCHITECTURES[kind])
    torch.manual_seed(7)
    hugging_face.utils.logging.disable_progress_bar()
    hugging_face.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model / file, folder)
    return folder


def load(model: Path, folder: Path, kind: str = "qwen2") -> transformers.LoadedModels:
    """Load ``model``, or one of the architecture ``kind`` that is written to ``folder``."""
    chosen = model if kind == "qwen2" else write_network(folder / kind, kind, model)
    build_context = BuildContext(data_directory=folder, resolve_model=lambda name: chosen)
    return transformers.load(transformers.TransformersSettings(threads=1), build_context)


@asynccontextmanager
async def running_thread(
    loaded: transformers.LoadedModels,
    plan: BatchingPlan | None = None,
    max_prefill_tokens: int = 32,
) -> AsyncIterator[GenerationThread]:
    thread = GenerationThread(
        TorchRunner(loaded.network, max_prefill_tokens, plan or loaded.plan), 16
    )
    try:
        yield thread
    finally:
        await thread.close()


async def generate_text(
    thread: GenerationThread,
    loaded: transformers.LoadedModels,
    prompt: str,
    collector: TextCollector | None = None,
    **options: object,
) -> str:
    job = await transformers.make_job(
        loaded, request(prompt, **options), collector or TextCollector()
    )
    return (await thread.generate(job)).text


async def test_sixteen_streams_take_far_fewer_forwards_than_tokens(
    model: Path, tmp_path: Path
) -> None:
    loaded = await asyncio.to_thread(load, model, tmp_path)
    forwards: list[int] = []
    loaded.network.register_forward_pre_hook(lambda *_: forwards.append(1))
    async with running_thread(loaded, max_prefill_tokens=4096) as thread:
        jobs = [
            await transformers.make_job(
                loaded, request(f"Question {it}", max_tokens=24), TextCollector()
            )
            for it in range(16)
        ]
        ends = await asyncio.gather(*map(thread.generate, jobs))
    tokens = sum(end.usage.completion_tokens for end in ends)
    assert tokens == 16 * 24
    assert len(forwards) < 16 + tokens / 6, "a forward for each prompt, then one for all"


@pytest.mark.parametrize("kind", ["qwen2", "gpt2", "llama", "bloom"])
async def test_rows_that_come_and_go_leave_the_others_alone(
    model: Path, tmp_path: Path, kind: str
) -> None:
    loaded = await asyncio.to_thread(load, model, tmp_path, kind)
    assert loaded.plan == BatchingPlan(batched=True, chunked_prefill=True)
    lengths = {prompt: 90 - 20 * index for index, prompt in enumerate(PROMPTS)}
    async with running_thread(loaded, ALONE) as thread:
        expected = [
            await generate_text(thread, loaded, it, max_tokens=lengths[it]) for it in PROMPTS
        ]
    assert len(set(expected)) > 3
    async with running_thread(loaded) as thread:
        for _ in range(2):
            collector = TextCollector()
            left = asyncio.create_task(
                generate_text(thread, loaded, "Go away", collector, max_tokens=900)
            )
            tasks = []
            for prompt in PROMPTS:
                tasks.append(
                    asyncio.create_task(
                        generate_text(thread, loaded, prompt, collector, max_tokens=lengths[prompt])
                    )
                )
                collector.first.clear()
                await asyncio.wait_for(collector.first.wait(), 10)
            left.cancel()
            assert await asyncio.gather(*tasks) == expected
            await asyncio.wait([left])
            assert thread.stats() == IDLE


@pytest.mark.parametrize(
    ("kind", "plan"),
    [
        ("mistral", BatchingPlan(batched=False, chunked_prefill=True)),
        ("mamba", BatchingPlan(batched=False, chunked_prefill=False)),
    ],
)
async def test_what_slides_or_recurs_is_computed_one_at_a_time(
    model: Path, tmp_path: Path, kind: str, plan: BatchingPlan, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        loaded = await asyncio.to_thread(load, model, tmp_path, kind)
    assert loaded.plan == plan
    assert "one at a time" in caplog.text
    async with running_thread(loaded, max_prefill_tokens=3) as thread:
        alone = [await generate_text(thread, loaded, it) for it in PROMPTS]
        together = await asyncio.gather(*(generate_text(thread, loaded, it) for it in PROMPTS))
    assert together == alone


async def test_the_trial_sees_wrong_positions(model: Path, tmp_path: Path) -> None:
    loaded = await asyncio.to_thread(load, model, tmp_path, "gpt2")
    causal_model = CausalModel(loaded.network)
    assert not batching_obstacle(causal_model)
    causal_model.takes_positions = False
    assert "differ" in batching_obstacle(causal_model)


async def test_a_request_that_is_too_long_is_refused_and_the_others_continue(model: Path) -> None:
    engine = build_engine(transformers, model, threads=1)
    engine_info = await engine.start()
    try:
        alone = (await engine.generate(request(ENDLESS_PROMPT), TextCollector())).text
        others = [
            asyncio.create_task(engine.generate(request(ENDLESS_PROMPT), TextCollector()))
            for _ in range(4)
        ]
        with pytest.raises(PromptTooLong):
            await engine.generate(
                request(" rain" * (engine_info.context_window + 1)), TextCollector()
            )
        more = request(
            ENDLESS_PROMPT, max_tokens=100 * engine_info.context_window, stop=(alone[:30],)
        )
        assert (await engine.generate(more, TextCollector())).text == ""
        assert {it.text for it in await asyncio.gather(*others)} == {alone}
    finally:
        await engine.close()


async def test_scores_that_are_no_numbers_fail_their_own_request(
    model: Path, tmp_path: Path
) -> None:
    loaded = await asyncio.to_thread(load, model, tmp_path)

    def spoil(network: object, given: object, out: Any) -> None:
        out.logits.fill_(math.nan)

    async with running_thread(loaded) as thread:
        with (
            loaded.network.register_forward_hook(spoil),
            pytest.raises(EngineError, match="sampling"),
        ):
            await generate_text(thread, loaded, ENDLESS_PROMPT, temperature=1.0)
        assert await generate_text(thread, loaded, ENDLESS_PROMPT)
        assert thread.stats() == IDLE


async def test_an_engine_that_crashed_can_be_started_again(model: Path) -> None:
    torch: Any = pytest.importorskip("torch")
    engine = build_engine(transformers, model, threads=1)

    def fail(*_: object) -> None:
        raise MemoryError("no room for a forward")

    await engine.start()
    try:
        before = (await engine.generate(request(ENDLESS_PROMPT), TextCollector())).text
        with torch.nn.modules.module.register_module_forward_pre_hook(fail):
            for _ in range(2):
                with pytest.raises(EngineUnavailable, match="no room"):
                    await engine.generate(request(ENDLESS_PROMPT), TextCollector())
        await engine.start()
        assert (await engine.generate(request(ENDLESS_PROMPT), TextCollector())).text == before
    finally:
        await engine.close()


# Images


@asynccontextmanager
async def loaded(model: Path) -> AsyncIterator[frozenset[str]]:
    """Yield the capabilities of an engine with ``model``, which generates."""
    engine = build_engine(transformers, model, threads=1)
    try:
        info = await engine.start()
        assert (await engine.generate(request(ENDLESS_PROMPT), TextCollector())).text
        yield info.capabilities
    finally:
        await engine.close()


@pytest.mark.parametrize(
    ("missing", "reason"),
    [("preprocessor_config.json", "processor"), ("a place for images", "template")],
)
async def test_a_model_whose_images_cannot_be_read_reads_texts(
    vision_model: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    missing: str,
    reason: str,
) -> None:
    pytest.importorskip("PIL")
    folder = tmp_path / "blind"
    shutil.copytree(vision_model, folder)
    if missing.endswith(".json"):
        (folder / missing).unlink()
    else:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        write_json(folder / "tokenizer_config.json", settings | {"chat_template": TEMPLATE})
    async with loaded(folder) as capabilities:
        assert "vision" not in capabilities
    assert "'blind' sees images, but not with this engine" in caplog.text
    assert reason in caplog.text


async def test_the_template_of_a_processor_counts(vision_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    folder = tmp_path / "legacy"
    shutil.copytree(vision_model, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    template = settings.pop("chat_template")
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "chat_template.json", {"chat_template": template})
    async with loaded(folder) as capabilities:
        assert "vision" in capabilities


class ForgetfulModel(CausalModel):
    """A model that keeps something about the last image for all sequences."""

    def __init__(self, network: Any) -> None:
        super().__init__(network)
        self._has_seen = False

    def forward(self, tokens: Any, cache: Any, **more: Any) -> tuple[Any, Any]:
        scores, cache = super().forward(tokens, cache, **more)
        if len(tokens[0]) > 1:
            self._has_seen = "pixel_values" in more
        return (scores.flip(-1) if self._has_seen else scores), cache


@pytest.mark.parametrize("batched", [True, False])
def test_a_model_that_confuses_the_images_of_sequences_is_found(
    vision_model: Path, batched: bool
) -> None:
    pytest.importorskip("PIL")
    hugging_face: Any = pytest.importorskip("transformers")
    network = hugging_face.AutoModelForImageTextToText.from_pretrained(str(vision_model)).eval()
    encoder = load_encoder(vision_model, ChatTokenizer.load(vision_model))
    assert vision_obstacle(CausalModel(network), encoder, batched=batched) == ""
    assert "differ" in vision_obstacle(ForgetfulModel(network), encoder, batched=batched)
