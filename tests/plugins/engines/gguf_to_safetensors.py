"""Conversion of a GGUF file of a Llama model to a Hugging Face model directory.

It lets every engine load the same model. The weights are those that the quantized file stands for,
in float16. Source of the layout: llama.cpp, ``conversion`` of Llama models, reversed.
"""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import dequantize
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

CONTROL_TOKEN = 3
"""Type of a special token in ``tokenizer.ggml.token_type``."""
PLACES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    **{f"attn_{part}": f"self_attn.{part}_proj" for part in ("q", "k", "v")},
    "attn_output": "self_attn.o_proj",
    **{f"ffn_{part}": f"mlp.{part}_proj" for part in ("gate", "up", "down")},
}
"""Names of a layer's weights in both formats."""

Json = dict[str, Any]  # a parsed JSON object


def convert_to_safetensors(file: Path, folder: Path) -> Path:
    """Write the model directory ``folder``: weights, tokenizer, configuration, chat template."""
    reader = gguf.GGUFReader(file)
    folder.mkdir(parents=True)
    save_file(_weights(reader), folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer = _tokenizer(reader)
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, content in _configuration(reader, tokenizer).items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def _field(reader: gguf.GGUFReader, key: str) -> Any:  # Any: what the key holds
    field = reader.get_field(key.replace("{arch}", "llama"))
    if field is None:
        raise ValueError(f"the file has no {key}")
    return field.contents()


def _weights(reader: gguf.GGUFReader) -> dict[str, NDArray[np.float16]]:
    heads = {
        "attn_q": _field(reader, "{arch}.attention.head_count"),
        "attn_k": _field(reader, "{arch}.attention.head_count_kv"),
    }
    weights = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float16)
        match tensor.name.split("."):
            case ["blk", number, part, "weight"]:
                name = f"model.layers.{number}.{PLACES[part]}.weight"
                if part in heads:
                    values = _undo_rotary_order(values, heads[part])
            case ["token_embd", "weight"]:
                name = "model.embed_tokens.weight"
            case ["output_norm", "weight"]:
                name = "model.norm.weight"
            case _:
                raise ValueError(f"{tensor.name!r} is no weight of a Llama model with tied ends")
        weights[name] = np.ascontiguousarray(values)
    return weights


def _undo_rotary_order(values: NDArray[np.float16], heads: int) -> NDArray[np.float16]:
    """Return the rows of each head in the order of Hugging Face: first the real parts of the rotary
    pairs, then the imaginary ones. llama.cpp has them in turns."""
    rows, columns = values.shape
    pairs = values.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def _tokenizer(reader: gguf.GGUFReader) -> Tokenizer:
    tokens = _field(reader, "tokenizer.ggml.tokens")
    merges = [tuple(it.split(" ")) for it in _field(reader, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(BPE({token: index for index, token in enumerate(tokens)}, merges))
    # What llama.cpp calls "smollm": each digit is a piece of its own.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    types = _field(reader, "tokenizer.ggml.token_type")
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    return tokenizer


def _configuration(reader: gguf.GGUFReader, tokenizer: Tokenizer) -> dict[str, Json]:
    end = _field(reader, "tokenizer.ggml.eos_token_id")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": _field(reader, "{arch}.embedding_length"),
        "intermediate_size": _field(reader, "{arch}.feed_forward_length"),
        "num_hidden_layers": _field(reader, "{arch}.block_count"),
        "num_attention_heads": _field(reader, "{arch}.attention.head_count"),
        "num_key_value_heads": _field(reader, "{arch}.attention.head_count_kv"),
        "max_position_embeddings": _field(reader, "{arch}.context_length"),
        "rms_norm_eps": _field(reader, "{arch}.attention.layer_norm_rms_epsilon"),
        "rope_theta": _field(reader, "{arch}.rope.freq_base"),
        "bos_token_id": _field(reader, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": end,
    }
    chat = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": tokenizer.id_to_token(end),
        "chat_template": _field(reader, "tokenizer.chat_template"),
        "model_max_length": config["max_position_embeddings"],
    }
    return {"config.json": config, "tokenizer_config.json": chat}
