"""People whose words the files of jobs have, and their erasure from these.

A job that reads people's words keeps a random key in its folder. Each line of its JSON Lines files
names people, and the conversation, by hashes with that key: they tell nobody who it was, and differ
from job to job.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import itertools
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from palaver.jobs.folder import JOB, JobFolder, Json, read_object
from palaver.private_files import open_private_file, write_private_file

KEY_FILE = "people.key"
NAMES_FILE = "people.names"
"""The names of all people in the files of a finished job: most erasures concern none of them."""
MANIFEST = "manifest.json"
"""File of a finished job that lists its files: ``outputs`` has rows, bytes and SHA-256 by path."""
OUTPUTS, SHOWN, PROFILE = "data", "dropped.jsonl", "profile.html"
"""Directory of the outputs, rows that were dropped, and the page about all of it."""
WORK, SNAPSHOTS, ERASED = "work", "sources", "erased.jsonl"
"""Of a job that has not finished: files of its steps, what it reads of the ledger, and who was
erased in the meantime."""
NAME_BYTES = 16


@dataclasses.dataclass(frozen=True, slots=True)
class ErasedRows:
    """Rows that an erasure has removed from the files of a job. ``readers``: the jobs that have
    read these files, such as trainings."""

    job: str
    rows: int
    readers: tuple[str, ...]

    def __str__(self) -> str:
        removed = f"removed {self.rows} rows and examples from the files of job {self.job!r}"
        if not self.readers:
            return removed
        names = ", ".join(map(repr, self.readers))
        return f"{removed}; read before by {names}: what they have made still knows the rows"


class PeopleNames:
    """Opaque names of the people and conversations in the files of one job."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def create(cls, folder: Path) -> "PeopleNames":
        key = secrets.token_bytes(32)
        write_private_file(folder / KEY_FILE, key)
        return cls(key)

    @classmethod
    def of(cls, folder: Path) -> "PeopleNames | None":
        """Return those of a job, None for a job that reads no one's words."""
        file = folder / KEY_FILE
        return cls(file.read_bytes()) if file.exists() else None

    def person(self, tenant: str, person: str) -> str:
        return self._hash(f"person {tenant}/{person}")

    def conversation(self, conversation: str) -> str:
        return self._hash(f"conversation {conversation}")

    def _hash(self, text: str) -> str:
        data = text.encode(errors="surrogatepass")
        return hashlib.blake2b(data, key=self._key, digest_size=NAME_BYTES).hexdigest()


def erase_rows(
    directory: Path, tenant: str, person: str, conversation: str = ""
) -> tuple[ErasedRows, ...]:
    """Remove a person's rows, or those of one ``conversation``, from the files of all jobs in a
    directory. Idempotent. One that runs removes them when it finishes; one that was interrupted
    begins again when it is resumed.

    A model that was trained on the rows stays as it is: ``readers`` names the jobs.
    """
    jobs = [JobFolder(path.parent) for path in sorted(directory.glob(f"*/{KEY_FILE}"))]
    found = []
    for job in jobs:
        names = PeopleNames.of(job.path)
        if names is not None:
            whose = Erased(
                names.person(tenant, person),
                names.conversation(conversation) if conversation else "",
            )
            if rows := _erase_from(job, whose):
                found.append(ErasedRows(job.name, rows, _readers(directory, job)))
    return tuple(found)


@dataclasses.dataclass(frozen=True, slots=True)
class Erased:
    """Whose rows go, by opaque names: of one conversation, where there is one."""

    person: str
    conversation: str

    def includes_line(self, line: bytes) -> bool:
        if self.person.encode() not in line:  # most lines need not be parsed
            return False
        row = json.loads(line)
        is_theirs = self.person in row.get("people", ())
        return is_theirs and self.conversation in ("", row.get("conversation", ""))


@contextlib.contextmanager
def changing_rows(folder: Path) -> Iterator[None]:
    """Keep an erasure and the end of the job's program apart."""
    with open(folder / KEY_FILE, "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _erase_from(job: JobFolder, whose: Erased) -> int:
    with changing_rows(job.path):
        rows = sum(_rewrite(file, whose) for file in (job.path / SNAPSHOTS).glob("*.jsonl"))
        if (job.path / MANIFEST).exists():
            if whose.person in read_names(job.path):
                rows += _erase_from_outputs(job, [whose])
            return rows
        with open(job.path / ERASED, "a", encoding="ascii") as stream:
            stream.write(json.dumps(dataclasses.asdict(whose)) + "\n")
        if job.state() != "running":
            shutil.rmtree(job.path / WORK, ignore_errors=True)
    return rows


def finish_erasures(job: JobFolder) -> None:
    """Remove what was erased while the job ran. The manifest must be there, and `changing_rows`
    entered."""
    with contextlib.suppress(FileNotFoundError):
        lines = (job.path / ERASED).read_text(encoding="ascii").splitlines()
        _erase_from_outputs(job, [Erased(**json.loads(line)) for line in lines])
        (job.path / ERASED).unlink()


def _erase_from_outputs(job: JobFolder, erased: Sequence[Erased]) -> int:
    manifest = read_object(job.path / MANIFEST)
    rows = 0
    for whose in erased:
        rows += sum(_rewrite(job.path / name, whose) for name in (*manifest["outputs"], SHOWN))
    if rows:
        write_names(job.path, manifest)
        manifest["outputs"] = {name: describe_rows(job.path / name) for name in manifest["outputs"]}
        manifest["erased_rows"] += rows
        job.write(MANIFEST, manifest)
        (job.path / PROFILE).unlink(missing_ok=True)
    return rows


def read_names(folder: Path) -> frozenset[str]:
    return frozenset((folder / NAMES_FILE).read_text(encoding="ascii").split())


def write_names(folder: Path, manifest: Json) -> None:
    """Write the names of the people in the outputs of a manifest."""
    people: set[str] = set()
    for name in (*manifest["outputs"], SHOWN):
        with open(folder / name, "rb") as lines:
            people.update(*(json.loads(line).get("people", ()) for line in lines))
    content = "".join(f"{name}\n" for name in sorted(people))
    write_private_file(folder / NAMES_FILE, content.encode())


def _rewrite(file: Path, whose: Erased) -> int:
    """Remove the lines of a file that are erased; return their number."""
    with open(file, "rb") as lines:
        count = sum(map(whose.includes_line, lines))
    if count:
        with open(file, "rb") as lines, open_private_file(file) as kept:
            kept.writelines(itertools.filterfalse(whose.includes_line, lines))
    return count


def _readers(directory: Path, job: JobFolder) -> tuple[str, ...]:
    """Return the names of the jobs that have a file of this one among their inputs."""
    others = [JobFolder(path.parent) for path in sorted(directory.glob(f"*/{JOB}"))]
    folder = str(job.path.resolve()) + os.sep
    return tuple(
        other.name
        for other in others
        if any(str(Path(path).resolve()).startswith(folder) for path in other.describe().inputs)
    )


def describe_rows(file: Path) -> Json:
    """Return rows, bytes and SHA-256 of a file of JSON Lines."""
    digest, size, rows = hashlib.sha256(), 0, 0
    with open(file, "rb") as stream:
        for line in stream:
            digest.update(line)
            size += len(line)
            rows += 1
    return {"rows": rows, "bytes": size, "sha256": digest.hexdigest()}
