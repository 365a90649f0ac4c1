"""What is particular to the engine ``transformers``; the rest is in the conformance suite."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from tests.engines.conftest import built_in
from tests.engines.models import TALK, write_json
from tests.engines.support import Ear, request
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from palaver.errors import ConfigurationError, Unsupported
from palaver.hooks import Site
from palaver_plugins.engines import openvino, transformers

pytestmark = [pytest.mark.transformers, pytest.mark.live]

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "old", "dog", "rain", "falls")
TEXTS = ["the old dog", "the rain falls", "dog"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers with a word-piece tokenizer."""
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
    settings = transformers.TransformersSettings(generates=False, embedding="bert", threads=1)
    site = Site(data=folder, model=lambda name: folder.with_name(name))
    engine = transformers.TransformersEngine(settings, site)
    abilities = await engine.start()
    assert abilities.can == {"embed"}
    try:
        with pytest.raises(Unsupported):
            await engine.generate(request(TALK), Ear())
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
        engine = built_in(plugin, model, threads=1)
        await engine.start()
        texts.append((await engine.generate(request(TALK, max_tokens=100), Ear())).text)
        await engine.close()
    assert texts[0] == texts[1]


async def test_a_model_that_lacks_weights_is_refused(model: Path, tmp_path: Path) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        (tmp_path / file).symlink_to(model / file)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    write_json(tmp_path / "config.json", config | {"num_hidden_layers": 3})
    with pytest.raises(ConfigurationError, match="lacks weights"):
        await built_in(transformers, tmp_path, threads=1).start()
