"""Embedder ``sentence_transformers``: models of sentence-transformers, run by OpenVINO on a CPU.

A model is a directory as sentence-transformers writes it, with the network for OpenVINO or ONNX in
it, in full or in eight bits. A network that is there only as safetensors is converted once, with
torch.
"""

import asyncio
import hashlib
import importlib.util
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pydantic

from palaver import (
    Backend,
    BuildContext,
    ConfigurationError,
    Embedder,
    EmbedderInfo,
    PluginSettings,
    check_model_files,
    hookimpl,
)
from palaver_plugins.engines.encoders import Pooling, max_text_tokens, read_pooling
from palaver_plugins.engines.tokenization import load_tokenizer, read_optional_json
from palaver_plugins.optional_packages import import_packages

log = logging.getLogger(__name__)

NAME = "sentence_transformers"
NETWORKS = (
    *("openvino/openvino_model.xml", "openvino_model.xml"),
    *("onnx/model.onnx", "model.onnx"),
)
"""Where the network may be, in the order of preference."""
UNSUPPORTED_MODULES = ("Dense", "WordEmbeddings", "CNN", "LSTM", "BoW", "CLIPModel")
"""Modules of sentence-transformers that would change the vectors, and that are not computed."""
BATCH_SIZE = 16
Untyped = Any  # the packages of OpenVINO have no usable types
Matrix = npt.NDArray[np.float32]


class SentenceTransformersSettings(PluginSettings):
    """``[embedding.sentence_transformers]``."""

    model: str = ""
    """Directory of the model."""
    network: str = ""
    """File in it, such as ``onnx/model_qint8_avx512.onnx``; empty: the first of
    ``openvino/openvino_model.xml`` and ``onnx/model.onnx`` that is there."""
    threads: int = pydantic.Field(default=1, ge=1)
    """Threads for computing."""
    prompt: str = ""
    """Text before every text, which some models want, such as ``query: ``."""


class LoadedModel(NamedTuple):
    tokenizer: Untyped  # tokenizers.Tokenizer
    network: Untyped  # openvino.CompiledModel
    inputs: frozenset[str]
    pooling: Pooling


class SentenceTransformersEmbedder:
    """`Embedder` with a thread of its own, which loads the model and computes."""

    def __init__(self, settings: SentenceTransformersSettings, build_context: BuildContext) -> None:
        self._settings = settings
        self._cache = build_context.data_directory / "cache" / NAME
        self._thread: ThreadPoolExecutor | None = None
        self._model: LoadedModel | None = None

    @property
    def threads(self) -> int:
        """Return the number of threads that compute; 0 before `start` and after `close`."""
        return int(self._model.network.get_property("INFERENCE_NUM_THREADS")) if self._model else 0

    async def start(self) -> EmbedderInfo:
        thread = ThreadPoolExecutor(1, thread_name_prefix="palaver-embedder")
        loop = asyncio.get_running_loop()
        try:
            self._model, identity = await loop.run_in_executor(thread, self._load)
        except BaseException:
            thread.shutdown(wait=False)
            raise
        self._thread = thread
        return EmbedderInfo(model=identity)

    async def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._thread = None
        self._model = None

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        if self._thread is None or self._model is None:
            raise RuntimeError("the embedder is not started")
        prompted = [self._settings.prompt + text for text in texts]
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, encode, self._model, prompted)

    def _load(self) -> tuple[LoadedModel, str]:
        folder = find_folder(self._settings.model)
        pooling = read_pooling(folder)
        tokenizer = load_tokenizer(folder)
        tokenizer.enable_truncation(max_text_tokens(read_positions(folder), folder))
        file = self._find_network(folder)
        (openvino,) = import_packages("embedder", "openvino", "openvino")
        try:
            network = openvino.Core().compile_model(
                str(file), "CPU", {"INFERENCE_NUM_THREADS": self._settings.threads}
            )
        except RuntimeError as error:
            raise ConfigurationError(f"model {str(folder)!r}: {file.name}: {error}") from error
        names = frozenset(name for port in network.inputs for name in port.names)
        return LoadedModel(tokenizer, network, names, pooling), self._identify(folder, file)

    def _find_network(self, folder: Path) -> Path:
        if self._settings.network:
            file = folder / self._settings.network
            if not file.is_file():
                raise ConfigurationError(f"model {str(folder)!r} has no {self._settings.network}")
            return file
        for name in NETWORKS:
            if (folder / name).is_file():
                return folder / name
        return convert_cached(folder, self._cache)

    def _identify(self, folder: Path, file: Path) -> str:
        """Return a name that changes whenever the vectors do."""
        digest = hashlib.sha256(self._settings.prompt.encode())
        for part in (file, file.with_suffix(".bin"), folder / "tokenizer.json"):
            if part.is_file():
                with part.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
        return f"{folder.name} {digest.hexdigest()[:16]}"


