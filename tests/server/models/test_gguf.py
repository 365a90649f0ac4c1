"""Models that are GGUF files: their headers, and their place in the registry."""

import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.proof_settings import SEED
from tests.server.models.gguf_files import METADATA, TENSORS, encode_text, write_header_file

from palaver.cli import main
from palaver.errors import ConfigurationError, Conflict, InvalidInput
from palaver.models.checkpoint import read_checkpoint
from palaver.models.gguf import find_gguf, read_gguf, shard_names
from palaver.models.registry import ModelRegistry

pytestmark = pytest.mark.slow


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_header_file(tmp_path / "tiny.Q4_1.gguf")


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(tmp_path / "data", {})


def palaver(tmp_path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, [f"--set=server.data={tmp_path / 'data'}", *arguments])


# The header


def test_the_header_describes_the_model(file: Path) -> None:
    model = read_checkpoint(file)
    assert (model.architecture, model.parameters, model.data_type) == ("llama", 704, "Q4_1")
    assert (model.context, model.license, model.languages) == (8192, "apache-2.0", ("en", "de"))
    assert (model.size, model.has_chat_template) == (file.stat().st_size, True)


def test_large_arrays_are_kept_only_where_they_are_wanted(file: Path) -> None:
    assert "tokenizer.ggml.tokens" not in read_gguf(file).metadata
    metadata = read_gguf(file, {"tokenizer.ggml.tokens"}).metadata
    assert metadata["tokenizer.ggml.tokens"] == METADATA["tokenizer.ggml.tokens"]
    assert "tokenizer.ggml.scores" not in metadata


def overwrite(file: Path, position: int, content: bytes) -> None:
    data = bytearray(file.read_bytes())
    data[position : position + len(content)] = content
    file.write_bytes(data)


def cut(file: Path, length: int) -> None:
    file.write_bytes(file.read_bytes()[:length])


