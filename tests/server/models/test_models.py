"""The models of a data directory, and the errors about incomplete models."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.plugins.engines.models import damage_model, write_model

from palaver.cli import main
from palaver.engine import TaskReach
from palaver.errors import ConfigurationError, Conflict, InvalidInput, NotFound
from palaver.models.chat_check import check_model
from palaver.models.checkpoint import WEIGHTS_INDEX, read_checkpoint, read_reach
from palaver.models.registry import ModelRegistry, check_free_space, shipped_models

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "walker")


@pytest.fixture
def model(complete: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may damage."""
    directory = tmp_path / "walker"
    directory.mkdir()
    for file in complete.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    return directory


@pytest.fixture
def registry(complete: Path, tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(tmp_path / "data", {"starter": complete})


def palaver(tmp_path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, [f"--set=server.data={tmp_path / 'data'}", *arguments])


# The registry


def test_the_shipped_model_is_the_first_current_model(
    registry: ModelRegistry, complete: Path
) -> None:
    assert registry.current == "starter"
    assert registry.resolve("") == registry.resolve("starter") == complete


def test_a_package_names_its_model_in_its_metadata(
    complete: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = tmp_path / "vendor-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: vendor\nVersion: 1.0\n")
    points = "[palaver.models]\nsmall = vendor_models.small\nlost = nowhere_models.lost\n"
    (metadata / "entry_points.txt").write_text(points)
    package = tmp_path / "vendor_models"
    package.mkdir()
    (package / "__init__.py").touch()
    os.symlink(complete, package / "small")
    monkeypatch.syspath_prepend(tmp_path)
    assert shipped_models()["small"] == package / "small"
    assert "lost" not in shipped_models()


def test_a_model_is_registered_in_place(registry: ModelRegistry, model: Path) -> None:
    assert registry.add_directory(model) == "walker"
    assert registry.resolve("walker") == model
    assert registry.changed_files("walker") == []
    assert not registry.remove("walker")
    assert model.is_dir()
    assert list(registry.models()) == ["starter"]


def test_a_copy_belongs_to_the_data_directory(
    registry: ModelRegistry, model: Path, tmp_path: Path
) -> None:
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04")
    registry.add_directory(model, "mine", copy=True)
    damage_model(model, "empty")
    copy = registry.resolve("mine")
    assert read_checkpoint(copy).architecture == "Qwen2ForCausalLM"
    assert not (copy / "pytorch_model.bin").exists()
    (tmp_path / "data").rename(tmp_path / "moved")
    moved = ModelRegistry(tmp_path / "moved", {})
    assert read_checkpoint(moved.resolve("mine")).parameters > 0
    assert moved.remove("mine")
    assert not (tmp_path / "moved" / "models" / "mine").exists()


def test_a_chosen_model_is_current_for_every_process(
    registry: ModelRegistry, model: Path, tmp_path: Path
) -> None:
    registry.add_directory(model)
    registry.use("walker")
    assert ModelRegistry(tmp_path / "data", {}).resolve("") == model


def test_the_current_model_is_removed_by_force_only(registry: ModelRegistry, model: Path) -> None:
    registry.add_directory(model)
    registry.use("walker")
    with pytest.raises(Conflict, match="model 'walker' is the current one; --force removes it"):
        registry.remove("walker")
    registry.remove("walker", force=True)
    assert registry.current == "starter"


def test_a_shipped_model_cannot_be_removed(registry: ModelRegistry) -> None:
    with pytest.raises(InvalidInput, match="model 'starter' is part of an installed package"):
        registry.remove("starter", force=True)


def test_a_path_is_a_model_too(registry: ModelRegistry, model: Path) -> None:
    assert registry.resolve(str(model)) == model


def test_an_unknown_name_is_reported_with_the_known_names(registry: ModelRegistry) -> None:
    with pytest.raises(ConfigurationError) as caught:
        registry.resolve("big")
    assert str(caught.value) == (
        "there is no model 'big'; there are: starter. See: palaver models add --help"
    )
    with pytest.raises(NotFound, match=r"there is no model 'big'; there are: starter\."):
        registry.use("big")


@pytest.mark.parametrize("name", ["starter", "walker"])
def test_a_name_is_unique(registry: ModelRegistry, model: Path, name: str) -> None:
    registry.add_directory(model)
    with pytest.raises(Conflict, match=f"there is a model '{name}' already; choose another"):
        registry.add_directory(model, name)


@pytest.mark.parametrize("name", ["..", "a/b", ".hidden", "-x", "a b"])
def test_a_name_is_no_path(registry: ModelRegistry, model: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be a model's name"):
        registry.add_directory(model, name)


def test_a_changed_file_is_reported(registry: ModelRegistry, model: Path) -> None:
    registry.add_directory(model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"rope_theta": 5}))
    (model / "tokenizer_config.json").unlink()
    assert registry.changed_files("walker") == ["config.json", "tokenizer_config.json"]


