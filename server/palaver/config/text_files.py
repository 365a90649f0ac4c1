"""Text files of the operator: the settings and secrets."""

import codecs
from pathlib import Path

from palaver.errors import ConfigurationError

BYTE_ORDER_MARK = "\ufeff"
_OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # first: it begins with the mark of UTF-16
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read_text_file(file: Path, name: str) -> str:
    """Return the text of a file in UTF-8, without a byte order mark.

    Raises `ConfigurationError`, which calls the file ``name`` and quotes nothing of it.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{name}: {error.strerror}") from error
    found = next((kind for mark, kind in _OTHER_MARKS.items() if data.startswith(mark)), "")
    if not found and b"\0" in data:
        found = "UTF-16 or no text"
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = found or f"in another encoding: line {line} is not UTF-8"
        raise _wrong_encoding(name, found) from None
    if found:
        raise _wrong_encoding(name, found)
    return text.removeprefix(BYTE_ORDER_MARK)


def _wrong_encoding(name: str, found: str) -> ConfigurationError:
    return ConfigurationError(f"{name} cannot be read: it is {found}; save it as UTF-8")
