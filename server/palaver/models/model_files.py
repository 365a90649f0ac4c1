"""Files of a model directory, and the names in them: none may lead out of the directory.

A model comes from strangers. Its JSON files name other files, which engines read, and it may
contain links. A name or a link to a place outside could make an engine read any file; a pipe would
make it wait forever.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from palaver.errors import ConfigurationError

MAX_JSON_BYTES = 200_000_000
"""Largest JSON file of a model that is read; the tokenizers of large models have 30 MB."""
MAX_DEPTH = 20
"""Folders in folders; `os.walk` recurses."""
FILE_NAME = re.compile(r"[\w][\w.+ -]{0,250}")
NAMING_KEY = re.compile(r"weight_map|path|vocab|.*_spm|(?!special_tokens_map_file).*_files?")
"""Keys of a model's JSON files with names of files that engines open."""
NAMING_FILES = (
    "*.index.json",
    "config.json",
    "tokenizer_config.json",
    "adapter_config.json",
    "modules.json",
    "processor_config.json",
    "preprocessor_config.json",
)
"""JSON files of which engines take names of files."""

Json = dict[str, Any]  # Any: JSON values


def is_file_name(name: object) -> bool:
    """Return True for the plain name of a file, without a folder."""
    return isinstance(name, str) and FILE_NAME.fullmatch(name) is not None


def read_json(file: Path) -> Json:
    """Read a JSON object of a model. Raises `ConfigurationError` that names the file."""
    content = _read_json_value(file)
    if not isinstance(content, dict):
        raise broken_file(file, "is not a JSON object")
    return content


def _read_json_value(file: Path) -> Any:  # Any: JSON values
    try:
        check_size(file)
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise broken_file(file, "is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise broken_file(file, f"cannot be read: {error}") from error


def check_size(file: Path) -> None:
    if file.stat().st_size > MAX_JSON_BYTES:
        raise broken_file(file, f"is larger than {MAX_JSON_BYTES:_} bytes")


def broken_file(file: Path, reason: str) -> ConfigurationError:
    return ConfigurationError(f"model {str(file.parent)!r}: {file.name} {reason}")


def check_model_files(directory: Path) -> None:
    """Check that a model directory holds files, and that no name and no link leads out of it.

    Raises `ConfigurationError` that names the file.
    """
    for folder, folders, names in os.walk(directory):
        if len(Path(folder).parts) - len(directory.parts) > MAX_DEPTH:
            raise broken_file(Path(folder), f"is below more than {MAX_DEPTH} folders")
        for name in (*folders, *names):
            _check_entry(Path(folder, name), directory)
    for pattern in NAMING_FILES:
        for file in sorted(directory.glob(pattern)):
            for name in _find_names(_read_json_value(file)):
                if Path(name).is_absolute() or ".." in Path(name).parts or "\\" in name:
                    raise broken_file(file, f"names a file outside the model: {name[:100]!r}")


def _check_entry(path: Path, directory: Path) -> None:
    target = Path(os.path.realpath(path))  # `resolve` refuses a link to itself
    if path.is_symlink() and not _is_inside(target, directory.resolve()):
        raise broken_file(path, "is a link to a place outside the model")
    if target.exists() and not (target.is_file() or target.is_dir()):
        raise broken_file(path, "is neither a file nor a folder")


def _is_inside(target: Path, directory: Path) -> bool:
    """Return True for a file of the directory, or one to which the hub's own cache links.

    The cache stores a model as ``snapshots/<commit>/<name>``, links to ``blobs/<digest>``.
    """
    allowed = [directory]
    if directory.parent.name == "snapshots":
        allowed.append(directory.parent.parent / "blobs")
    return any(target.is_relative_to(each) for each in allowed)


def _find_names(value: Any) -> Iterator[str]:  # Any: JSON values
    """Yield the names of files in a JSON value: of `NAMING_KEY`, and all values below one."""
    pending: list[tuple[Any, bool]] = [(value, False)]  # no recursion: strangers choose the depth
    while pending:
        value, is_name = pending.pop()
        if isinstance(value, dict):
            pending += [(v, is_name or bool(NAMING_KEY.fullmatch(k))) for k, v in value.items()]
        elif isinstance(value, list):
            pending += [(inner, is_name) for inner in value]
        elif is_name and isinstance(value, str):
            yield value
