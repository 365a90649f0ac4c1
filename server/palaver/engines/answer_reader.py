"""Reads the JSON object that a model writes in place of a call or an answer, as it is written.

The object is ``{"tool": …, "arguments": …}`` or ``{"answer": "…"}``. The answer's text is passed on
piece by piece, decoded.
"""

import json
import re
from typing import Literal

_OBJECT_START = '{"answer":"'
_WHITE_SPACE = " \t\r\n"
_SPECIAL = re.compile(r'["\\]')
_ESCAPES = {
    '"': '"',
    "\\": "\\",
    "/": "/",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
}
_HEX = re.compile("[0-9a-fA-F]{4}")
REPLACEMENT = "\ufffd"
"""Stands for half a surrogate pair, and for what is no escape."""


class JsonStringDecoder:
    """Decodes a JSON string that arrives in pieces, from after its opening quotation mark.

    It takes more than JSON allows: characters that should be escaped, and unknown escapes.
    """

    def __init__(self) -> None:
        self.ended = False
        self._escape = ""
        """The beginning of an escape that is not complete."""
        self._high = ""
        """The first half of a surrogate pair."""

    def push(self, piece: str) -> str:
        """Add ``piece`` and return what it adds to the text."""
        piece, self._escape = self._escape + piece, ""
        decoded: list[str] = []
        position = 0
        while not self.ended and position < len(piece):
            found = _SPECIAL.search(piece, position)
            end = found.start() if found else len(piece)
            if end > position:
                decoded += self._end_half(), piece[position:end]
            position = end
            if found is None:
                break
            if found[0] == '"':
                decoded.append(self._end_half())
                self.ended = True
                break
            length = 6 if piece[end + 1 : end + 2] == "u" else 2
            if len(piece) < end + length:
                self._escape = piece[end:]
                break
            decoded.append(self._decode(piece[end + 1 : end + length]))
            position = end + length
        return "".join(decoded)

    def flush(self) -> str:
        """Return what stands for an escape that was cut off in the middle of a pair."""
        return self._end_half()

    def _end_half(self) -> str:
        half, self._high = self._high, ""
        return REPLACEMENT if half else ""

    def _decode(self, escape: str) -> str:
        """Return the text of an escape without its backslash."""
        if escape[0] != "u":
            return self._end_half() + _ESCAPES.get(escape, escape)
        if not _HEX.fullmatch(escape, 1):
            return self._end_half() + REPLACEMENT
        unit = int(escape[1:], 16)
        if 0xDC00 <= unit <= 0xDFFF:
            if not self._high:
                return REPLACEMENT
            pair = 0x10000 + ((ord(self._high) - 0xD800) << 10) + (unit - 0xDC00)
            self._high = ""
            return chr(pair)
        before = self._end_half()
        if 0xD800 <= unit <= 0xDBFF:
            self._high = chr(unit)
            return before
        return before + chr(unit)


class AnswerReader:
    """Reads what a model writes, and tells what it is, where ``kind`` is not given: an ``answer``
    from inside its text, or ``text``.

    ``kind`` becomes ``call`` for any JSON object that does not begin with an answer, and ``text``
    for what is no object: a server may not hold the model to the schema.
    """

    def __init__(self, kind: Literal["", "answer", "text"] = "") -> None:
        self.kind: Literal["", "answer", "call", "text"] = kind
        self._decoder = JsonStringDecoder()
        self._matched = 0
        self._pieces: list[str] = []

    @property
    def has_ended(self) -> bool:
        """Return whether the whole answer was written."""
        return self._decoder.ended

    @property
    def written(self) -> str:
        """Return all that the model has written."""
        return "".join(self._pieces)

    def push(self, piece: str) -> str:
        """Add ``piece`` and return what it adds to the answer's text."""
        self._pieces.append(piece)
        if not self.kind:
            return self._begin(piece)
        return self._continue(piece)

    def flush(self) -> str:
        """Return the rest of the text, when the model has written all of it."""
        return self._decoder.flush() if self.kind == "answer" else ""

    def _begin(self, piece: str) -> str:
        for index, character in enumerate(piece):
            if character in _WHITE_SPACE:
                continue
            if character != _OBJECT_START[self._matched]:
                self.kind = "call" if self._matched else "text"
                return self.written if self.kind == "text" else ""
            self._matched += 1
            if self._matched == len(_OBJECT_START):
                self.kind = "answer"
                return self._continue(piece[index + 1 :])
        return ""

    def _continue(self, piece: str) -> str:
        if self.kind == "answer":
            return "" if self._decoder.ended else self._decoder.push(piece)
        return piece if self.kind == "text" else ""


ANSWER_START = '{"answer": "'


def encode_answer_start(text: str) -> str:
    """Return the beginning of an object whose answer begins with ``text``."""
    return ANSWER_START + json.dumps(text, ensure_ascii=False)[1:-1]
