"""Names and links in a model directory that lead out of it."""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.plugins.engines.models import write_model

from palaver import check_model_files
from palaver.errors import ConfigurationError
from palaver.models.checkpoint import WEIGHTS_INDEX, read_checkpoint
from palaver.models.model_files import MAX_JSON_BYTES
from palaver.models.registry import ModelRegistry
from palaver_plugins.engines.vllm import adapter_directory


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "models" / "walker")


def write_json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value))


OUTSIDE = ["../other.safetensors", "/etc/passwd", "a/../../b", "..", "", ".", "a\\b", "a/b", 3]


@pytest.mark.parametrize("name", OUTSIDE)
def test_the_index_of_weights_holds_plain_names(model: Path, name: object) -> None:
    write_json(model / WEIGHTS_INDEX, {"weight_map": {"a": "model.safetensors", "b": name}})
    with pytest.raises(ConfigurationError, match=WEIGHTS_INDEX):
        read_checkpoint(model)


@pytest.mark.parametrize("weight_map", [[], "model.safetensors", None, 3])
def test_an_index_of_another_form_is_refused(model: Path, weight_map: object) -> None:
    write_json(model / WEIGHTS_INDEX, {"weight_map": weight_map})
    with pytest.raises(ConfigurationError, match=WEIGHTS_INDEX):
        read_checkpoint(model)


NAMING: list[tuple[str, Any]] = [
    ("tokenizer_config.json", {"vocab_file": "/etc/passwd"}),
    ("tokenizer_config.json", {"nested": {"tokenizer_file": "../../secret"}}),
    ("tokenizer_config.json", {"fast_tokenizer_files": ["tokenizer.json", "../x.json"]}),
    ("config.json", {"inner": [{"merges_file": "../merges.txt"}]}),
    ("tokenizer_config.json", {"source_spm": "/etc/passwd"}),
    ("tokenizer_config.json", {"vocab": "../vocab.json"}),
    ("modules.json", [{"path": "../../other"}]),
    ("adapter_config.json", {"weights_file": "/tmp/x"}),
    ("pytorch_model.bin.index.json", {"weight_map": {"a": "../pytorch_model.bin"}}),
]


@pytest.mark.parametrize(("file", "value"), NAMING)
def test_no_json_file_names_a_file_outside(model: Path, file: str, value: Any) -> None:
    if isinstance(value, dict) and (model / file).exists():
        value = json.loads((model / file).read_text()) | value
    write_json(model / file, value)
    with pytest.raises(ConfigurationError, match="names a file outside the model"):
        check_model_files(model)
    with pytest.raises(ConfigurationError, match="names a file outside the model"):
        ModelRegistry(model.parent / "data", {"starter": model}).resolve("")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "1_Pooling"])
def test_no_link_leads_out_of_the_model(model: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").mkdir()
    if (model / name).exists():
        (model / name).rename(tmp_path / "outside" / name)
    (model / name).symlink_to(tmp_path / "outside" / name)
    registry = ModelRegistry(tmp_path / "data", {})
    with pytest.raises(ConfigurationError, match=f"{name} is a link to a place outside the model"):
        registry.add_directory(model, copy=True)
    with pytest.raises(ConfigurationError, match="outside the model"):
        registry.resolve(str(model))


def test_links_inside_and_those_of_the_hubs_cache_are_followed(model: Path, tmp_path: Path) -> None:
    os.symlink("model.safetensors", model / "model-again.safetensors")
    read_checkpoint(model)
    blobs, snapshot = tmp_path / "cache" / "blobs", tmp_path / "cache" / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(model.iterdir())):
        (blobs / str(number)).write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    assert read_checkpoint(snapshot).parameters > 0
    assert ModelRegistry(tmp_path / "data", {}).resolve(str(snapshot)) == snapshot


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "README.md", "sub/x"]
)
def test_a_pipe_is_not_waited_for(model: Path, name: str) -> None:
    (model / "sub").mkdir()
    (model / name).unlink(missing_ok=True)
    os.mkfifo(model / name)
    with pytest.raises(ConfigurationError, match="is neither a file nor a folder"):
        read_checkpoint(model)


