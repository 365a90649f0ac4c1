"""Identity and name of a file's document: the canonical path, and the end of it that people see."""

import itertools
import os
from collections.abc import Collection, Iterable
from pathlib import PurePath

from palaver import DocumentInfo

MAX_NAME_PARTS = 3
"""The file's name and two folders at most: more would show how the disk is laid out."""


def find_canonical_path(id_: str) -> str:
    """Return an absolute path without links. What is no absolute path, as a URL, stays as it is."""
    return find_real_path(id_) if os.path.isabs(id_) else id_


def find_real_path(typed: str) -> str:
    """Return the absolute path without links, and what cannot be a path as it is."""
    try:
        return typed if "://" in typed else os.path.realpath(typed)
    except ValueError:  # a zero byte, or half of a surrogate pair
        return typed


def choose_name(id_: str, used: Collection[str]) -> str:
    """Return the shortest end of a path that no other document is called."""
    path = PurePath(id_)
    if not path.is_absolute() and ".." not in path.parts:
        return id_.removeprefix("./")
    parts = [part for part in path.parts[path.is_absolute() :] if part != ".."] or ["document"]
    ends = ["/".join(parts[-count:]) for count in range(1, min(len(parts), MAX_NAME_PARTS) + 1)]
    numbered = (f"{ends[-1]} ({number})" for number in itertools.count(2))
    return next(name for name in itertools.chain(ends, numbered) if name not in used)


def find_documents(
    typed: Iterable[str], documents: Iterable[DocumentInfo]
) -> dict[str, DocumentInfo | None]:
    """Return the document that is meant by each id, path in any spelling, or name."""
    infos = tuple(documents)
    return {each: _find_document(each, infos) for each in typed}


def _find_document(typed: str, infos: Iterable[DocumentInfo]) -> DocumentInfo | None:
    path = find_real_path(typed)
    for is_meant in (
        lambda info: info.id == typed,
        lambda info: info.id == path,
        lambda info: info.name == typed,
        lambda info: not os.path.isabs(info.id) and find_real_path(info.id) == path,
    ):
        if found := next(filter(is_meant, infos), None):
            return found
    return None
