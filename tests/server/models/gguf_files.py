"""GGUF files of a few bytes, written by hand, to be damaged."""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TYPES: dict[type, tuple[int, str]] = {int: (4, "<I"), bool: (7, "<?"), float: (6, "<f")}
METADATA: dict[str, Any] = {  # Any: numbers, texts, lists of them
    "general.architecture": "llama",
    "general.type": "model",
    "general.license": "apache-2.0",
    "general.languages": ["en", "de"],
    "llama.context_length": 8192,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": [f"token {number}" for number in range(2000)],
    "tokenizer.ggml.scores": [0.5] * 2000,
    "tokenizer.chat_template": "{{ messages }}",
}
Tensor = tuple[str, list[int], int, int]  # name, shape, type, bytes
TENSORS: tuple[Tensor, ...] = (
    ("token_embd.weight", [64, 10], 3, 400),
    ("output_norm.weight", [64], 0, 256),
)


def write_header_file(
    file: Path, tensors: tuple[Tensor, ...] = TENSORS, version: int = 3, **metadata: Any
) -> Path:
    """Write a file with `METADATA`, changed by ``metadata``: its names have ``__`` for a dot, and
    None leaves a key out."""
    changes = {key.replace("__", "."): value for key, value in metadata.items()}
    keys = {key: value for key, value in (METADATA | changes).items() if value is not None}
    data = encode_header(keys, tensors, version)
    data += b"\0" * (-len(data) % 32)
    file.write_bytes(data + b"\0" * sum(-(-size // 32) * 32 for *_, size in tensors))
    return file


def encode_header(keys: Mapping[str, Any], tensors: tuple[Tensor, ...], version: int) -> bytes:
    data = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys))
    for key, value in keys.items():
        kind, content = encode_value(value)
        data += encode_text(key) + struct.pack("<I", kind) + content
    offset = 0
    for name, shape, kind, size in tensors:
        data += encode_text(name) + struct.pack(
            f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset
        )
        offset += -(-size // 32) * 32
    return data


def encode_value(value: Any) -> tuple[int, bytes]:
    if isinstance(value, str):
        return 8, encode_text(value)
    if isinstance(value, list):
        inner = [encode_value(item) for item in value]
        kind = inner[0][0] if inner else 4
        return 9, struct.pack("<IQ", kind, len(value)) + b"".join(data for _, data in inner)
    kind, form = TYPES[type(value)]
    return kind, struct.pack(form, value)


def encode_text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