def find_folder(model: str) -> Path:
    """Return the model's directory. Raises `ConfigurationError` for one that cannot be used."""
    if not model:
        raise ConfigurationError(
            f"embedding.{NAME}.model is not set: name the directory of a model"
        )
    folder = Path(model).expanduser()
    if not folder.is_dir():
        raise ConfigurationError(f"embedding.{NAME}.model: there is no directory {model!r}")
    check_model_files(folder)
    for module in read_modules(folder):
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind in UNSUPPORTED_MODULES:
            raise ConfigurationError(
                f"model {model!r} has the module {kind!r}, which embedder {NAME!r} does not compute"
            )
    return folder


def read_modules(folder: Path) -> list[dict[str, Any]]:
    """Return the modules of sentence-transformers; none where the directory names none."""
    file = folder / "modules.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    return [module for module in found if isinstance(module, dict)]


def read_positions(folder: Path) -> int | None:
    positions = read_optional_json(folder / "config.json").get("max_position_embeddings")
    return positions if isinstance(positions, int) else None


def convert_cached(folder: Path, cache: Path) -> Path:
    """Return the network of a model that is there only as safetensors, converted once.

    Raises `ConfigurationError` when that fails; torch and transformers must be installed.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ConfigurationError(
            f"model {str(folder)!r} has none of {', '.join(NETWORKS)} and no *.safetensors"
        )
    state = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    key = hashlib.sha256(repr([str(folder.resolve()), state]).encode()).hexdigest()[:24]
    target = cache / f"{key}.xml"
    if not target.is_file():
        log.info("converting %r once", str(folder))
        cache.mkdir(parents=True, exist_ok=True)
        convert_in_process(folder, target)
    return target


def convert_in_process(folder: Path, target: Path) -> None:
    """Convert in a process of its own, which frees the memory of torch. Raises as
    `convert_cached`."""
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise ConfigurationError(
                f"model {str(folder)!r} has none of {', '.join(NETWORKS)}; to convert it, install "
                "torch with: pip install 'palaver-server[transformers]'"
            )
    command = [sys.executable, "-W", "ignore", "-m", __name__, str(folder), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        problem = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise ConfigurationError(f"model {str(folder)!r} cannot be converted: {problem}")


def convert(folder: str, target: str) -> None:
    """Write the network ``target`` of OpenVINO, and its weights beside it."""
    import openvino
    import torch
    import transformers

    model = transformers.AutoModel.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    ).eval()
    ids = torch.ones((1, 4), dtype=torch.long)
    network = openvino.convert_model(model, example_input={"input_ids": ids, "attention_mask": ids})
    fresh = Path(target).with_name(f"fresh-{os.getpid()}.xml")
    openvino.save_model(network, str(fresh))
    fresh.with_suffix(".bin").rename(Path(target).with_suffix(".bin"))
    fresh.rename(target)


def encode(model: LoadedModel, texts: Sequence[str]) -> list[list[float]]:
    """Return one vector of unit length per text."""
    vectors: list[list[float]] = []
    for start in range(0, len(texts), BATCH_SIZE):
        rows = model.tokenizer.encode_batch(list(texts[start : start + BATCH_SIZE]))
        width = max(1, *(len(row.ids) for row in rows))
        ids, mask = (np.zeros((len(rows), width), dtype=np.int64) for _ in range(2))
        for place, row in enumerate(rows):
            ids[place, : len(row.ids)] = row.ids
            mask[place, : len(row.ids)] = 1
        given = {
            "input_ids": ids,
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(ids),
        }
        inputs = {name: value for name, value in given.items() if name in model.inputs}
        states: Matrix = model.network(inputs)[0]
        vectors += pool(states, mask, model.pooling).tolist()
    return vectors


def pool(states: Matrix, mask: npt.NDArray[np.int64], pooling: Pooling) -> Matrix:
    """Return the unit vectors of the texts (text × dimension) from the states of their tokens
    (text × token × dimension)."""
    match pooling:
        case "first":
            pooled = states[:, 0]
        case "last":
            pooled = states[np.arange(len(states)), np.maximum(mask.sum(-1) - 1, 0)]
        case "mean":
            shares = mask[..., None].astype(np.float32)
            pooled = (states * shares).sum(1) / np.maximum(shares.sum(1), 1)
    lengths = np.linalg.norm(pooled, axis=-1, keepdims=True)
    return np.asarray(pooled / np.maximum(lengths, 1e-12), dtype=np.float32)


@hookimpl
def palaver_register_embedders() -> Iterable[Backend[Embedder]]:
    return [
        Backend(
            name=NAME,
            settings=SentenceTransformersSettings,
            build=SentenceTransformersEmbedder,
        )
    ]


if __name__ == "__main__":
    convert(*sys.argv[1:])
