"""Checkpoint: a model, read and checked without loading it.

A checkpoint is a GGUF file, or a directory that contains ``config.json``, a tokenizer and weights
as safetensors, as the transformers library writes them. Pickled weights and models with their own
code are refused, because both can execute anything.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from palaver.errors import ConfigurationError
from palaver.models.gguf import find_gguf, read_gguf
from palaver.models.model_files import (
    Json,
    broken_file,
    check_model_files,
    check_size,
    is_file_name,
    read_json,
)

PICKLED_FILE = re.compile(r"(?!openvino_).*\.(bin|pt|pth|ckpt|pkl)")
"""Names of pickled files. OpenVINO's ``.bin`` files are not pickled."""
WEIGHTS_INDEX = "model.safetensors.index.json"
GENERATIVE_ARCHITECTURE = re.compile(r"\w+(ForCausalLM|ForConditionalGeneration|LMHeadModel)")
MAX_HEADER_BYTES = 100_000_000
"""Limit of the safetensors format."""
MAX_FRONT_MATTER_CHARACTERS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Description of a model. ``directory``: also a GGUF file. ``size``: bytes of the weights.
    ``data_type``: that of most parameters, "" when unknown. ``context``: tokens, 0 when unknown.
    ``demonstration``: the model card says that the model is too small for real use."""

    directory: Path
    architecture: str
    parameters: int
    size: int
    context: int
    languages: tuple[str, ...]
    license: str
    scores: Mapping[str, float]
    demonstration: bool
    data_type: str = ""
    is_gguf: bool = False
    has_chat_template: bool = True


def read_checkpoint(directory: Path) -> Checkpoint:
    """Read and check a model. Raises `ConfigurationError` that names the wrong file."""
    if gguf := find_gguf(directory):
        return _read_gguf_checkpoint(directory, gguf)
    if not directory.is_dir():
        raise ConfigurationError(f"there is no model directory {str(directory)!r}")
    check_model_files(directory)
    config = read_json(directory / "config.json")
    architecture = check_config(config, str(directory))
    _check_tokenizer(directory)
    weights = _find_weights(directory)
    card = _read_card(directory)
    return Checkpoint(
        directory=directory,
        architecture=architecture,
        parameters=sum(count_parameters(file) for file in weights),
        size=sum(file.stat().st_size for file in weights),
        context=_read_context(config),
        languages=_read_words(card, "languages", "language"),
        license=", ".join(_read_words(card, "license", "licence")),
        scores=_read_scores(card),
        demonstration=card.get("demonstration") is True,
    )


def _read_gguf_checkpoint(path: Path, file: Path) -> Checkpoint:
    check_model_files(path)
    gguf = read_gguf(file)
    return Checkpoint(
        directory=path,
        architecture=gguf.architecture,
        parameters=gguf.parameters,
        size=gguf.size,
        context=gguf.context,
        languages=_read_words(gguf.metadata, "general.languages"),
        license=gguf.text("general.license"),
        scores={},
        demonstration=False,
        data_type=gguf.data_type,
        is_gguf=True,
        has_chat_template=bool(gguf.chat_template),
    )


def check_config(config: Json, label: str) -> str:
    """Return the architecture in a ``config.json``. ``label`` names the model in errors.

    Raises `ConfigurationError` when the model generates no text or has its own code.
    """
    if "auto_map" in config:
        raise ConfigurationError(
            f"model {label!r} has its own code (auto_map in config.json), which is never executed"
        )
    if "speculators_config" in config:
        raise ConfigurationError(
            f"model {label!r} is a draft of another model, which vLLM would load without checks "
            "(speculators_config in config.json): add that model itself"
        )
    listed = config.get("architectures")
    architectures = listed if listed and isinstance(listed, list) else ["none"]
    for architecture in architectures:
        if GENERATIVE_ARCHITECTURE.fullmatch(str(architecture)):
            return str(architecture)
    raise ConfigurationError(
        f"model {label!r} generates no text: its architecture is {architectures[0]}"
    )


def _check_tokenizer(directory: Path) -> None:
    file = directory / "tokenizer.json"
    if file.is_file():
        check_size(file)
        try:
            Tokenizer.from_file(str(file))
        except Exception as error:
            raise broken_file(file, f"cannot be read: {error}") from error
    elif not (directory / "tokenizer.model").is_file():
        raise broken_file(file, "is missing")


# Weights


def _find_weights(directory: Path) -> list[Path]:
    """Return the weight files. Raises `ConfigurationError` when one is missing."""
    files = [directory / name for name in list_weight_files(directory)]
    for file in files:
        if not file.is_file():
            raise broken_file(file, f"is missing, which {WEIGHTS_INDEX} names")
    return files


def list_weight_files(directory: Path) -> list[str]:
    index = directory / WEIGHTS_INDEX
    if index.is_file():
        return _read_weight_map(index)
    names = [file.name for file in directory.iterdir() if file.is_file()]
    return choose_weight_files(names, str(directory))


def _read_weight_map(index: Path) -> list[str]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(map(is_file_name, names.values())):
        raise broken_file(index, "has no weight_map of plain names of files")
    return sorted(set(names.values()))


def choose_weight_files(names: list[str], label: str) -> list[str]:
    """Return the weights among a model's files. ``label`` names the model in errors.

    Raises `ConfigurationError` when all weights are pickled, or there are none.
    """
    weights = [name for name in names if name.endswith(".safetensors")]
    if weights:
        # Some publishers add the same weights again under another name.
        return sorted([name for name in weights if name.startswith("model")] or weights)
    pickles = sorted(name for name in names if PICKLED_FILE.fullmatch(name))
    if pickles:
        raise ConfigurationError(
            f"model {label!r} has only pickled weights ({pickles[0]}), which can execute code "
            "when they are loaded; use a copy with .safetensors files"
        )
    raise ConfigurationError(f"model {label!r} has no weights: there is no .safetensors file")


def count_parameters(file: Path) -> int:
    """Return the number of parameters in a safetensors file, from its header.

    Raises `ConfigurationError` when the header does not match the length of the file.
    """
    header, start = _read_header(file)
    tensors = [tensor for name, tensor in header.items() if name != "__metadata__"]
    try:
        end = start + max((tensor["data_offsets"][1] for tensor in tensors), default=0)
        parameters: int = sum(math.prod(tensor["shape"]) for tensor in tensors)
    except (KeyError, IndexError, TypeError) as error:
        raise broken_file(file, "is not a safetensors file: its header is malformed") from error
    if file.stat().st_size < end:
        raise broken_file(file, f"is truncated: it has {file.stat().st_size:_} of {end:_} bytes")
    if file.stat().st_size > end:
        raise broken_file(file, f"is too long: {file.stat().st_size:_} bytes instead of {end:_}")
    if not 0 <= parameters <= 8 * end:
        raise broken_file(file, f"cannot hold the parameters that it names in {end:_} bytes")
    return parameters


def _read_header(file: Path) -> tuple[Json, int]:
    """Return the header and the position of the first tensor in bytes."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= MAX_HEADER_BYTES:
            raise broken_file(file, "is not a safetensors file")
        text = stream.read(length)
    if len(text) < length:
        raise broken_file(file, f"is truncated: its header is longer than {8 + len(text):_} bytes")
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise broken_file(file, "is not a safetensors file: its header is not JSON") from error
    if not isinstance(header, dict):
        raise broken_file(file, "is not a safetensors file: its header is malformed")
    return header, 8 + length


