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
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import msgspec

from palaver.errors import ConfigurationError, Conflict, InvalidInput, NotFound, PalaverError
from palaver.models.chat_check import check_model, probe_chat
from palaver.models.checkpoint import (
    PICKLED_FILE,
    Checkpoint,
    check_code,
    check_config,
)
from palaver.models.gguf import SHARD, SUFFIX, find_gguf, shard_paths
from palaver.models.hub import FULL_DISK_ERRORS, REPOSITORY, Hub, HubModel
from palaver.models.model_files import check_model_files, read_json
from palaver.private_files import write_private_file

GROUP = "palaver.models"
DEFAULT_MODEL = "starter"
"""The current model until another one is chosen."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
UNFINISHED = re.compile(rf"\.({NAME.pattern})\.[0-9a-f]{{12}}\.part")
"""Names of the directories of interrupted downloads: the model's name, and the commit."""
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

    def unfinished(self) -> dict[str, int]:
        """Return the bytes of each download that was interrupted, by the name of its model."""
        sizes = Counter[str]()
        for staging in self._directory.glob(".*.part"):
            if download := UNFINISHED.fullmatch(staging.name):
                sizes[download[1]] += directory_size(staging)
        return dict(sorted(sizes.items()))

    def size_on_disk(self, name: str) -> int:
        """Return the bytes of a model's files."""
        return sum(file.stat().st_size for file in model_files(self.find(name)))

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
        checkpoint, _ = check_model(directory)
        source = f"{'file' if file else 'directory'} {directory}"
        if not copy:
            self._register(name, str(directory), source, compute_sha256s(directory))
            return name
        check_free_space(self._directory, checkpoint.size)
        with self._adding(name) as staging:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
            try:
                for part in model_files(directory):
                    if not PICKLED_FILE.fullmatch(part.name):
                        shutil.copyfile(part, staging / part.name)
                self._install(name, staging, source)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
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
        with self._adding(name, model.commit[:12]) as staging:
            check_free_space(self._directory, model.size - directory_size(staging))
            try:
                with _naming(staging, repository):
                    _download(hub, model, staging)
                    self._install(name, staging, f"hub {repository} at {model.commit}")
            except ConfigurationError:  # continuing the download cannot help
                shutil.rmtree(staging, ignore_errors=True)
                raise
            self._delete_unfinished(name)  # of other commits
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
    def _adding(self, name: str, version: str = "") -> Iterator[Path]:
        """Yield the directory in which a model is put together, until `_install` moves it.

        Raises `Conflict` while another process adds a model of this name, and `PalaverError` when
        it cannot be stored.
        """
        with _translating_errors():
            self._directory.mkdir(parents=True, exist_ok=True)
            with _lock(self._directory / f".{name}.lock", wait=False):
                self._check_new_name(name)
                if os.path.lexists(self._directory / name):
                    raise Conflict(
                        f"{str(self._directory / name)!r} is there already, and no model of the "
                        "list: add this directory, move it away, or choose another --name"
                    )
                yield self._directory / f".{name}{version and '.'}{version}.part"

    def _install(self, name: str, staging: Path, source: str) -> None:
        digests = compute_sha256s(staging)
        check_model(staging)
        os.replace(staging, self._directory / name)
        try:
            self._register(name, name, source, digests)
        except PalaverError:
            os.replace(self._directory / name, staging)
            raise

    def _register(self, name: str, directory: str, source: str, digests: dict[str, str]) -> None:
        added = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        entry = ModelEntry(directory=directory, source=source, sha256=digests, added=added)
        self._update_index(lambda index: index.models.__setitem__(name, entry))

    # Choosing, removing, verifying

    def use(self, name: str, trial: Callable[[], object] = lambda: None) -> Checkpoint:
        """Make ``name`` the current model, after ``trial``, which raises when it does not work.

        Raises `NotFound`, or `ConfigurationError` when the model is incomplete.
        """
        checkpoint, _ = check_model(self.find(name))
        trial()

        def choose(index: ModelIndex) -> None:
            index.current = name

        self._update_index(choose)
        return checkpoint

    def remove(self, name: str, *, force: bool = False) -> int:
        """Remove a model, or its interrupted download. Returns the bytes of its files that were
        deleted; files used in place are kept.

        Removing the current model requires ``force``; `DEFAULT_MODEL` becomes current.
        """
        if name not in self.models() and name in self.unfinished():
            with _translating_errors(), _lock(self._directory / f".{name}.lock", wait=False):
                return self._delete_unfinished(name)
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
        with _translating_errors(), _lock(self._directory / f".{name}.lock", wait=False):
            freed = self._delete_unfinished(name)
            if entry.is_managed:
                freed += directory_size(self._directory / entry.directory)
                shutil.rmtree(self._directory / entry.directory)
        return freed

    def _delete_unfinished(self, name: str) -> int:
        freed = self.unfinished().get(name, 0)
        for staging in self._directory.glob(".*.part"):
            download = UNFINISHED.fullmatch(staging.name)
            if download and download[1] == name:
                shutil.rmtree(staging)
        return freed

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
        with _translating_errors():
            self._directory.mkdir(parents=True, exist_ok=True)
            with _lock(self._directory / ".lock"):
                index = self._read_index()
                change(index)
                text = msgspec.json.format(msgspec.json.encode(index), indent=2)
                write_private_file(self._directory / "models.json", text)


def _download(hub: Hub, model: HubModel, staging: Path) -> None:
    """Download the files of a model. The large ones come last, when the others are checked."""
    if "config.json" in model.files:
        hub.download(model, staging, ["config.json"])
        check_config(read_json(staging / "config.json"), model.repository)
        hub.download(model, staging, model.small_files)
        check_code(staging)
        probe_chat(staging)
    hub.download(model, staging, model.files)


@contextlib.contextmanager
def _naming(directory: Path, name: str) -> Iterator[None]:
    """Name the model in errors by ``name``, instead of by the hidden ``directory``."""
    try:
        yield
    except ConfigurationError as error:
        raise ConfigurationError(str(error).replace(str(directory), name)) from error


@contextlib.contextmanager
def _translating_errors() -> Iterator[None]:
    """Raise `PalaverError` in place of the error of a file that cannot be written."""
    try:
        yield
    except OSError as error:
        advice = "; make room, then run the command again" * (error.errno in FULL_DISK_ERRORS)
        reason = f"{error.strerror or error}{advice}"
        raise PalaverError(f"the models' directory cannot be changed: {reason}") from error


@contextlib.contextmanager
def _lock(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock between processes. Raises `Conflict` when another one has it, unless ``wait``."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            name = path.name.removeprefix(".").removesuffix(".lock")
            raise Conflict(f"another command is adding the model {name!r}") from None
        yield


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
    for file in model_files(directory):
        with file.open("rb") as stream:
            digests[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return digests


def model_files(directory: Path) -> list[Path]:
    """Return the files of a model directory, or the shards of a GGUF file."""
    if directory.is_dir():
        return sorted(file for file in directory.iterdir() if file.is_file())
    return [file for file in shard_paths(directory) if file.is_file()]


def gguf_name(file_name: str) -> str:
    """Return the name of a model for the name of its GGUF file."""
    match = SHARD.fullmatch(file_name)
    return match["stem"] if match else file_name.removesuffix(SUFFIX)


def directory_size(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