FIRST_KEY = 24
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda it: it.write_bytes(b""), "is empty"),
    "other format": (lambda it: it.write_bytes(b"PK\3\4" + b"\0" * 99), "is not a GGUF file"),
    "before GGUF": (lambda it: it.write_bytes(b"tjgg" + b"\0" * 99), "the format before GGUF"),
    "git lfs": (lambda it: it.write_bytes(b"version https://git-lfs"), "run git lfs pull"),
    "magic alone": (lambda it: it.write_bytes(b"GGUF"), "is truncated"),
    "header cut": (lambda it: cut(it, 300), "is truncated: its header is longer than 300 bytes"),
    "tensors cut": (lambda it: cut(it, it.stat().st_size - 64), "is truncated: it has"),
    "version 1": (lambda it: overwrite(it, 4, b"\1"), "version 1 of GGUF"),
    "version 9": (lambda it: overwrite(it, 4, b"\x09"), "version 9 of GGUF"),
    "big-endian": (lambda it: overwrite(it, 4, b"\0\0\0\3"), "big-endian"),
    "tensors without end": (lambda it: overwrite(it, 8, b"\xff" * 8), "is no model"),
    "keys without end": (lambda it: overwrite(it, 16, b"\xff" * 8), "is no model"),
    "long text": (lambda it: overwrite(it, FIRST_KEY, b"\xff" * 8), "in its header"),
    "unknown value": (lambda it: overwrite(it, FIRST_KEY + 28, b"\x63"), "of the unknown type 99"),
    "length 0": (
        lambda it: write_header_file(it, (*TENSORS, ("blk.0.attn_q.weight", [0, 64], 0, 0))),
        "impossible shape",
    ),
    "half a block": (
        lambda it: write_header_file(it, (("token_embd.weight", [65, 10], 3, 400),)),
        "impossible shape",
    ),
    "unknown tensor": (
        lambda it: write_header_file(it, (("token_embd.weight", [64], 77, 64),)),
        "a tensor of the unknown type 77",
    ),
    "many dimensions": (
        lambda it: write_header_file(it, (("token_embd.weight", [2] * 9, 0, 64),)),
        "9 dimensions",
    ),
    "alignment": (lambda it: write_header_file(it, general__alignment=0), "alignment"),
    "no architecture": (
        lambda it: write_header_file(it, general__architecture=None),
        "names no architecture",
    ),
    "adapter": (lambda it: write_header_file(it, general__type="adapter"), "is an adapter"),
    "projector": (lambda it: write_header_file(it, general__architecture="clip"), "mmproj"),
    "other type": (lambda it: write_header_file(it, general__type="imatrix"), "type 'imatrix'"),
    "vocabulary": (lambda it: write_header_file(it, ()), "a vocabulary alone"),
    "no vocabulary": (
        lambda it: write_header_file(it, tokenizer__ggml__model=None),
        "has no vocabulary",
    ),
    "encoder": (lambda it: write_header_file(it, general__architecture="bert"), "embedding model"),
    "pooling": (lambda it: write_header_file(it, llama__pooling_type=3), "embedding model"),
    "shard": (lambda it: write_header_file(it, split__count=3), "-00001-of-00003.gguf"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_cannot_be_used_gets_one_sentence(
    file: Path, tmp_path: Path, damage: str
) -> None:
    """At ``add``, and when it was damaged later, also at ``use`` and ``check``."""
    assert palaver(tmp_path, "models", "add", str(file), "--name", "first").exit_code == 0
    change, expected = DAMAGES[damage]
    change(file)
    for command in (("add", str(file)), ("use", "first"), ("list",)):
        result = palaver(tmp_path, "models", *command)
        assert isinstance(result.exception, SystemExit | None)
        assert "tiny.Q4_1.gguf" in result.output
        assert expected in result.output
        assert result.exit_code == (0 if command == ("list",) else 78)
    shown = palaver(tmp_path, "--set=engine.openvino.model=first", "check")
    assert expected in shown.output


def test_a_file_with_random_damage_is_read_or_refused(file: Path) -> None:
    whole, chance = file.read_bytes(), random.Random(SEED)
    for _ in range(2_000):
        damaged = bytearray(whole)
        for _ in range(chance.randrange(1, 9)):
            damaged[chance.randrange(4, min(len(whole), 900))] = chance.randrange(256)
        file.write_bytes(damaged)
        try:
            read_checkpoint(file)
        except ConfigurationError as error:
            assert "tiny.Q4_1.gguf" in str(error)  # noqa: PT017  no error is right, too


def test_arrays_that_claim_more_than_the_file_holds_are_not_allocated(tmp_path: Path) -> None:
    for kind in (0, 8, 12):
        file = tmp_path / f"{kind}.gguf"
        array = encode_text("key") + struct.pack("<IIQ", 9, kind, 4_000_000)
        file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + array)
        with pytest.raises(ConfigurationError, match="truncated"):
            read_checkpoint(file)
        array = encode_text("key") + struct.pack("<IIQ", 9, kind, 1 << 63)
        file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + array)
        with pytest.raises(ConfigurationError, match="elements"):
            read_checkpoint(file)


def test_arrays_in_arrays_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "nested.gguf"
    array = encode_text("key") + struct.pack("<IIQ", 9, 9, 1) * 1000
    file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + array)
    with pytest.raises(ConfigurationError, match="of the unknown type 9"):
        read_checkpoint(file)


# Shards


def write_shards(directory: Path, count: int = 3) -> list[Path]:
    files = [directory / name for name in shard_names(f"big-00001-of-{count:05}.gguf")]
    for number, file in enumerate(files):
        write_header_file(file, split__count=count, split__no=number)
    return files


