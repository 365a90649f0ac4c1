"""Registry of the models in the data directory, and the choice of the current one.

``<data>/models/models.json`` is the index. Models of installed packages are always in the registry;
a package names them in its metadata::

    [project.entry-points."palaver.models"]
    starter = "my_package.with_the_model"
"""

import contextlib
import datetime
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import msgspec

from palaver.errors import ConfigurationError, Conflict, InvalidInput, NotFound
from palaver.models.checkpoint import PICKLED_FILE, Checkpoint, read_checkpoint
from palaver.models.gguf import SHARD, SUFFIX, find_gguf, shard_paths
from palaver.models.hub import REPOSITORY, Hub
from palaver.models.model_files import check_model_files
from palaver.private_files import write_private_file

GROUP = "palaver.models"
DEFAULT_MODEL = "starter"
"""The current model until another one is chosen."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MIN_FREE_BYTES = 100_000_000
"""Disk space that must remain free after a model is added."""


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A model of the index. ``directory``: absolute (it may be a GGUF file), or relative to the
    models' directory when the registry manages the files. ``added``: date and time, UTC."""

    directory: str
    source: str
    sha256: dict[str, str]
    added: str

    @property
    def is_managed(self) -> bool:
        return not Path(self.directory).is_absolute()


class ModelIndex(msgspec.Struct, kw_only=True):
    current: str = DEFAULT_MODEL
    models: dict[str, ModelEntry] = {}


def shipped_models() -> dict[str, Path]:
    """Return the directories of the models in installed packages, by name."""
    points = importlib.metadata.entry_points(group=GROUP)
    found = {point.name: _package_directory(point.value) for point in points}
    return {name: directory for name, directory in found.items() if directory}


def _package_directory(package: str) -> Path | None:
    with contextlib.suppress(ModuleNotFoundError):
        spec = importlib.util.find_spec(package)
        if spec and spec.submodule_search_locations:
            return Path(next(iter(spec.submodule_search_locations)))
    return None


