"""Layout of the file store: the paths of its objects.

The objects of one file are in one folder, ``TENANT/PERSON/FILE/``, where the first two names are
digests, and the id of the file is the last two:

``content``       the bytes, written first
``about.json``    name, type and digest: a file exists from the moment this exists
``sent/DIGEST``   one for each conversation in which the file was sent

No object changes its content, so that replicas need no lock. ``TENANT/PERSON/erased`` is written by
an erasure before it lists what to delete, and read by an upload after it has written: so that one
of them sees the other.
"""

import hashlib
import re
import secrets

import msgspec

from palaver.errors import NotFound
from palaver.files.objects import ObjectInfo
from palaver.messages import FILE_PATH, Attachment, Conversation, StoredFile

_ID = re.compile(r"[0-9a-f]{64}")
_KEY_LENGTH = 32


class FileRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What ``about.json`` has: the file as it was uploaded, and whose it is."""

    tenant: str
    person: str
    file: StoredFile


decode_record = msgspec.json.Decoder(FileRecord).decode


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()[:_KEY_LENGTH]


def tenant_folder(tenant: str) -> str:
    return _key("tenant", tenant)


def person_folder(tenant: str, person: str) -> str:
    return f"{tenant_folder(tenant)}/{_key('person', tenant, person)}"


def erased_mark(person_folder: str) -> str:
    """Return the path of the mark that an erasure leaves."""
    return f"{person_folder}/erased"


def new_file_folder(person_folder: str) -> str:
    return f"{person_folder}/{secrets.token_hex(_KEY_LENGTH // 2)}"


def file_folder(tenant: str, id: str) -> str:
    """Return the folder of a file. Raises `NotFound` for what is no id."""
    if not _ID.fullmatch(id):
        raise no_such_file(id)
    return f"{tenant_folder(tenant)}/{id[:_KEY_LENGTH]}/{id[_KEY_LENGTH:]}"


def id_of(file_folder: str) -> str:
    return "".join(file_folder.split("/")[-2:])


def content_path(file_folder: str) -> str:
    return f"{file_folder}/content"


def record_path(file_folder: str) -> str:
    return f"{file_folder}/about.json"


def sent_folder(file_folder: str) -> str:
    return f"{file_folder}/sent"


def sent_mark(file_folder: str, conversation: Conversation) -> str:
    return f"{sent_folder(file_folder)}/{_key('conversation', str(conversation))}"


def no_such_file(id: str) -> NotFound:
    return NotFound(f"there is no file {id[:64]!r}; it may have been deleted, or have expired")


def file_id(attachment: Attachment) -> str | None:
    """Return the id of the stored file that an attachment is, else None."""
    id = attachment.url.removeprefix(FILE_PATH)
    return id if id != attachment.url and _ID.fullmatch(id) else None


class FolderOfFile:
    """The objects of one file, as they are listed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.content: ObjectInfo | None = None
        self.about: ObjectInfo | None = None
        self.sent: list[ObjectInfo] = []

    def add(self, found: ObjectInfo) -> None:
        if found.path == content_path(self.path):
            self.content = found
        elif found.path == record_path(self.path):
            self.about = found
        elif found.path.startswith(f"{sent_folder(self.path)}/"):
            self.sent.append(found)

    @property
    def size(self) -> int:
        return 0 if self.content is None else self.content.size

    def paths(self) -> list[str]:
        """Return what to delete, in order: a file without ``about.json`` does not exist."""
        return [each.path for each in (self.about, *self.sent, self.content) if each is not None]
