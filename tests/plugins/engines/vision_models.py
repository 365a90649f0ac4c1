"""A small Idefics3 model for tests: the model of `models`, with an image encoder of random weights.

Each image becomes `IMAGE_TOKENS` tokens of the prompt. They differ from image to image, so that the
attention chooses other sentences.
"""

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tests.plugins.engines.models import FREE, HIDDEN, write_json, write_model
from tokenizers import AddedToken, Tokenizer

IMAGE_SIZE, PATCH, SCALE = 64, 8, 2  # pixels, pixels, patches
IMAGE_FEATURES = (IMAGE_SIZE // PATCH // SCALE) ** 2
WIDTH, INNER, HEADS, LAYERS = 32, 64, 2, 2  # of the image encoder
SPECIAL = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
IMAGE_TOKENS = IMAGE_FEATURES + 3
"""Tokens of the prompt for one image: its features and the three tokens around them."""

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

Json = dict[str, Any]
Weights = dict[str, NDArray[np.float32]]


def write_vision_model(folder: Path, *, context: int = 4096) -> Path:
    """Write the model into ``folder``, as a directory that any engine can load."""
    write_model(folder, context=context)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    text = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert tokenizer.get_vocab_size() <= text["vocab_size"]
    weights = _language_model(folder) | _image_encoder()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    image_token = tokenizer.token_to_id(SPECIAL[0])
    assert image_token is not None
    write_json(folder / "config.json", _config(text, image_token))
    _write_processor(folder)
    return folder


def _language_model(folder: Path) -> Weights:
    """Return the weights of the model in ``folder`` under the names of Idefics3, whose language
    model is a Llama: it has no biases, which are 0 there."""
    return {
        name.replace("model.", "model.text_model.", 1): value
        for name, value in load_file(folder / "model.safetensors").items()
        if not name.endswith("bias")
    }


def _image_encoder() -> Weights:
    random = np.random.default_rng(7)
    weights: Weights = {}

    def add(name: str, *shape: int, spread: float = 0.2) -> None:
        values = (spread * random.standard_normal(shape)).astype(np.float32)
        weights[f"model.vision_model.{name}.weight"] = values

    def add_bias(name: str, size: int) -> None:
        weights[f"model.vision_model.{name}.bias"] = np.zeros(size, np.float32)

    def add_norm(name: str) -> None:
        weights[f"model.vision_model.{name}.weight"] = np.ones(WIDTH, np.float32)
        add_bias(name, WIDTH)

    add("embeddings.patch_embedding", WIDTH, 3, PATCH, PATCH)
    add_bias("embeddings.patch_embedding", WIDTH)
    add("embeddings.position_embedding", (IMAGE_SIZE // PATCH) ** 2, WIDTH)
    for index in range(LAYERS):
        layer = f"encoder.layers.{index}"
        for name, rows, columns in (
            *((f"self_attn.{part}_proj", WIDTH, WIDTH) for part in ("q", "k", "v", "out")),
            ("mlp.fc1", INNER, WIDTH),
            ("mlp.fc2", WIDTH, INNER),
        ):
            add(f"{layer}.{name}", rows, columns)
            add_bias(f"{layer}.{name}", rows)
        add_norm(f"{layer}.layer_norm1")
        add_norm(f"{layer}.layer_norm2")
    add_norm("post_layernorm")
    projection = random.standard_normal((HIDDEN, WIDTH * SCALE**2)).astype(np.float32)
    projection[:FREE] = 0  # these dimensions have a meaning
    weights["model.connector.modality_projection.proj.weight"] = projection
    return weights


def _config(text: Json, image_token: int) -> Json:
    return {
        "architectures": ["Idefics3ForConditionalGeneration"],
        "model_type": "idefics3",
        "image_token_id": image_token,
        "scale_factor": SCALE,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "eos_token_id": text["eos_token_id"],
        "text_config": text | {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
        "vision_config": {
            "model_type": "idefics3_vision",
            "hidden_size": WIDTH,
            "intermediate_size": INNER,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH,
        },
    }


def _write_processor(folder: Path) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings |= {"chat_template": TEMPLATE, "processor_class": "Idefics3Processor"}
    write_json(folder / "tokenizer_config.json", settings)
    images = {
        "image_processor_type": "Idefics3ImageProcessor",
        "processor_class": "Idefics3Processor",
        "size": {"longest_edge": IMAGE_SIZE},
        "max_image_size": {"longest_edge": IMAGE_SIZE},
        "do_image_splitting": False,
    }
    write_json(folder / "preprocessor_config.json", images)
    processor = {"processor_class": "Idefics3Processor", "image_seq_len": IMAGE_FEATURES}
    write_json(folder / "processor_config.json", processor)


def png_header(width: int, height: int) -> bytes:
    """Return the beginning of a PNG file of this size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _png_chunk(b"IHDR", header)


def _png_chunk(name: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(name + body)
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Return an image (row × column × red, green, blue) as a PNG file."""
    height, width, _ = pixels.shape
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))
    end = _png_chunk(b"IDAT", rows) + _png_chunk(b"IEND", b"")
    return png_header(width, height) + end


def draw_png(seed: int, width: int = IMAGE_SIZE, height: int = IMAGE_SIZE) -> bytes:
    """Return a PNG file with a picture of random squares."""
    random = np.random.default_rng(seed)
    squares = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    rows = squares.repeat(-(-height // 8), 0)[:height]
    return encode_png(rows.repeat(-(-width // 8), 1)[:, :width])
