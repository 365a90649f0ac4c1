"""Converts a Hugging Face model directory to the GGUF file that OpenVINO reads, without torch."""

import contextlib
import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palaver import ConfigurationError, read_json
from palaver_plugins.engines.tokenization import Json

ARCHITECTURES = {"llama": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3"}
"""Architectures that OpenVINO reads, by ``model_type``."""
MAX_VOCABULARY = 10_000_000
FORMAT_VERSION = 1
"""Increase it with each change of the written files, so that cached ones are not reused."""
PROBE_CONFIG = {
    "model_type": "qwen2",
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "rms_norm_eps": 1e-6,
}
"""Sizes of the probe, a model that has the vocabulary and next to no weights."""

Array = NDArray[Any]  # Any: float16, float32 or quantised bytes


@dataclasses.dataclass(frozen=True, slots=True)
class ConversionOptions:
    """Options of a conversion. Without ``weights`` it writes only the probe."""

    int8_weights: bool = False
    weights: bool = True


def convert_cached(folder: Path, cache: Path, options: ConversionOptions) -> Path:
    """Return a directory with ``model.gguf`` and ``probe.gguf``, converted unless ``cache`` has it.

    Raises `ConfigurationError` that names ``folder`` when the model cannot be read.
    """
    target = cache / cache_key(folder, options)
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as fresh:
            with _naming_broken_models(folder):
                convert(folder, Path(fresh) / "converted", options)
            # Another process may have been faster: its result is the same.
            with contextlib.suppress(OSError):
                os.rename(Path(fresh) / "converted", target)
    return target


@contextlib.contextmanager
def _naming_broken_models(folder: Path) -> Iterator[None]:
    """Raise `ConfigurationError` when the files of a model do not fit together."""
    try:
        yield
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise ConfigurationError(
            f"model {str(folder)!r}: its files do not fit together "
            f"({type(error).__name__}: {error})"
        ) from error


def cache_key(folder: Path, options: ConversionOptions) -> str:
    """Return a digest of the model's files (name, size, time) and of the options."""
    files = sorted((*folder.glob("*.safetensors"), *folder.glob("*.json")))
    state = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    key = [FORMAT_VERSION, str(folder.resolve()), dataclasses.astuple(options), state]
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]


def convert(folder: Path, target: Path, options: ConversionOptions) -> None:
    """Write ``target/probe.gguf``, and ``target/model.gguf`` with ``options.weights``."""
    config = supported_config(folder) if options.weights else read_json(folder / "config.json")
    tokenizer = read_json(folder / "tokenizer.json")
    if (tokenizer.get("decoder") or {}).get("type") != "ByteLevel":
        raise ConfigurationError(
            f"model {str(folder)!r}: its tokenizer is not byte-level BPE, which the openvino "
            "engine needs; use the transformers engine"
        )
    target.mkdir()
    if options.weights:
        path = target / "model.gguf"
        write_file(path, config, tokenizer, read_weights(folder), int8_weights=options.int8_weights)
    probe = config | PROBE_CONFIG
    write_file(target / "probe.gguf", probe, tokenizer, probe_weights(probe))


def supported_config(folder: Path) -> Json:
    """Return the configuration. Raises `ConfigurationError` when OpenVINO cannot load the model."""
    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        raise ConfigurationError(
            f"model {str(folder)!r} is a {kind!r}: the openvino engine loads "
            f"{sorted(ARCHITECTURES)}, or a directory with openvino_model.xml; the transformers "
            "engine loads the rest"
        )
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if scaling.get("rope_type", scaling.get("type", "default")) != "default":
        raise ConfigurationError(
            f"model {str(folder)!r} scales its rotary positions, which the openvino engine "
            "cannot; use the transformers engine"
        )
    return config


def read_weights(folder: Path) -> Iterator[tuple[str, Array]]:
    """Yield all weights as float32, with their names in the model."""
    import safetensors

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ConfigurationError(f"model {str(folder)!r} has no *.safetensors file")
    for file in files:
        try:
            tensors = safetensors.deserialize(file.read_bytes())  # type: ignore[no-untyped-call]
        except (OSError, safetensors.SafetensorError) as error:
            raise ConfigurationError(f"model {str(folder)!r}: {file.name}: {error}") from error
        for name, tensor in tensors:
            yield name, to_float(tensor["data"], tensor["dtype"]).reshape(tensor["shape"])


