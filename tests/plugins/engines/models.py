"""A small Qwen2 model for tests, with weights written by hand, created within a moment.

It walks through `SENTENCES`: each word has the words that may follow it, and the prompt decides
between them through ordinary attention. So its replies are readable, always valid UTF-8 (some
characters are spread over several tokens), different for different prompts, and endless, except
that it ends at the next full stop when the word "goodbye" is in its context. It needs no torch.
"""

import json
import shutil
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

SENTENCES = (
    "The rain falls on the quiet hills .",
    "The old dog sleeps under the green table .",
    "A small bird sings 😀 in the morning .",
    "The children eat 漢字 and cake in the café 🎉 today .",
    "My quiet neighbour paints the green door .",
    "In the morning the rain sings on the old door .",
    "A green bird sleeps in the small café 🎉 alone .",
    "Today the children paint the hills and the table .",
)
"""Text that the model generates. It may change from one sentence to another at a shared word."""

ENDLESS_PROMPT = "Tell me about the weather"
"""A prompt with an endless reply."""
ENDING_PROMPT = "Say goodbye"
"""A prompt with a reply of one sentence."""

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
WORDS = ("system", "user", "assistant", " goodbye", " weather", " Tell", " me", " about")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HIDDEN, HEADS, KV_HEADS, WIDTH, INNER, LAYERS = 128, 4, 2, 32, 64, 2
SAME, MARK, ENDING, FREE = 0, 1, 2, 3
"""Dimensions with a meaning: always 1; "goodbye" here; "goodbye" seen; the first without one."""

Matrix = NDArray[np.float32]
Chain = dict[int, set[int]]


def spell(text: str) -> list[str]:
    """Return the byte-level symbols of ``text``, one per byte."""
    step = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return list("".join(piece for piece, _ in step.pre_tokenize_str(text)))


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return all bytes, then each word grown by one symbol at a time, so that it ends as one token.

    Of a word with a character beyond ASCII only the beginning is grown: the rest stays bytes.
    """
    tokens = dict.fromkeys(sorted(pre_tokenizers.ByteLevel.alphabet()))
    merges: dict[tuple[str, str], None] = {}
    said = (f" {word}" for sentence in SENTENCES for word in sentence.split())
    for word in (*said, *WORDS):
        symbols = spell(word)
        ascii_part = len(word.encode("ascii", "ignore"))
        grown = symbols[0]
        for symbol in symbols[1 : max(ascii_part, 2)]:
            merges[grown, symbol] = None
            grown += symbol
            tokens[grown] = None
    return {token: index for index, token in enumerate(tokens)}, list(merges)


def build_tokenizer() -> Tokenizer:
    tokens, merges = vocabulary()
    tokenizer = Tokenizer(BPE(tokens, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    return tokenizer


def successors(tokenizer: Tokenizer) -> Chain:
    """Which tokens may follow a token. A reply begins, after the prompt's newline, a sentence."""
    follow: Chain = {}
    (newline,) = tokenizer.encode("\n").ids
    (stop,) = tokenizer.encode(" .").ids
    for sentence in SENTENCES:
        ids: list[int] = tokenizer.encode(f" {sentence}").ids
        follow.setdefault(newline, set()).add(ids[0])
        follow.setdefault(stop, set()).add(ids[0])
        for this, following in pairwise(ids):
            follow.setdefault(this, set()).add(following)
    return follow


def embeddings(tokenizer: Tokenizer, size: int, random: np.random.Generator) -> Matrix:
    """Return one direction per token, and the marks."""
    table = random.standard_normal((size, HIDDEN)).astype(np.float32)
    table[:, :FREE] = 0
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    table[:, SAME] = 1
    for index in tokenizer.encode(" goodbye").ids:
        table[index, MARK] = 3
    return table


def head(tokenizer: Tokenizer, table: Matrix, scale: float = 1.2) -> Matrix:
    """Output weights: a token scores high after those that it may follow."""
    directions = table.copy()
    directions[:, :FREE] = 0
    weights = np.zeros_like(table)
    for this, following in successors(tokenizer).items():
        weights[list(following)] += scale * directions[this]
    # Whitespace and the tokens of the prompt's frame are never what the model wants to say.
    unwanted = [
        *tokenizer.encode("\n\t\r ").ids,
        *range(tokenizer.get_vocab_size() - 3, len(table)),
    ]
    weights[unwanted, SAME] = -0.4
    (stop,) = tokenizer.encode(" .").ids
    end = tokenizer.token_to_id("<|im_end|>")
    weights[end] = 0.7 * scale * directions[stop]
    weights[end, ENDING] = 0.6 * scale
    return weights