@contextlib.contextmanager
def deep_folders(folder: Path) -> Iterator[None]:
    """Make 1,500 folders in each other, which pytest could not remove."""
    for depth in range(1500):
        os.mkdir(f"{folder}{'/d' * depth}")
    try:
        yield
    finally:
        subprocess.run(["rm", "-rf", folder], check=True)


@pytest.mark.slow
def test_a_deep_tree_is_refused(model: Path) -> None:
    with (
        deep_folders(model / "deep"),
        pytest.raises(ConfigurationError, match="is below more than 20 folders"),
    ):
        read_checkpoint(model)


def test_a_link_to_itself_is_like_a_missing_file(model: Path) -> None:
    (model / "notes").symlink_to("notes")
    assert read_checkpoint(model).parameters > 0
    (model / "config.json").unlink()
    (model / "config.json").symlink_to("config.json")
    with pytest.raises(ConfigurationError, match=r"config\.json cannot be read"):
        read_checkpoint(model)


def test_a_model_that_names_another_one_to_load_is_refused(model: Path) -> None:
    verifier = {"verifier": {"name_or_path": "/etc"}}
    config = json.loads((model / "config.json").read_text())
    write_json(model / "config.json", config | {"speculators_config": verifier})
    with pytest.raises(ConfigurationError, match="is a draft of another model"):
        read_checkpoint(model)


@pytest.mark.parametrize("shape", [[10**4000] * 20, [10**9, 10**9], [-1], [1e308, 10.0]])
def test_more_parameters_than_bytes_are_refused(model: Path, shape: list[float]) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
    (model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ConfigurationError, match=r"not a safetensors file: its (header|tensor)"):
        read_checkpoint(model)


@pytest.mark.parametrize("card", [{"languages": 5}, {"license": {"a": 1}}, {"scores": [1]}])
def test_a_card_of_another_form_is_read(model: Path, card: object) -> None:
    write_json(model / "card.json", card)
    assert read_checkpoint(model).scores == {}


@pytest.mark.parametrize("architectures", [{"a": 1}, 5, [], "LlamaForCausalLM"])
def test_architectures_are_a_list(model: Path, architectures: object) -> None:
    config = json.loads((model / "config.json").read_text())
    write_json(model / "config.json", config | {"architectures": architectures})
    with pytest.raises(ConfigurationError, match="generates no text"):
        read_checkpoint(model)


def test_ordinary_paths_in_a_configuration_are_no_names(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    write_json(model / "config.json", config | {"_name_or_path": "/home/me/model"})
    write_json(model / "tokenizer_config.json", {"special_tokens_map_file": "/root/x.json"})
    assert read_checkpoint(model).parameters > 0


def test_an_adapter_is_checked(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert adapter_directory(str(tmp_path)) == str(tmp_path)
    (tmp_path / "adapter_model.safetensors").symlink_to("/etc/passwd")
    with pytest.raises(ConfigurationError, match="outside the model"):
        adapter_directory(str(tmp_path))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "{", "\ud800", "3"])
def test_a_broken_json_file_is_named(model: Path, text: str) -> None:
    (model / "config.json").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(ConfigurationError, match=r"config\.json"):
        read_checkpoint(model)


def test_an_index_of_the_registry_with_a_path_is_refused(model: Path, tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "data", {})
    registry.add_directory(model, copy=True)
    index = tmp_path / "data" / "models" / "models.json"
    index.write_text(index.read_text().replace('"walker",', '"../../victim",'))
    victim = tmp_path / "victim"
    victim.mkdir()
    with pytest.raises(ConfigurationError, match="which is neither a name nor an absolute path"):
        registry.remove("walker")
    assert victim.is_dir()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_json_file_has_a_limit(model: Path, name: str) -> None:
    os.truncate(model / name, MAX_JSON_BYTES + 1)
    with pytest.raises(ConfigurationError, match=rf"{name} is larger than 200_000_000 bytes"):
        read_checkpoint(model)