# Model card


def _read_context(config: Json) -> int:
    text = config.get("text_config")
    inner = text if isinstance(text, dict) else {}
    context = config.get("max_position_embeddings") or inner.get("max_position_embeddings") or 0
    return context if isinstance(context, int) else 0


def _read_card(directory: Path) -> Json:
    """Read ``card.json``, else the front matter of ``README.md``."""
    if (directory / "card.json").is_file():
        return read_json(directory / "card.json")
    try:
        with (directory / "README.md").open(encoding="utf-8") as readme:
            return dict(_parse_front_matter(readme.read(MAX_FRONT_MATTER_CHARACTERS)))
    except (OSError, UnicodeDecodeError):
        return {}


def _parse_front_matter(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the keys of a YAML front matter with their words, which is enough for a model card."""
    first, *lines = text.splitlines() or [""]
    ends = [number for number, line in enumerate(lines) if line.startswith("---")]
    key, words = "", list[str]()
    for line in lines[: ends[0]] if first.rstrip() == "---" and ends else ():
        if item := re.match(r"\s*-\s+(\S+)\s*$", line):
            words.append(item[1].strip("'\""))
        elif pair := re.match(r"([\w-]+):\s*(.*)$", line):
            yield key, words
            key, words = pair[1], re.findall(r"[^\s\[\],'\"]+", pair[2])
    yield key, words


def _read_words(card: Mapping[str, Any], *names: str) -> tuple[str, ...]:
    value = next((card[name] for name in names if card.get(name)), ())
    return tuple(map(str, value if isinstance(value, list | tuple) else (value,)))


def _read_scores(card: Json) -> dict[str, float]:
    scores = card.get("scores")
    if not isinstance(scores, dict):
        return {}
    return {
        str(name): float(value) for name, value in scores.items() if isinstance(value, int | float)
    }
