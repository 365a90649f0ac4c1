"""Checkpoint: a model, read and checked without loading it.

A checkpoint is a GGUF file, or a directory that contains ``config.json``, a tokenizer and weights
as safetensors, as the transformers library writes them. Pickled weights and models with their own
code are refused, because both can execute anything.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from palaver.engine import Task, TaskReach
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
from palaver.models.safetensors import Weights, read_weights

PICKLED_FILE = re.compile(r"(?!openvino_).*\.(bin|pt|pth|ckpt|pkl)")
"""Names of pickled files. OpenVINO's ``.bin`` files are not pickled."""
WEIGHTS_INDEX = "model.safetensors.index.json"
CODE_NAMING_FILES = (
    "config.json",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
)
"""Files in which ``auto_map`` names Python code of the model."""
EMBEDDING = re.compile(r"(.*\.)?(embed_tokens|wte|word_embeddings|embed_in|tok_embeddings)\.weight")
"""Names of the table that has a row for each token."""
GENERATIVE_ARCHITECTURE = re.compile(r"\w+(ForCausalLM|ForConditionalGeneration|LMHeadModel)")
MAX_FRONT_MATTER_CHARACTERS = 100_000
MAX_SCORE = 1e15
_TASKS = dict[Task, TaskReach]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Description of a model. ``directory``: also a GGUF file. ``size``: bytes of the weights.
    ``data_type``: of most parameters, with the method of quantisation if there is one. ``context``:
    tokens, 0 when unknown. ``embeddings``: the tokens that the weights have a vector for, 0 when
    unknown. ``demonstration``: the model card says that the model is too small for real use.
    ``reach``: the tasks that it was made for, None: any."""

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
    embeddings: int = 0
    is_gguf: bool = False
    has_chat_template: bool = True
    reach: Mapping[Task, TaskReach] | None = None


def read_checkpoint(directory: Path) -> Checkpoint:
    """Read and check a model. Raises `ConfigurationError` that names the wrong file."""
    if gguf := find_gguf(directory):
        return _read_gguf_checkpoint(directory, gguf)
    if not directory.is_dir():
        raise ConfigurationError(f"there is no model directory {str(directory)!r}")
    check_model_files(directory)
    config = read_json(directory / "config.json")
    architecture = check_config(config, str(directory))
    check_code(directory)
    tokenizers = [directory / name for name in ("tokenizer.json", "tokenizer.model")]
    if not any(file.is_file() for file in tokenizers):
        raise broken_file(tokenizers[0], "is missing")
    for file in filter(Path.is_file, tokenizers):
        check_size(file)
    files = _find_weights(directory)
    weights = [read_weights(file) for file in files]
    card = _read_card(directory)
    return Checkpoint(
        directory=directory,
        architecture=architecture,
        parameters=sum(sum(it.elements.values()) for it in weights),
        size=sum(file.stat().st_size for file in files),
        data_type=_find_data_type(weights, config),
        context=_read_context(config),
        embeddings=_count_embeddings(weights),
        languages=_read_words(card, "languages", "language"),
        license=", ".join(_read_words(card, "license", "licence")),
        scores=_read_scores(card),
        demonstration=card.get("demonstration") is True,
        reach=_read_reach(card, directory),
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


def check_code(directory: Path) -> None:
    """Raise `ConfigurationError` when the model has its own code, which ``auto_map`` names."""
    for name in CODE_NAMING_FILES:
        file = directory / name
        if file.is_file() and "auto_map" in read_json(file):
            raise ConfigurationError(
                f"model {str(directory)!r} has its own code (auto_map in {name}), which is never "
                "executed"
            )


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
    if not (names and isinstance(names, dict) and all(map(is_file_name, names.values()))):
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


def _find_data_type(weights: Sequence[Weights], config: Json) -> str:
    """Return the data type of most parameters, and the method of quantisation."""
    elements = sum((Counter(it.elements) for it in weights), Counter[str]())
    names = [name for name, _ in elements.most_common(1)]
    quantization = config.get("quantization_config")
    if isinstance(quantization, dict):
        names.append(str(quantization.get("quant_method", "quantised"))[:40])
    return ", ".join(names)


def _count_embeddings(weights: Sequence[Weights]) -> int:
    rows = (
        shape[0]
        for it in weights
        for name, shape in it.shapes.items()
        if shape and EMBEDDING.fullmatch(name)
    )
    return max(rows, default=0)


# Model card


def _read_context(config: Json) -> int:
    text = config.get("text_config")
    inner = text if isinstance(text, dict) else {}
    context = config.get("max_position_embeddings") or inner.get("max_position_embeddings") or 0
    return context if isinstance(context, int) else 0


def read_reach(directory: Path) -> Mapping[Task, TaskReach] | None:
    """Return the tasks that the model of a directory was made for, None: any. Raises
    `ConfigurationError`."""
    return _read_reach(_read_card(directory), directory)


def _read_reach(card: Json, directory: Path) -> Mapping[Task, TaskReach] | None:
    if card.get("reach") is None:
        return None
    try:
        return msgspec.convert(card["reach"], _TASKS)
    except msgspec.ValidationError as error:
        raise broken_file(directory / "card.json", f"has a wrong 'reach': {error}") from error


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
        str(name): float(value)
        for name, value in scores.items()
        if isinstance(value, int | float) and abs(value) < MAX_SCORE
    }
