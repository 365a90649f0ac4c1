"""Models: which there are under the data directory, and which of them is current.

``<data>/models/models.json`` is the index. Models that come with an installed package are always
there; the package names them in its metadata::

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
from pathlib import Path

import msgspec

from palaver.errors import ConfigurationError, Conflict, InvalidInput, NotFound
from palaver.models.checkpoint import PICKLE, Checkpoint, read_checkpoint
from palaver.models.hub import REPOSITORY, Hub

GROUP = "palaver.models"
FIRST = "starter"
"""The model that is current until another one is chosen."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
SPARE_BYTES = 100_000_000
"""Disk space that adding a model leaves free."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A model of the index. ``directory`` is absolute, or relative to the models' directory when
    the files are ours; ``added`` is a date and time, UTC."""

    directory: str
    source: str
    sha256: dict[str, str]
    added: str

    @property
    def ours(self) -> bool:
        return not Path(self.directory).is_absolute()


class Index(msgspec.Struct, kw_only=True):
    current: str = FIRST
    models: dict[str, Entry] = {}


def shipped_models() -> dict[str, Path]:
    """The models that installed packages bring."""
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
        return self._read().current

    def models(self) -> dict[str, Path]:
        """Every model's directory, by name."""
        entries = self._read().models
        added = {name: self._directory / entry.directory for name, entry in entries.items()}
        return dict(sorted({**self._shipped, **added}.items()))

    def source(self, name: str) -> str:
        entry = self._read().models.get(name)
        return entry.source if entry else "installed package"

    def resolve(self, model: str = "") -> Path:
        """The directory of a model, by its name or its path; "" is the current one.

        Raises `ConfigurationError` when there is none.
        """
        name = model or self.current
        if name in (models := self.models()):
            return models[name]
        path = Path(model).expanduser()
        if model and path.is_dir():
            return path
        raise ConfigurationError(f"{self._unknown(name)} See: palaver models add --help")

    def find(self, name: str) -> Path:
        """The directory of the model ``name``. Raises `NotFound`."""
        models = self.models()
        if name not in models:
            raise NotFound(self._unknown(name))
        return models[name]

    def _unknown(self, name: str) -> str:
        there = ", ".join(self.models()) or "none"
        return f"there is no model {name!r}; there are: {there}."

    # Adding

    def add_directory(self, directory: Path, name: str = "", *, copy: bool = False) -> str:
        """Register a model where it is, or a copy of it. Returns its name.

        Raises `ConfigurationError` when the directory holds no whole model, `Conflict` when the
        name is taken.
        """
        directory = directory.expanduser().resolve()
        name = self._free_name(name or directory.name)
        checkpoint = read_checkpoint(directory)
        source = f"directory {directory}"
        if not copy:
            self._register(name, str(directory), source, sha256s(directory))
            return name
        check_space(self._directory, checkpoint.size)
        with self._unfinished(name) as place:
            for file in directory.iterdir():
                if file.is_file() and not PICKLE.fullmatch(file.name):
                    shutil.copy2(file, place)
            self._settle(name, place, source)
        return name

    def add_from_hub(self, hub: Hub, repository: str, name: str = "", revision: str = "") -> str:
        """Download a model. Returns its name. What an interrupted download has brought is used.

        Raises `NotFound`, `Forbidden` or `PalaverError` as the hub answers, `ConfigurationError`
        for a model that is not usable, `Conflict` when the name is taken.
        """
        if not REPOSITORY.fullmatch(repository):
            raise InvalidInput(
                f"{repository!r} is neither a directory nor of the form 'owner/model'"
            )
        name = self._free_name(name or repository.partition("/")[2])
        offer = hub.look(repository, revision)
        place = self._directory / f".{name}.{offer.commit[:12]}.part"
        check_space(self._directory, offer.size - _size(place))
        try:
            hub.download(offer, place)
            self._settle(name, place, f"hub {repository} at {offer.commit}", offer.sha256)
        except ConfigurationError:  # going on would not mend it
            shutil.rmtree(place, ignore_errors=True)
            raise
        return name

    def _free_name(self, name: str) -> str:
        if not NAME.fullmatch(name):
            raise InvalidInput(
                f"{name!r} cannot be a model's name: letters, digits, '.', '_' and '-' can"
            )
        if name in self.models():
            raise Conflict(f"there is a model {name!r} already; choose another name with --name")
        return name

    @contextlib.contextmanager
    def _unfinished(self, name: str) -> Iterator[Path]:
        place = self._directory / f".{name}.part"
        place.mkdir(parents=True, exist_ok=True)
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _settle(
        self, name: str, place: Path, source: str, announced: Mapping[str, str] | None = None
    ) -> None:
        digests = sha256s(place)
        for file, digest in (announced or {}).items():
            if digests.get(file) != digest:
                raise ConfigurationError(f"model {name!r}: {file} is not what the hub announced")
        read_checkpoint(place)
        os.replace(place, self._directory / name)
        self._register(name, name, source, digests)

    def _register(self, name: str, directory: str, source: str, digests: dict[str, str]) -> None:
        added = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        entry = Entry(directory=directory, source=source, sha256=digests, added=added)
        self._change(lambda index: index.models.__setitem__(name, entry))

    # Choosing, removing, verifying

    def use(self, name: str) -> Checkpoint:
        """Make ``name`` the current model. Raises `NotFound`, or `ConfigurationError` when the
        model is not whole."""
        checkpoint = read_checkpoint(self.find(name))

        def choose(index: Index) -> None:
            index.current = name

        self._change(choose)
        return checkpoint

    def remove(self, name: str, *, force: bool = False) -> bool:
        """Forget a model. Returns whether its files were deleted: those registered where they
        are stay. Removing the current one needs ``force``, and `FIRST` becomes current."""
        self.find(name)
        index = self._read()
        if name not in index.models:
            raise InvalidInput(f"model {name!r} is part of an installed package")
        if name == index.current and not force:
            raise Conflict(f"model {name!r} is the current one; --force removes it all the same")
        entry = index.models[name]

        def forget(index: Index) -> None:
            index.models.pop(name, None)
            index.current = FIRST if index.current == name else index.current

        self._change(forget)
        if entry.ours:
            shutil.rmtree(self._directory / entry.directory)
        return entry.ours

    def changed_files(self, name: str) -> list[str]:
        """The files that are not what they were when the model was added."""
        directory = self.find(name)
        recorded = self._read().models.get(name)
        if recorded is None:
            return []
        now = sha256s(directory)
        return sorted(file for file, digest in recorded.sha256.items() if now.get(file) != digest)

    # The index

    def _read(self) -> Index:
        file = self._directory / "models.json"
        try:
            return msgspec.json.decode(file.read_bytes(), type=Index)
        except FileNotFoundError:
            return Index()
        except (OSError, msgspec.MsgspecError) as error:
            raise ConfigurationError(f"{file} cannot be read: {error}") from error

    def _change(self, change: Callable[[Index], None]) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            index = self._read()
            change(index)
            text = msgspec.json.format(msgspec.json.encode(index), indent=2)
            new = self._directory / "models.json.new"
            new.write_bytes(text)
            os.replace(new, self._directory / "models.json")


def check_space(directory: Path, needed: int) -> None:
    """Raise `ConfigurationError` when ``needed`` more bytes do not fit below ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(directory).free
    if needed + SPARE_BYTES > free:
        raise ConfigurationError(
            f"{str(directory)!r} has {free / 1e9:.1f} GB free, and the model takes "
            f"{needed / 1e9:.1f} GB"
        )


def sha256s(directory: Path) -> dict[str, str]:
    """The SHA-256 of each file of a model directory, in hexadecimal."""
    digests = {}
    for file in sorted(directory.iterdir()):
        if file.is_file():
            with file.open("rb") as stream:
                digests[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return digests


def _size(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