def test_a_model_larger_than_the_free_space_is_refused_before_the_download(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"GB free, but the model needs 1000000\.0 GB"):
        check_free_space(tmp_path, 10**15)


def test_a_broken_index_is_named(registry: ModelRegistry, tmp_path: Path) -> None:
    (tmp_path / "data" / "models").mkdir(parents=True)
    (tmp_path / "data" / "models" / "models.json").write_text("{")
    with pytest.raises(ConfigurationError, match=r"models\.json cannot be read"):
        registry.resolve("")


# What is checked


def edit_config(**changes: object) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps(config | changes))

    return edit


def pickled(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def too_long(directory: Path) -> None:
    with (directory / "model.safetensors").open("ab") as file:
        file.write(b"more")


def no_header(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")


def lost_shard(directory: Path) -> None:
    weights = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (directory / WEIGHTS_INDEX).write_text(json.dumps({"weight_map": weights}))
    (directory / "model.safetensors").rename(directory / "model-1.safetensors")


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda d: damage_model(d, "no config"), "model {d!r}: config.json is missing"),
        (lambda d: damage_model(d, "empty"), "model {d!r}: config.json is missing"),
        (
            lambda d: damage_model(d, "truncated weights"),
            "model {d!r}: model.safetensors is truncated: it has 5_000 of 1_055_952 bytes",
        ),
        (
            lambda d: damage_model(d, "bad tokenizer"),
            (
                "model {d!r}: its tokenizer.json cannot be read: key must be a string at line 1 "
                "column 2"
            ),
        ),
        (
            lambda d: (d / "tokenizer.json").unlink(),
            "model {d!r}: tokenizer.json is missing",
        ),
        (
            too_long,
            "model {d!r}: model.safetensors is too long: 1_055_956 bytes instead of 1_055_952",
        ),
        (no_header, "model {d!r}: model.safetensors is not a safetensors file"),
        (
            lost_shard,
            "model {d!r}: model-2.safetensors is missing, which model.safetensors.index.json names",
        ),
        (
            pickled,
            (
                "model {d!r} has only pickled weights (pytorch_model.bin), which can execute code "
                "when they are loaded; use a copy with .safetensors files"
            ),
        ),
        (
            lambda d: (d / "model.safetensors").unlink(),
            "model {d!r} has no weights: there is no .safetensors file",
        ),
        (
            edit_config(auto_map={"AutoModel": "x.X"}),
            "model {d!r} has its own code (auto_map in config.json), which is never executed",
        ),
        (
            edit_config(architectures=["BertModel"]),
            "model {d!r} generates no text: its architecture is BertModel",
        ),
    ],
)
def test_an_incomplete_model_is_reported_with_its_file(
    model: Path, harm: Callable[[Path], None], sentence: str
) -> None:
    harm(model)
    with pytest.raises(ConfigurationError) as caught:
        check_model(model)
    assert str(caught.value) == sentence.format(d=str(model))


def test_weights_truncated_in_their_header_are_reported(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ConfigurationError, match="truncated: its header is longer than 100 bytes"):
        read_checkpoint(model)


def test_the_model_card_is_read(model: Path) -> None:
    card = {
        "demonstration": True,
        "license": "Apache-2.0",
        "languages": ["en", "de"],
        "scores": {"qa": 0.71},
        "reach": {"translation": {"languages": ["en", "de"], "words": 8, "confidence": 0.5}},
    }
    (model / "card.json").write_text(json.dumps(card))
    read = read_checkpoint(model)
    assert read.demonstration
    assert (read.license, read.languages, read.scores) == ("Apache-2.0", ("en", "de"), {"qa": 0.71})
    assert read.context == 4096
    assert read.parameters * 4 <= read.size
    reach = TaskReach(languages=("en", "de"), words=8, confidence=0.5)
    assert read.reach == read_reach(model) == {"translation": reach}


def test_a_card_without_a_reach_limits_nothing(model: Path) -> None:
    (model / "card.json").write_text('{"license": "MIT"}')
    assert read_checkpoint(model).reach is None