class ModelRegistry:
    """The models of one data directory. Safe to use from several processes."""

    def __init__(self, data: Path, shipped: Mapping[str, Path] | None = None) -> None:
        self._directory = data / "models"
        self._shipped = shipped_models() if shipped is None else shipped

    @property
    def current(self) -> str:
        return self._read_index().current

    def models(self) -> dict[str, Path]:
        """Return every model's directory, or GGUF file, by name."""
        entries = self._read_index().models
        added = {name: self._directory / entry.directory for name, entry in entries.items()}
        return dict(sorted({**self._shipped, **added}.items()))

    def source(self, name: str) -> str:
        entry = self._read_index().models.get(name)
        return entry.source if entry else "installed package"

    def resolve(self, model: str = "") -> Path:
        """Return the directory, or the GGUF file, of a model by its name or path; "": the current
        model.

        Raises `ConfigurationError` when there is no such model, or when a name or a link in it
        leads out of it.
        """
        name = model or self.current
        directory = self.models().get(name)
        if directory is None and model and Path(model).expanduser().exists():
            directory = Path(model).expanduser()
        if directory is None:
            raise ConfigurationError(
                f"{self._unknown_model_message(name)} See: palaver models add --help"
            )
        check_model_files(directory)
        return directory

    def find(self, name: str) -> Path:
        """Return the directory of the model ``name``. Raises `NotFound`."""
        models = self.models()
        if name not in models:
            raise NotFound(self._unknown_model_message(name))
        return models[name]

    def _unknown_model_message(self, name: str) -> str:
        names = ", ".join(self.models()) or "none"
        return f"there is no model {name!r}; there are: {names}."

    # Adding

    def add_directory(self, directory: Path, name: str = "", *, copy: bool = False) -> str:
        """Register a model, a directory or a GGUF file, in place, or a copy of it. Returns its
        name.

        Raises `ConfigurationError` when the model is incomplete, `Conflict` when the name exists.
        """
        directory = directory.expanduser().absolute()
        file = find_gguf(directory) if directory.is_file() else None
        directory = file or directory.resolve()
        name = self._check_new_name(name or (gguf_name(file.name) if file else directory.name))
        checkpoint = read_checkpoint(directory)
        source = f"{'file' if file else 'directory'} {directory}"
        if not copy:
            self._register(name, str(directory), source, compute_sha256s(directory))
            return name
        check_free_space(self._directory, checkpoint.size)
        with self._staging_directory(name) as staging:
            for part in _model_files(directory):
                if not PICKLED_FILE.fullmatch(part.name):
                    shutil.copyfile(part, staging / part.name)
            self._install(name, staging, source)
        return name

    def add_from_hub(self, hub: Hub, source: str, name: str = "", revision: str = "") -> str:
        """Download a model, or continue an interrupted download. Returns the model's name.

        ``source``: ``owner/model``, or ``owner/model:file.gguf``.

        Raises as `Hub.find_model`, and `Conflict` when the name exists.
        """
        repository, _, gguf = source.partition(":")
        if repository.endswith(SUFFIX):
            raise InvalidInput(f"there is no file {source!r}")
        if not REPOSITORY.fullmatch(repository):
            raise InvalidInput(
                f"{source!r} is neither a file, nor a directory, nor of the form 'owner/model'"
            )
        short = gguf_name(PurePosixPath(gguf).name) if gguf else repository.partition("/")[2]
        name = self._check_new_name(name or short)
        model = hub.find_model(repository, revision, gguf)
        staging = self._directory / f".{name}.{model.commit[:12]}.part"
        check_free_space(self._directory, model.size - _directory_size(staging))
        try:
            hub.download(model, staging)
            self._install(name, staging, f"hub {repository} at {model.commit}")
        except ConfigurationError:  # continuing the download cannot help
            shutil.rmtree(staging, ignore_errors=True)
            raise
        return name

    def _check_new_name(self, name: str) -> str:
        if not NAME.fullmatch(name):
            raise InvalidInput(
                f"{name!r} cannot be a model's name: letters, digits, '.', '_' and '-' can"
            )
        if name in self.models():
            raise Conflict(f"there is a model {name!r} already; choose another name with --name")
        return name

    @contextlib.contextmanager
    def _staging_directory(self, name: str) -> Iterator[Path]:
        staging = self._directory / f".{name}.part"
        staging.mkdir(parents=True, exist_ok=True)
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _install(self, name: str, staging: Path, source: str) -> None:
        digests = compute_sha256s(staging)
        read_checkpoint(staging)
        os.replace(staging, self._directory / name)
        self._register(name, name, source, digests)

    def _register(self, name: str, directory: str, source: str, digests: dict[str, str]) -> None:
        added = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        entry = ModelEntry(directory=directory, source=source, sha256=digests, added=added)
        self._update_index(lambda index: index.models.__setitem__(name, entry))

    # Choosing, removing, verifying

    def use(self, name: str) -> Checkpoint:
        """Make ``name`` the current model.

        Raises `NotFound`, or `ConfigurationError` when the model is incomplete.
        """
        checkpoint = read_checkpoint(self.find(name))

        def choose(index: ModelIndex) -> None:
            index.current = name

        self._update_index(choose)
        return checkpoint

    def remove(self, name: str, *, force: bool = False) -> bool:
        """Remove a model. Returns True when its files were deleted; files used in place are kept.

        Removing the current model requires ``force``; `DEFAULT_MODEL` becomes current.
        """
        self.find(name)
        index = self._read_index()
        if name not in index.models:
            raise InvalidInput(f"model {name!r} is part of an installed package")
        if name == index.current and not force:
            raise Conflict(f"model {name!r} is the current one; --force removes it anyway")
        entry = index.models[name]

        def forget(index: ModelIndex) -> None:
            index.models.pop(name, None)
            index.current = DEFAULT_MODEL if index.current == name else index.current

        self._update_index(forget)
        if entry.is_managed:
            shutil.rmtree(self._directory / entry.directory)
        return entry.is_managed

    def changed_files(self, name: str) -> list[str]:
        """Return the files that changed since the model was added."""
        directory = self.find(name)
        recorded = self._read_index().models.get(name)
        if recorded is None:
            return []
        now = compute_sha256s(directory)
        return sorted(file for file, digest in recorded.sha256.items() if now.get(file) != digest)

    # The index

    def _read_index(self) -> ModelIndex:
        file = self._directory / "models.json"
        try:
            index = msgspec.json.decode(file.read_bytes(), type=ModelIndex)
        except FileNotFoundError:
            return ModelIndex()
        except (OSError, msgspec.MsgspecError) as error:
            raise ConfigurationError(f"{file} cannot be read: {error}") from error
        for name, entry in index.models.items():
            if entry.is_managed and not NAME.fullmatch(entry.directory):
                raise ConfigurationError(
                    f"{file}: model {name!r} has the directory {entry.directory!r}, which is "
                    "neither a name nor an absolute path"
                )
        return index

    def _update_index(self, change: Callable[[ModelIndex], None]) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / ".lock"
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            index = self._read_index()
            change(index)
            text = msgspec.json.format(msgspec.json.encode(index), indent=2)
            write_private_file(self._directory / "models.json", text)


def check_free_space(directory: Path, needed: int) -> None:
    """Raise `ConfigurationError` when ``needed`` more bytes do not fit below ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(directory).free
    if needed + MIN_FREE_BYTES > free:
        raise ConfigurationError(
            f"{str(directory)!r} has {free / 1e9:.1f} GB free, but the model needs "
            f"{needed / 1e9:.1f} GB"
        )


def compute_sha256s(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a model, in hexadecimal."""
    digests = {}
    for file in _model_files(directory):
        with file.open("rb") as stream:
            digests[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return digests


def _model_files(directory: Path) -> list[Path]:
    """Return the files of a model directory, or the shards of a GGUF file."""
    if directory.is_dir():
        return sorted(file for file in directory.iterdir() if file.is_file())
    return [file for file in shard_paths(directory) if file.is_file()]


def gguf_name(file_name: str) -> str:
    """Return the name of a model for the name of its GGUF file."""
    match = SHARD.fullmatch(file_name)
    return match["stem"] if match else file_name.removesuffix(SUFFIX)


def _directory_size(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
