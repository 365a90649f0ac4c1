"""Hub: downloads models from the Hugging Face hub, or the hub that ``HF_ENDPOINT`` names.

It downloads only what a model needs: weights as safetensors, tokenizer and configuration; or one
GGUF file, with all its shards.
"""

import contextlib
import errno
import hashlib
import io
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from palaver.errors import ConfigurationError, Forbidden, NotFound, PalaverError, ServerError
from palaver.models.checkpoint import WEIGHTS_INDEX, choose_weight_files
from palaver.models.gguf import SUFFIX, shard_names
from palaver.models.model_files import is_file_name
from palaver.urls import check_url

COMMIT = re.compile(r"[0-9a-f]{40,64}")
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
MODEL_FILES = frozenset(
    {
        "config.json",
        "generation_config.json",
        WEIGHTS_INDEX,
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "chat_template.jinja",
        "chat_template.json",
        "preprocessor_config.json",
        "processor_config.json",
        "card.json",
        "README.md",
        "LICENSE",
    }
)
RETRY_DELAYS = (0.5, 2.0, 8.0, 30.0)
"""Seconds before each further attempt while the hub is overloaded or unreachable."""
RETRYABLE_STATUSES = frozenset({408, 429, 500, 502, 503, 504})

FULL_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
CONNECTION_ERRORS = (ConnectionError, TimeoutError)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class HubFile:
    """What the hub announces of a file: its size in bytes, and its SHA-256 if it is in LFS, else
    its SHA-1 as a blob of git."""

    size: int
    sha256: str
    git_sha1: str

    def is_announced(self, path: Path) -> bool:
        """Return True when the file at ``path`` is the announced one."""
        prefix = b"" if self.sha256 else b"blob %d\0" % self.size
        digest = hashlib.new("sha256" if self.sha256 else "sha1", prefix)
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
        return digest.hexdigest() == (self.sha256 or self.git_sha1)


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model of the hub at one commit. ``files``: by their path at the hub."""

    repository: str
    commit: str
    files: dict[str, "HubFile"]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files.values())

    @property
    def small_files(self) -> list[str]:
        """Return the files without weights."""
        return [name for name in self.files if not name.endswith((".safetensors", SUFFIX))]


class Hub:
    """Client of the hub. ``report`` gets a sentence before each retry, ``progress`` the bytes of a
    model that are stored, and its size."""

    def __init__(
        self,
        token: str | None,
        report: Callable[[str], None],
        progress: Callable[[int, int], None] = lambda stored, size: None,
    ) -> None:
        try:
            import huggingface_hub
            from huggingface_hub.file_download import http_get
        except ImportError as error:
            raise ConfigurationError(
                "downloading a model needs huggingface_hub: pip install 'palaver-server[hub]'"
            ) from error
        try:
            endpoint = huggingface_hub.constants.ENDPOINT
            check_url(endpoint, ("http", "https"), "it is the address of a hub: https://host")
        except ValueError as error:
            raise ConfigurationError(f"HF_ENDPOINT: {error}") from None
        self._hub = huggingface_hub
        self._get = http_get
        self._api = huggingface_hub.HfApi(token=token, library_name="palaver")
        self._token = token
        self._report = report
        self._progress = progress
        huggingface_hub.utils.disable_progress_bars()

    def find_model(self, repository: str, revision: str = "", gguf: str = "") -> HubModel:
        """Return what a download would fetch: of ``gguf``, one of the repository's GGUF files, if
        that is given.

        Raises `ConfigurationError` for an unusable model; `NotFound`, `Forbidden`, `ServerError`
        or `PalaverError` by the hub's answer.
        """
        info = self._retry(
            repository,
            lambda: self._api.model_info(
                repository, revision=revision or None, files_metadata=True
            ),
        )
        if not COMMIT.fullmatch(info.sha or ""):
            raise ConfigurationError(f"the hub names no commit of model {repository!r}")
        files = {f.rfilename: f for f in info.siblings or [] if _is_path(f.rfilename)}
        wanted = _choose_files(files, repository, gguf)
        return HubModel(
            repository,
            info.sha,
            {name: announced_file(repository, files[name]) for name in sorted(wanted)},
        )

    def download(self, model: HubModel, directory: Path, names: Iterable[str]) -> None:
        """Download files into ``directory``, and continue an interrupted download.

        Raises as `find_model`.
        """
        directory.mkdir(parents=True, exist_ok=True)
        for name in names:
            self._download_file(model, name, directory)

    def _download_file(self, model: HubModel, name: str, directory: Path) -> None:
        announced, target = model.files[name], directory / PurePosixPath(name).name
        part = target.with_name(f"{target.name}.part")
        if target.is_file():
            return
        if part.exists() and part.stat().st_size > announced.size:
            part.unlink()
        url = self._hub.hf_hub_url(model.repository, name, revision=model.commit)
        others = sum(file.stat().st_size for file in directory.iterdir() if file != part)

        def show(size: int) -> None:
            self._progress(others + size, model.size)

        def get() -> None:
            # The library's snapshot_download would restart every file.
            with _BoundedFile(part, announced.size, show) as stream:
                self._get(
                    url,
                    stream,
                    resume_size=stream.tell(),
                    headers=self._hub.utils.build_hf_headers(token=self._token),
                    expected_size=announced.size,
                    displayed_filename=name,
                )

        self._retry(model.repository, get)
        if not announced.is_announced(part):
            label = model.repository.partition("/")[2]
            raise ConfigurationError(f"model {label!r}: {name} is not what the hub announced")
        os.replace(part, target)

    def _retry(self, repository: str, call: Callable[[], T]) -> T:
        for delay in RETRY_DELAYS:
            try:
                return self._call(repository, call)
            except _HubUnavailable as unavailable:
                self._report(f"The hub {unavailable}; retrying in {delay:g} s.")
                time.sleep(delay)
        try:
            return self._call(repository, call)
        except _HubUnavailable as unavailable:
            raise ServerError(
                f"the hub {unavailable}; run the command again later to continue"
            ) from unavailable.__cause__

    def _call(self, repository: str, call: Callable[[], T]) -> T:
        with _translate_errors(repository, self._hub.errors):
            return call()


def _is_path(name: str) -> bool:
    """Return True for the path of a file, in folders or not."""
    return all(map(is_file_name, name.split("/")))


def _choose_files(files: Collection[str], repository: str, gguf: str) -> set[str]:
    """Return the paths of the files that a model needs. Raises `ConfigurationError`."""
    if gguf or "config.json" not in files:
        return _choose_gguf(files, repository, gguf)
    plain = [name for name in files if "/" not in name]
    return {*choose_weight_files(plain, repository), *MODEL_FILES.intersection(plain)}


def _choose_gguf(files: Collection[str], repository: str, wanted: str) -> set[str]:
    """Return ``wanted``, or the only GGUF model of the repository, with all its shards."""
    models = sorted({_shards(name)[0] for name in files if name.endswith(SUFFIX)})
    found = [it for it in models if not wanted or _is_among(wanted, _shards(it))]
    if not models:
        raise ConfigurationError(f"model {repository!r} has neither a config.json nor a GGUF file")
    if len(found) != 1:
        what = f"no GGUF file {wanted!r}" if wanted else "several GGUF files"
        raise ConfigurationError(
            f"model {repository!r} has {what}; add one as {repository}:FILE, where FILE is one of: "
            f"{', '.join(models)}"
        )
    shards = _shards(found[0])
    if missing := sorted(set(shards) - set(files)):
        raise ConfigurationError(f"model {repository!r} lacks the shard {missing[0]!r}")
    return {*shards, *{"README.md", "LICENSE"}.intersection(files)}


def _is_among(wanted: str, paths: list[str]) -> bool:
    """Return True when ``wanted`` is one of the paths, or the name of its file."""
    return any(wanted in (path, path.rpartition("/")[2]) for path in paths)


def _shards(path: str) -> list[str]:
    folder, slash, name = path.rpartition("/")
    return [f"{folder}{slash}{shard}" for shard in shard_names(name)]


def announced_file(repository: str, file: Any) -> HubFile:  # Any: huggingface_hub's RepoSibling
    """Return what the hub announces. Raises `ConfigurationError` when that does not suffice."""
    sha256, git_sha1 = file.lfs.sha256 if file.lfs else "", file.blob_id or ""
    if file.size is None or not (sha256 or git_sha1):
        raise ConfigurationError(
            f"the hub announces no size or no checksum of {file.rfilename!r} in {repository!r}"
        )
    return HubFile(file.size, sha256, git_sha1)


class _BoundedFile(io.BufferedWriter):
    """File to append to, of at most ``size`` bytes. ``show`` gets its size after each piece."""

    def __init__(self, path: Path, size: int, show: Callable[[int], None]) -> None:
        super().__init__(io.FileIO(path, "ab"))
        self._size = size
        self._show = show

    def write(self, data: Any, /) -> int:  # Any: bytes, as its base has it
        if self.tell() + len(data) > self._size:
            raise ConfigurationError(
                f"{str(self.name)!r} is longer than the {self._size:_} bytes that the hub announced"
            )
        written = super().write(data)
        self._show(self.tell())
        return written


class _HubUnavailable(Exception):
    """The hub does not answer now; a retry may succeed."""


@contextlib.contextmanager
def _translate_errors(
    repository: str, errors: Any
) -> Iterator[None]:  # Any: the hub's errors module
    """Translate the hub's errors; GatedRepoError is a RepositoryNotFoundError, so it is first."""
    try:
        yield
    except errors.GatedRepoError as error:
        raise Forbidden(
            f"model {repository!r} is gated: accept its terms on its page at the hub, then set "
            "your token in HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise NotFound(f"model {repository!r} has no such revision at the hub") from error
    except errors.RepositoryNotFoundError as error:
        raise NotFound(
            f"the hub has no model {repository!r}, or it is private: then set a token in HF_TOKEN"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in RETRYABLE_STATUSES:
            raise _HubUnavailable(f"answered with HTTP {status}") from error
        raise PalaverError(f"the hub answered with HTTP {status} for {repository!r}") from error
    except errors.OfflineModeIsEnabled as error:
        raise ConfigurationError("HF_HUB_OFFLINE is set, so the hub is not used") from error
    except (errors.HTTPError, errors.LocalEntryNotFoundError, *CONNECTION_ERRORS) as error:
        raise _HubUnavailable("cannot be reached") from error
    except OSError as error:
        if error.errno in FULL_DISK_ERRORS:
            raise  # the registry says what to do
        raise PalaverError(f"the download cannot be stored: {error.strerror or error}") from error