def test_each_shard_stands_for_the_whole_model(registry: ModelRegistry, tmp_path: Path) -> None:
    files = write_shards(tmp_path)
    assert {find_gguf(file) for file in files} == {files[0]}
    assert registry.add_directory(files[1]) == "big"
    model = read_checkpoint(registry.resolve("big"))
    assert (model.parameters, model.size) == (3 * 704, sum(file.stat().st_size for file in files))
    files[2].write_bytes(files[2].read_bytes() + b"x")
    assert registry.changed_files("big") == [files[2].name]


def test_a_missing_shard_is_named(registry: ModelRegistry, tmp_path: Path) -> None:
    files = write_shards(tmp_path)
    files[1].unlink()
    with pytest.raises(
        ConfigurationError, match=r"big-00002-of-00003\.gguf is missing of 3 shards"
    ):
        registry.add_directory(files[0])
    files[0].unlink()
    with pytest.raises(ConfigurationError, match=r"big-00001-of-00003\.gguf is missing"):
        registry.add_directory(files[2])


# The registry


def test_a_file_is_used_in_place(registry: ModelRegistry, file: Path) -> None:
    assert registry.add_directory(file) == "tiny.Q4_1"
    assert registry.use("tiny.Q4_1").is_gguf
    assert registry.resolve() == file
    with pytest.raises(Conflict):
        registry.add_directory(file)
    assert not registry.remove("tiny.Q4_1", force=True)
    assert file.exists()


def test_a_copy_of_a_file_belongs_to_the_data_directory(
    registry: ModelRegistry, file: Path
) -> None:
    registry.add_directory(file, copy=True)
    file.unlink()
    assert read_checkpoint(registry.resolve("tiny.Q4_1")).parameters == 704
    assert registry.changed_files("tiny.Q4_1") == []
    assert registry.remove("tiny.Q4_1")


def test_a_directory_holds_one_model(registry: ModelRegistry, file: Path) -> None:
    assert registry.add_directory(file.parent, "folder") == "folder"
    assert read_checkpoint(registry.resolve("folder")).is_gguf
    write_header_file(file.with_name("other.gguf"))
    with pytest.raises(
        ConfigurationError, match=r"several models; .*: other\.gguf, tiny\.Q4_1\.gguf"
    ):
        read_checkpoint(registry.resolve("folder"))


def test_a_link_of_the_hubs_cache_is_used_under_its_own_name(
    registry: ModelRegistry, file: Path, tmp_path: Path
) -> None:
    link = tmp_path / "linked.gguf"
    link.symlink_to(file.rename(tmp_path / "0123abcd"))
    assert registry.add_directory(link) == "linked"
    assert registry.resolve("linked") == link


def test_a_file_that_is_not_there_is_not_looked_up_at_the_hub(registry: ModelRegistry) -> None:
    with pytest.raises(InvalidInput, match=r"there is no file 'models/nope\.gguf'"):
        registry.add_from_hub(None, "models/nope.gguf")  # type: ignore[arg-type]


def test_a_model_without_a_chat_template_gets_a_note(file: Path, tmp_path: Path) -> None:
    write_header_file(file, tokenizer__chat_template=None)
    for command in (("add", str(file)), ("use", "tiny.Q4_1", "--no-trial")):
        result = palaver(tmp_path, "models", *command)
        assert result.exit_code == 0
        assert "Note: it has no chat template" in result.output
    assert "no chat template" in palaver(tmp_path, "check").output
    assert "chat template none" in palaver(tmp_path, "models", "info").output


def test_info_shows_what_the_header_says(file: Path, tmp_path: Path) -> None:
    palaver(tmp_path, "models", "add", str(file))
    shown = palaver(tmp_path, "models", "info", "tiny.Q4_1", "--verify").output
    for text in ("llama", "704", "Q4_1", "8192 tokens", "apache-2.0", "en, de", "unchanged"):
        assert text in shown
    listed = palaver(tmp_path, "models", "list").output
    assert "llama, 704 parameters, GGUF Q4_1, " in listed
    assert "context 8192 tokens, apache-2.0" in listed