@pytest.mark.parametrize(
    ("reach", "problem"),
    [
        ({"singing": {}}, "Invalid enum value 'singing'"),
        ({"translation": {"words": "many"}}, "Expected `int`, got `str`"),
        (["translation"], "Expected `object`, got `array`"),
    ],
)
def test_a_card_with_a_wrong_reach_is_reported(model: Path, reach: object, problem: str) -> None:
    (model / "card.json").write_text(json.dumps({"reach": reach}))
    with pytest.raises(ConfigurationError, match="json has a wrong 'reach'") as caught:
        read_checkpoint(model)
    assert problem in str(caught.value)


def test_what_a_model_was_made_for_is_told(model: Path, tmp_path: Path) -> None:
    reach = {"passages": {"requests": ["en"]}, "translation": {"languages": ["en"], "words": 8}}
    (model / "card.json").write_text(json.dumps({"reach": reach}))
    palaver(tmp_path, "models", "add", str(model), "--name", "mine")
    info = palaver(tmp_path, "models", "info", "mine").output
    assert "made for      passages (en), translation (en 8 words)" in info


# The command line


def test_models_are_added_chosen_and_listed(model: Path, tmp_path: Path) -> None:
    added = palaver(tmp_path, "models", "add", str(model), "--name", "mine")
    assert added.output.splitlines()[0].startswith("Added 'mine': Qwen2ForCausalLM, 26")
    assert added.output.splitlines()[1] == "Choose it with: palaver models use mine"
    assert palaver(tmp_path, "models", "use", "mine").exit_code == 0
    listed = palaver(tmp_path, "models", "list").output
    assert "* mine" in listed
    info = palaver(tmp_path, "models", "info", "--verify").output
    assert f"source        directory {model}" in info
    assert "context       4096 tokens" in info
    removed = palaver(tmp_path, "models", "remove", "mine", "--force")
    assert removed.output == f"Removed 'mine'; its files stay in {model}.\n"


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (("use", "big"), 2, "palaver: there is no model 'big'; there are: "),
        (("remove", "big"), 2, "palaver: there is no model 'big'; there are: "),
        (("add", "big"), 2, "palaver: 'big' is neither a file, nor a directory, nor of the form"),
    ],
)
def test_a_failure_is_one_line(
    tmp_path: Path, arguments: tuple[str, ...], status: int, sentence: str
) -> None:
    pytest.importorskip("huggingface_hub")
    result = palaver(tmp_path, "models", *arguments)
    assert result.exit_code == status
    assert result.stderr.startswith(sentence)
    assert len(result.stderr.splitlines()) == 1


def test_a_damaged_model_is_neither_added_nor_chosen(model: Path, tmp_path: Path) -> None:
    palaver(tmp_path, "models", "add", str(model))
    damage_model(model, "truncated weights")
    used = palaver(tmp_path, "models", "use", "walker")
    assert used.exit_code == 78
    assert "model.safetensors is truncated" in used.stderr
    assert "model.safetensors is truncated" in palaver(tmp_path, "models", "list").output
    assert palaver(tmp_path, "models", "add", str(model), "--name", "two").exit_code == 78
    (model / "config.json").write_text("{}")
    verified = palaver(tmp_path, "models", "info", "walker", "--verify")
    assert verified.exit_code == 78


def test_the_models_of_the_settings_are_checked_and_shown(model: Path, tmp_path: Path) -> None:
    palaver(tmp_path, "models", "add", str(model))
    small = ("--set=engine.models.small.use=openvino", "--set=engine.models.small.model=walker")
    listed = palaver(tmp_path, *small, "models", "list").output
    assert "used by engine.openvino.model" in listed
    assert "used by engine.models.small.model" in listed
    checked = palaver(tmp_path, *small, "--set=skills.chat.model=small", "check").output
    assert "engine.models.small.model: walker (Qwen2ForCausalLM, " in checked
    assert "engine 'openvino' of the model 'small': not loaded; --engine loads" in checked
    refused = palaver(tmp_path, *small, "models", "remove", "walker")
    assert refused.stderr == (
        "palaver: model 'walker' is used by engine.models.small.model; --force removes it anyway\n"
    )
    damage_model(model, "truncated weights")
    broken = palaver(tmp_path, *small, "check")
    assert "engine.models.small.model: model " in broken.output
    assert broken.exit_code == 78
    assert palaver(tmp_path, *small, "models", "remove", "walker", "--force").exit_code == 0
