"""More models for tests, written by hand: an embedding model, a classifier, a LoRA adapter."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tests.plugins.engines.models import HEADS, HIDDEN, KV_HEADS, LAYERS, SENTENCES, WIDTH
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel

SIZE, INNER, POSITIONS = 64, 64, 64  # vLLM wants heads of at least 32 on the CPU
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
LABELS = ("calm", "angry", "glad")
RANK = 4

Weights = dict[str, NDArray[np.float32]]


def words() -> list[str]:
    said = {word for sentence in SENTENCES for word in sentence.split()}
    return [*SPECIAL, *sorted(said)]


def write_embedder(folder: Path) -> Path:
    """Write a BERT of one layer, which embeds by its first position."""
    return _write(folder, "BertModel", _bert(""), {})


def write_classifier(folder: Path) -> Path:
    """Write the same BERT with a classification head for `LABELS`."""
    random = np.random.default_rng(3)
    weights = _bert("bert.")
    weights["classifier.weight"] = _noise(random, len(LABELS), SIZE, spread=2)
    weights["classifier.bias"] = np.zeros(len(LABELS), np.float32)
    labels = {
        "id2label": {str(place): label for place, label in enumerate(LABELS)},
        "label2id": {label: place for place, label in enumerate(LABELS)},
    }
    return _write(folder, "BertForSequenceClassification", weights, labels)


def write_adapter(folder: Path, seed: int) -> Path:
    """Write a LoRA adapter of the walker, strong enough to change its replies."""
    random = np.random.default_rng(seed)
    weights: Weights = {}
    for index in range(LAYERS):
        name = f"base_model.model.model.layers.{index}.self_attn"
        for part, rows in (("q_proj", HEADS * WIDTH), ("v_proj", KV_HEADS * WIDTH)):
            weights[f"{name}.{part}.lora_A.weight"] = _noise(random, RANK, HIDDEN, spread=1)
            weights[f"{name}.{part}.lora_B.weight"] = _noise(random, rows, RANK, spread=1)
    folder.mkdir(parents=True)
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    _write_json(
        folder / "adapter_config.json",
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": "walker",
            "r": RANK,
            "lora_alpha": RANK,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": ["q_proj", "v_proj"],
        },
    )
    return folder


def _noise(
    random: np.random.Generator, rows: int, columns: int, spread: float = 0.2
) -> NDArray[np.float32]:
    return (spread * random.standard_normal((rows, columns))).astype(np.float32)


def _bert(prefix: str) -> Weights:
    random = np.random.default_rng(1)
    weights: Weights = {}

    def linear(name: str, rows: int, columns: int) -> None:
        weights[f"{prefix}{name}.weight"] = _noise(random, rows, columns)
        weights[f"{prefix}{name}.bias"] = np.zeros(rows, np.float32)

    def norm(name: str) -> None:
        weights[f"{prefix}{name}.weight"] = np.ones(SIZE, np.float32)
        weights[f"{prefix}{name}.bias"] = np.zeros(SIZE, np.float32)

    for table, rows in (("word", len(words())), ("position", POSITIONS), ("token_type", 2)):
        name = f"{prefix}embeddings.{table}_embeddings.weight"
        weights[name] = _noise(random, rows, SIZE, spread=1)
    norm("embeddings.LayerNorm")
    layer = "encoder.layer.0"
    for part in ("query", "key", "value"):
        linear(f"{layer}.attention.self.{part}", SIZE, SIZE)
    linear(f"{layer}.attention.output.dense", SIZE, SIZE)
    norm(f"{layer}.attention.output.LayerNorm")
    linear(f"{layer}.intermediate.dense", INNER, SIZE)
    linear(f"{layer}.output.dense", SIZE, INNER)
    norm(f"{layer}.output.LayerNorm")
    linear("pooler.dense", SIZE, SIZE)
    return weights


def _write(folder: Path, architecture: str, weights: Weights, more: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": [architecture],
        "model_type": "bert",
        "vocab_size": len(words()),
        "hidden_size": SIZE,
        "intermediate_size": INNER,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "torch_dtype": "float32",
        "pad_token_id": 0,
    }
    _write_json(folder / "config.json", config | more)
    tokenizer = Tokenizer(
        WordLevel({word: place for place, word in enumerate(words())}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "model_max_length": POSITIONS,
    }
    _write_json(folder / "tokenizer_config.json", settings)
    return folder


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
