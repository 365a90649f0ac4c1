"""Hub: brings models from a Hugging Face hub, or from the one that ``HF_ENDPOINT`` names.

Only what a model needs is brought: weights as safetensors, tokenizer and configuration.
"""

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from palaver.errors import ConfigurationError, Forbidden, NotFound, PalaverError
from palaver.models.checkpoint import INDEX, check_config, choose_weights, read_json

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
WANTED = frozenset(
    {
        "config.json",
        "generation_config.json",
        INDEX,
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "chat_template.jinja",
        "card.json",
        "README.md",
        "LICENSE",
    }
)
PAUSES = (0.5, 2.0, 8.0, 30.0)
"""Seconds to wait before each further attempt, while the hub is overloaded or unreachable."""
WORTH_WAITING = frozenset({408, 429, 500, 502, 503, 504})

LOST = (ConnectionError, TimeoutError)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Offer:
    """A model as the hub has it at one commit: its files that are wanted, with their sizes in
    bytes, and SHA-256 for those of which the hub tells it."""

    repository: str
    commit: str
    files: dict[str, int]
    sha256: dict[str, str]

    @property
    def size(self) -> int:
        return sum(self.files.values())


class Hub:
    """A client of the hub. ``say`` gets a sentence whenever it waits to try again."""

    def __init__(self, token: str | None, say: Callable[[str], None]) -> None:
        try:
            import huggingface_hub
            from huggingface_hub.file_download import http_get
        except ImportError as error:
            raise ConfigurationError(
                "downloading a model needs huggingface_hub: pip install 'palaver-server[hub]'"
            ) from error
        self._hub = huggingface_hub
        self._get = http_get
        self._api = huggingface_hub.HfApi(token=token, library_name="palaver")
        self._token = token
        self._say = say

    def look(self, repository: str, revision: str = "") -> Offer:
        """What would be downloaded. Raises `NotFound`, `Forbidden`, `PalaverError` as the hub
        answers, and `ConfigurationError` for a model that is not usable."""
        info = self._try(
            repository,
            lambda: self._api.model_info(
                repository, revision=revision or None, files_metadata=True
            ),
        )
        files = {f.rfilename: f for f in info.siblings or [] if "/" not in f.rfilename}
        if "config.json" not in files:
            raise ConfigurationError(f"model {repository!r} has no config.json")
        wanted = {*choose_weights(list(files), repository), *WANTED.intersection(files)}
        return Offer(
            repository,
            info.sha or revision or "main",
            {name: files[name].size or 0 for name in sorted(wanted)},
            {name: lfs.sha256 for name in wanted if (lfs := files[name].lfs)},
        )

    def download(self, offer: Offer, directory: Path) -> None:
        """Bring the files into ``directory``. What an earlier call has brought is not brought
        again, and a file that it has brought in part is continued.

        Raises as `look`.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self._fetch(offer, "config.json", directory)
        check_config(read_json(directory / "config.json"), offer.repository)
        for name in offer.files:
            self._fetch(offer, name, directory)

    def _fetch(self, offer: Offer, name: str, directory: Path) -> None:
        size, part = offer.files[name], directory / f"{name}.part"
        if (directory / name).is_file():
            return
        url = self._hub.hf_hub_url(offer.repository, name, revision=offer.commit)

        def get() -> None:
            # Not the library's snapshot_download: that begins every file anew.
            with part.open("ab") as stream:
                self._get(
                    url,
                    stream,
                    resume_size=stream.tell(),
                    headers=self._hub.utils.build_hf_headers(token=self._token),
                    expected_size=size,
                    displayed_filename=name,
                )

        self._try(offer.repository, get)
        os.replace(part, directory / name)

    def _try(self, repository: str, call: Callable[[], T]) -> T:
        for pause in PAUSES:
            try:
                return self._call(repository, call)
            except _Busy as busy:
                self._say(f"The hub {busy}; trying again in {pause:g} s.")
                time.sleep(pause)
        try:
            return self._call(repository, call)
        except _Busy as busy:
            raise PalaverError(
                f"the hub {busy}; run the command again later to go on"
            ) from busy.__cause__

    def _call(self, repository: str, call: Callable[[], T]) -> T:
        with _translated(repository, self._hub.errors):
            return call()


class _Busy(Exception):
    """The hub may answer if it is asked again."""


@contextlib.contextmanager
def _translated(repository: str, errors: Any) -> Iterator[None]:  # Any: the hub's errors module
    """The hub's errors as ours. A gated repository's error is a kind of not found: it is first."""
    try:
        yield
    except errors.GatedRepoError as error:
        raise Forbidden(
            f"model {repository!r} is gated: accept its terms on its page at the hub, then give "
            "a token of yours in HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise NotFound(f"model {repository!r} has no such revision at the hub") from error
    except errors.RepositoryNotFoundError as error:
        raise NotFound(
            f"the hub has no model {repository!r}, or it is private: then give a token in HF_TOKEN"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in WORTH_WAITING:
            raise _Busy(f"answered with HTTP {status}") from error
        raise PalaverError(f"the hub answered with HTTP {status} for {repository!r}") from error
    except errors.OfflineModeIsEnabled as error:
        raise PalaverError("HF_HUB_OFFLINE is set, so the hub is not asked") from error
    except (errors.HTTPError, errors.LocalEntryNotFoundError, *LOST) as error:
        raise _Busy("cannot be reached") from error
    except OSError as error:
        raise PalaverError(f"the download cannot be stored: {error.strerror or error}") from error