def to_float(data: bytes, dtype: str) -> NDArray[np.float32]:
    match dtype:
        case "F32":
            return np.frombuffer(data, np.float32)
        case "F16":
            return np.frombuffer(data, np.float16).astype(np.float32)
        case "BF16":  # the upper half of a float32
            wide = np.frombuffer(data, np.uint16).astype(np.uint32) << 16
            return wide.view(np.float32)
    raise ConfigurationError(f"weights of type {dtype!r}: expected F32, F16 or BF16")


def probe_weights(config: Json) -> Iterator[tuple[str, Array]]:
    """Yield weights of zero for one layer."""
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    layer = "model.layers.0."
    yield "model.embed_tokens.weight", np.zeros((vocabulary, hidden), np.float32)
    yield "model.norm.weight", np.zeros(hidden, np.float32)
    for name in ("input_layernorm", "post_attention_layernorm"):
        yield f"{layer}{name}.weight", np.zeros(hidden, np.float32)
    for name in ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "self_attn.o_proj"):
        yield f"{layer}{name}.weight", np.zeros((hidden, hidden), np.float32)
    for name in ("q_proj", "k_proj", "v_proj"):
        yield f"{layer}self_attn.{name}.weight", np.zeros((hidden, hidden), np.float32)
        yield f"{layer}self_attn.{name}.bias", np.zeros(hidden, np.float32)


def write_file(
    path: Path,
    config: Json,
    tokenizer: Json,
    tensors: Iterator[tuple[str, Array]],
    *,
    int8_weights: bool = False,
) -> None:
    import gguf

    kind = config["model_type"]
    writer = gguf.GGUFWriter(path, kind, use_temp_file=True)
    add_metadata(writer, config)
    writer.add_file_type(
        gguf.LlamaFileType.MOSTLY_Q8_0 if int8_weights else gguf.LlamaFileType.MOSTLY_F16
    )
    add_vocabulary(writer, config, tokenizer)
    names = gguf.get_tensor_name_map(
        gguf.MODEL_ARCH[ARCHITECTURES[kind]], config["num_hidden_layers"]
    )
    for name, tensor in tensors:
        new_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if new_name is None:
            raise ConfigurationError(f"{path.name}: a {kind} model has no weights {name!r}")
        if kind == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            tensor = interleaved(tensor, heads(config)["q_proj" not in name])
        if int8_weights and tensor.ndim == 2:
            int8 = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(new_name, gguf.quants.quantize(tensor, int8), raw_dtype=int8)
        else:
            writer.add_tensor(
                new_name, tensor.astype(np.float16 if tensor.ndim > 1 else np.float32)
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def interleaved(tensor: Array, heads: int) -> Array:
    """Return ``tensor`` with the halves of each rotary pair side by side, as in Llama's GGUF."""
    shape = (heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return tensor.reshape(shape).swapaxes(1, 2).reshape(tensor.shape)


def heads(config: Json) -> tuple[int, int]:
    """Return the number of query heads and of key-value heads."""
    queries: int = config["num_attention_heads"]
    return queries, config.get("num_key_value_heads") or queries


def add_metadata(writer: Any, config: Json) -> None:  # Any: gguf has no types
    queries, keys = heads(config)
    rotary = config | (config.get("rope_parameters") or {})
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(queries)
    writer.add_head_count_kv(keys)
    writer.add_rope_freq_base(float(rotary.get("rope_theta") or 10000.0))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    width = config.get("head_dim") or config["hidden_size"] // queries
    writer.add_key_length(width)
    writer.add_value_length(width)


def add_vocabulary(writer: Any, config: Json, tokenizer: Json) -> None:  # Any: gguf has no types
    import gguf

    size = config["vocab_size"]
    if not 0 < size <= MAX_VOCABULARY:
        raise ValueError(f"a vocabulary of {size} tokens")
    tokens = [f"[unused {index}]" for index in range(size)]
    types = [gguf.TokenType.UNUSED] * size
    for token, index in tokenizer["model"]["vocab"].items():
        if index < 0:
            raise ValueError(f"a token with the number {index}")
        tokens[index], types[index] = token, gguf.TokenType.NORMAL
    for added in tokenizer.get("added_tokens", []):
        tokens[added["id"]], types[added["id"]] = added["content"], gguf.TokenType.CONTROL
    merges = tokenizer["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([it if isinstance(it, str) else " ".join(it) for it in merges])
    end = config.get("eos_token_id")
    end = end[0] if isinstance(end, list) else end or 0
    writer.add_eos_token_id(end)
    writer.add_bos_token_id(config.get("bos_token_id") or end)
    writer.add_pad_token_id(config.get("pad_token_id") or end)