def layer(index: int, random: np.random.Generator) -> dict[str, Matrix]:
    """Return attention with noise, so that the context chooses. The first head of the first layer
    finds "goodbye" through its slowest rotation, which hardly depends on the distance."""

    def noise(rows: int, columns: int, spread: float) -> Matrix:
        return (spread * random.standard_normal((rows, columns))).astype(np.float32)

    query, key = noise(HEADS * WIDTH, HIDDEN, 0.1), noise(KV_HEADS * WIDTH, HIDDEN, 0.1)
    value, out = noise(KV_HEADS * WIDTH, HIDDEN, 0.04), noise(HIDDEN, HEADS * WIDTH, 0.04)
    value[:, SAME], out[:FREE] = 0, 0
    if index == 0:
        slowest = WIDTH // 2 - 1
        query[:WIDTH], key[:WIDTH], value[0] = 0, 0, 0
        query[slowest, SAME] = key[slowest, MARK] = 1
        value[0, MARK], out[:, 0], out[ENDING, 0] = 0.1, 0, 1
    name = f"model.layers.{index}"
    return {
        f"{name}.self_attn.q_proj.weight": query,
        f"{name}.self_attn.q_proj.bias": np.zeros(HEADS * WIDTH, np.float32),
        f"{name}.self_attn.k_proj.weight": key,
        f"{name}.self_attn.k_proj.bias": np.zeros(KV_HEADS * WIDTH, np.float32),
        f"{name}.self_attn.v_proj.weight": value,
        f"{name}.self_attn.v_proj.bias": np.zeros(KV_HEADS * WIDTH, np.float32),
        f"{name}.self_attn.o_proj.weight": out,
        f"{name}.mlp.gate_proj.weight": noise(INNER, HIDDEN, 0.05),
        f"{name}.mlp.up_proj.weight": noise(INNER, HIDDEN, 0.05),
        f"{name}.mlp.down_proj.weight": np.zeros((HIDDEN, INNER), np.float32),
        f"{name}.input_layernorm.weight": np.ones(HIDDEN, np.float32),
        f"{name}.post_attention_layernorm.weight": np.ones(HIDDEN, np.float32),
    }


def config(size: int, end: int, pad: int, context: int) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": size,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": context,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "torch_dtype": "float32",
        "eos_token_id": end,
        "pad_token_id": pad,
    }


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2), encoding="utf-8")


def write_tokenizer(tokenizer: Tokenizer, folder: Path, context: int) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": TEMPLATE,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
    }
    write_json(folder / "tokenizer_config.json", settings)


def write_tool_model(folder: Path) -> Path:
    """Write the model with a chat template that shows tools, in the format of Hermes."""
    write_model(folder)
    file = folder / "tokenizer_config.json"
    template = Path(__file__).with_name("chat_templates") / "hermes.jinja"
    settings = json.loads(file.read_text(encoding="utf-8"))
    write_json(file, settings | {"chat_template": template.read_text(encoding="utf-8")})
    return folder


def write_model(folder: Path, *, seed: int = 9, context: int = 4096) -> Path:
    """Write the model into ``folder``, as a directory that any engine can load."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    random = np.random.default_rng(seed)
    size = -(-tokenizer.get_vocab_size() // 64) * 64
    table = embeddings(tokenizer, size, random)
    weights = {
        "model.embed_tokens.weight": table,
        "lm_head.weight": head(tokenizer, table),
        "model.norm.weight": np.ones(HIDDEN, np.float32),
    }
    for index in range(LAYERS):
        weights |= layer(index, random)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    end, pad = tokenizer.encode("<|im_end|><|endoftext|>").ids
    write_json(folder / "config.json", config(size, end, pad, context))
    write_json(folder / "generation_config.json", {"eos_token_id": end, "pad_token_id": pad})
    write_tokenizer(tokenizer, folder, context)
    return folder


def write_classifier(folder: Path, walker: Path) -> Path:
    """Write a classifier with the weights of the model in ``walker``, for two labels."""
    shutil.copytree(walker, folder)
    weights = load_file(walker / "model.safetensors")
    del weights["lm_head.weight"]
    random = np.random.default_rng(3)
    weights["score.weight"] = random.standard_normal((2, HIDDEN)).astype(np.float32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    labels = {"0": "rain", "1": "dog"}
    settings |= {"architectures": ["Qwen2ForSequenceClassification"], "id2label": labels}
    write_json(folder / "config.json", settings)
    return folder


def add_token_outside(model: Path, folder: Path) -> Path:
    """Write a copy of a model whose tokenizer has a token ``<extra>`` without embedding: it is no
    special token, so messages may contain it."""
    shutil.copytree(model, folder)
    size = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    file = str(folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(file)
    unused = range(tokenizer.get_vocab_size(), size)
    tokenizer.add_tokens([*(f"<unused {number}>" for number in unused), "<extra>"])
    tokenizer.save(file)
    return folder


def damage_model(folder: Path, how: str) -> None:
    """Break the model in ``folder``: 'no config', 'truncated weights', 'bad tokenizer', 'empty'."""
    match how:
        case "no config":
            remove([folder / "config.json"])
        case "truncated weights":
            weights = folder / "model.safetensors"
            weights.write_bytes(weights.read_bytes()[:5000])
        case "bad tokenizer":
            (folder / "tokenizer.json").write_text("{not json", encoding="utf-8")
        case "empty":
            remove(folder.iterdir())
        case _:
            raise ValueError(f"no such damage: {how!r}")


def remove(files: Iterable[Path]) -> None:
    for file in list(files):
        file.unlink()
