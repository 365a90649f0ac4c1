"""Decoding of a file's bytes: by mark, as UTF-8, by the declared encoding, else by detection."""

import codecs
import contextlib
import encodings
import importlib
import pkgutil
import re
from typing import NamedTuple

from charset_normalizer import from_bytes

MAX_SAMPLE_BYTES = 16_384
"""Bytes that the detection reads: of the lines that are not ASCII."""
MAX_HEAD_BYTES = 4_096
"""Bytes at the beginning in which a declaration is looked for."""
MAX_BAD_SHARE = 0.02
"""Share of the other characters that may be invalid in a damaged file."""
MIN_LETTERS = 3
"""Different letters in UTF-8 that outweigh the declaration of another encoding."""
MAX_ZERO_SHARE = 1_000
"""Bytes of a text to one that is zero."""
MIN_COMMON_SHARE = 0.95
"""Share of common characters in what is taken for UTF-16."""
MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
"""Byte order marks; that of UTF-32 begins with one of UTF-16."""
DETECTED = (
    "cp1252", "cp932", "gb18030", "big5hkscs", "cp949", "euc_jp", "iso2022_jp", "cp1250", "cp1251",
    "koi8_r", "cp1253", "cp1254", "cp1255", "cp1256", "cp874", "cp866", "iso8859_5",
)  # fmt: skip
"""Encodings that are detected. Of those that fit equally well, the first."""
MULTIBYTE = frozenset({"cp932", "gb18030", "big5hkscs", "cp949", "euc_jp", "iso2022_jp"})
"""Encodings in which a wrong text hardly ever is valid."""
LATIN = frozenset({"cp1252", "cp1250", "cp1254"})
"""Encodings of languages in which most letters are ASCII."""
_SUPERSETS = {
    "ascii": "cp1252", "iso8859-1": "cp1252", "iso8859-9": "cp1254", "gb2312": "gb18030",
    "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "big5": "big5hkscs",
    "iso8859-11": "cp874", "tis-620": "cp874",
    "utf-16": "utf-8", "utf-16-le": "utf-8", "utf-16-be": "utf-8",
}  # fmt: skip
"""What browsers read for a declared encoding: https://encoding.spec.whatwg.org/#names-and-labels."""
_DECLARED = re.compile(
    rb"""<(?:meta\s[^<>]{0,500}?charset|\?xml\s[^<>]{0,100}?encoding)\s*=\s*["']?([\w.:-]{1,40})""",
    re.IGNORECASE,
)
_COMMENT = re.compile(rb"<!--[^<>]{0,1000}(?:<[^<>]{0,1000}>[^<>]{0,1000})?-->")
_LABEL = re.compile(r"^x-|windows-|(?<=8859-8)-[ie]$")
"""What Python does not know in labels such as ``x-sjis``, ``windows-874`` and ``iso-8859-8-i``."""
_CONTROL = re.compile(r"[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_CONTROL_BYTE = re.compile(_CONTROL.pattern.encode())
_COMMON = re.compile(
    "[\t\n\r -~\u00a0-\u06ff\u0900-\u0fff\u1e00-\u1fff\u2000-\u206f\u20a0-\u22ff"
    "\u3000-\u30ff\u4e00-\u9fff\uac00-\ud7a3\uff00-\uffef]"
)
"""Characters that make up most of a text in any language."""
_ASCII = re.compile(r"[\n\r -~]")
_COLOURS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
"""Control sequences in logs: the last letter would become part of the word after it."""
_HALF_WIDTH = re.compile("[\uff61-\uff9f]")
_KANA = re.compile("[\u3041-\u30ff]")


class Decoded(NamedTuple):
    """Text of a file, and a note for the person when its encoding is a guess or is damaged."""

    text: str
    note: str = ""


class Undecodable(Exception):
    """The bytes are no text, for the reason in the message."""


def import_codecs() -> None:
    """Import every codec that may be needed."""
    for module in pkgutil.iter_modules(encodings.__path__):
        with contextlib.suppress(ImportError):  # those of other systems
            importlib.import_module(f"encodings.{module.name}")
    from_bytes(b"caf\xe9", cp_isolation=list(DETECTED), enable_fallback=False)


def decode(content: bytes, *, has_declaration: bool = False) -> Decoded:
    """Return the text with line ends ``\\n``, without colours. Raises `Undecodable`."""
    decoded = _decode(content, has_declaration)
    text = decoded.text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    return decoded._replace(text=_COLOURS.sub("", text))


def _decode(content: bytes, has_declaration: bool) -> Decoded:
    for mark, encoding in MARKS.items():
        if content.startswith(mark):
            return Decoded(_decode_strictly(content[len(mark) :], encoding))
    declared = _find_declared(content) if has_declaration else ""
    is_text = b"\0" not in content
    utf_8 = _try(content, "utf-8") if is_text else None
    if is_text and declared in MULTIBYTE and not (utf_8 and _is_surely_utf_8(utf_8)):
        if (text := _try(content, declared)) is not None:
            return Decoded(text)
    if is_text and b"\x1b$" in content and (text := _try(content, "iso2022_jp")) is not None:
        return Decoded(text, _describe_guess("iso2022_jp"))
    if utf_8 is not None:
        return Decoded(utf_8)
    if _CONTROL_BYTE.search(content) and (wide := _decode_wide(content)):
        return wide
    if not is_text:
        return _decode_with_zeros(content)
    if declared and (text := _try(content, declared)) is not None:
        return Decoded(text)
    return _decode_damaged(content, declared or "utf-8") or _detect(content)


def _is_surely_utf_8(text: str) -> bool:
    """Return True when hardly any text of another encoding could be valid UTF-8 by chance."""
    return len({letter for letter in text[:MAX_SAMPLE_BYTES] if letter > "\x7f"}) >= MIN_LETTERS


def _try(content: bytes, encoding: str) -> str | None:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        return None


def _decode_strictly(content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise Undecodable(f"it is not {encoding.upper()} text (byte {error.start})") from error


def _decode_with_zeros(content: bytes) -> Decoded:
    """Decode UTF-8 with a few zero bytes, as in a log that a crash has cut."""
    zeros = content.count(0)
    text = _try(content, "utf-8") if zeros * MAX_ZERO_SHARE < len(content) else None
    if text is None:
        raise Undecodable("it is a binary file")
    places = "one zero byte is" if zeros == 1 else f"{zeros:_} zero bytes are"
    return Decoded(text.replace("\0", ""), f"{places} left out")


def _decode_wide(content: bytes) -> Decoded | None:
    """Decode UTF-16 without a mark, in the order of bytes that makes more sense."""
    found: list[tuple[int, str, str]] = []
    for encoding in ("utf-16-le", "utf-16-be"):
        if text := _try(content, encoding):
            start = text[:MAX_SAMPLE_BYTES]
            if len(_COMMON.findall(start)) >= MIN_COMMON_SHARE * len(start):
                found.append((len(_ASCII.findall(start)), encoding, text))
    if not found:
        return None
    _, encoding, text = max(found)
    return Decoded(text, _describe_guess(encoding))


def _find_declared(content: bytes) -> str:
    """Return the codec for the encoding that an HTML or XML file declares, if there is one."""
    found = _DECLARED.search(_COMMENT.sub(b"", content[:MAX_HEAD_BYTES]))
    label = found[1].decode("ascii", "replace").lower() if found else ""
    try:
        name = codecs.lookup(_LABEL.sub(lambda part: "cp" * (part[0] == "windows-"), label)).name
    except LookupError:
        return ""
    name = _SUPERSETS.get(name, name)
    return name if name in DETECTED or name.startswith(("utf", "cp", "iso", "mac", "koi")) else ""


def _decode_damaged(content: bytes, encoding: str) -> Decoded | None:
    """Decode a text in which a few bytes are invalid."""
    _refuse_surrogates(content)
    text = content.decode(encoding, "replace")
    bad = text.count("\ufffd")
    good = len(text) - bad - len(content.translate(None, bytes(range(128, 256))))
    if bad > MAX_BAD_SHARE * good:
        return None
    name = encoding.upper()
    places = "one place is" if bad == 1 else f"{bad:_} places are"
    return Decoded(text, f"{places} not valid {name}, marked by \ufffd")


def _refuse_surrogates(content: bytes) -> None:
    try:
        content.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return
    if (text := content.decode("utf-8", "replace")) and "\ufffd" in text:
        start = len(text[: text.index("\ufffd")].encode())
        raise Undecodable(f"it is not UTF-8 text (byte {start}: half of a surrogate pair)")


def _detect(content: bytes) -> Decoded:
    for name in _rank_encodings(_take_sample(content)):
        text = _try(content, name)
        if text is not None and not _CONTROL.search(text):
            return Decoded(text, _describe_guess(name))
    raise Undecodable("it is neither UTF-8 text nor text in another known encoding")


def _rank_encodings(sample: bytes) -> list[str]:
    """Return the encodings that may be that of a sample, the likeliest first."""
    found = from_bytes(sample, cp_isolation=list(DETECTED), enable_fallback=False)
    ranked = sorted(
        (
            _is_half_width(str(match)),
            round(match.chaos, 1),
            -match.coherence,
            _rank(name, str(match)),
            name,
        )
        for match in found
        for name in match.could_be_from_charset
    )
    is_latin = _may_be_latin(sample)
    names = [name for *_, name in ranked if is_latin or name not in LATIN]
    ascii_share = len(sample.translate(None, bytes(range(128, 256)))) / max(1, len(sample))
    is_unknown = not ranked or (ranked[0][2] == 0 and names[0] not in MULTIBYTE)
    # Few letters that are not ASCII, in no known language: what browsers assume.
    return ["cp1252", *names] if is_unknown and ascii_share > 0.5 else names


def _may_be_latin(sample: bytes) -> bool:
    ascii_ = sample.decode("ascii", "ignore")
    others = len(sample) - len(ascii_)
    return others < MIN_LETTERS or others <= sum(map(str.isalpha, ascii_))


def _is_half_width(text: str) -> bool:
    """Return True for mostly half-width kana, which are hardly ever written any more."""
    kana = len(_HALF_WIDTH.findall(text))
    return 2 * kana > sum(letter > "\x7f" for letter in text)


def _rank(name: str, text: str) -> tuple[bool, int]:
    """Order encodings that fit equally well: kana are rare in any but Japanese text."""
    is_japanese = name in ("cp932", "euc_jp", "iso2022_jp") and bool(_KANA.search(text))
    return not is_japanese, DETECTED.index(name) if name in DETECTED else len(DETECTED)


def _take_sample(content: bytes) -> bytes:
    """Return lines that are not ASCII; in those, a rare letter weighs enough."""
    lines: list[bytes] = []
    length = 0
    for line in re.finditer(rb"[^\n]*\n?", content):
        if not line[0].isascii():
            lines.append(line[0][: MAX_SAMPLE_BYTES - length])
            length += len(lines[-1])
        if length >= MAX_SAMPLE_BYTES:
            break
    return b"".join(lines)


def _describe_guess(encoding: str) -> str:
    return f"its encoding is a guess: {encoding.upper().replace('_', '-')}"
