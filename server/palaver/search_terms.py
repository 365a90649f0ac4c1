"""Search terms: the one normal form in which a text and a question about it are compared.

`normalize_text` makes spellings equal that mean the same word: upper and lower case, ligatures,
full-width forms, accents, Arabic and Hebrew marks, invisible characters. `split_terms` splits a
text into normalized words, and adds for a compound (`max_message_bytes`, `e-mail`, `node.js`,
`camelCase`, `3.11.2`, a word that is hyphenated at the end of a line) its parts joined, so that it
is found by the whole and by its parts. Scripts without spaces (Chinese, Japanese, Thai; Korean,
which appends particles) become overlapping pairs of characters.

All of it takes linear time.
"""

import itertools
import re
import unicodedata
from collections.abc import Iterator

_MAX_WHOLE = 64
"""Characters of the longest compound that is a term as a whole."""
_UNSPACED = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u0edc-\u0edf\u1000-\u103f\u1050-\u109f\u1100-\u11ff"
    "\u1780-\u17d3\u17d7\u17dc\u17dd\u3005-\u3007\u3031-\u3035\u3041-\u309f\u30a1-\u30fa\u30fc-\u312f"
    "\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uaa60-\uaa7f\uac00-\ud7ff"
    "\uf900-\ufaff\U00020000-\U000323af"
)
"""Scripts that are split into pairs."""
_WORD_MARKS = (
    "\u0711\u0730-\u074a\u07a6-\u07b0\u07eb-\u07f3\u0900-\u0963\u0966-\u096f\u0971-\u0df3\u0f35"
    "\u0f37\u0f39\u0f71-\u0f84\u0f86\u0f87\u0f8d-\u0fbc\u135d-\u135f\u1b00-\u1b44\ua980-\ua9c0"
)
"""Vowel signs, which are parts of words, but not of the class of letters of `re`."""
_ACCENTS = (
    "\u0300-\u0305\u0307-\u036f\u0483-\u0489\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7"
    "\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed"
    "\u093c\u0a3c\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
)
"""Marks that a person may leave out; the breve is apart."""
_ACCENT = re.compile(f"[{_ACCENTS}]|(?<![\u0438\u0418])\u0306")  # й is no и with an accent
_NASAL = re.compile("(?:ङ्(?=[क-घ])|ञ्(?=[च-झ])|ण्(?=[ट-ढ])|न्(?=[त-ध])|म्(?=[प-भ]))")
"""A nasal that is written as a sign as well: हिन्दी, हिंदी."""
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff]"
)
_MARKS_RUN = re.compile(r"([^\w\x00-\x7f]{64})[^\w\x00-\x7f]+")
"""Long runs of marks, which `unicodedata` sorts in quadratic time."""
_DIGIT = re.compile(r"(?![0-9])\d")
_PUNCTUATION = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201b\u02bc\u02bb\u02b9\u2032\u00b4`\u05f3", "'"),
        **{"♯": "#", "٪": "%", "\u05f4": '"', "\u05be": "-"},
    }
)
_LETTERS = _PUNCTUATION | str.maketrans(
    {
        **{"ø": "o", "đ": "d", "ł": "l", "ħ": "h", "ı": "i", "æ": "ae", "œ": "oe", "þ": "th"},
        **{"ð": "d"},
        **{"ٱ": "ا", "ة": "ه", "ى": "ي", "ی": "ي", "ک": "ك", "ە": "ه", "ہ": "ه", "ھ": "ه"},
        **{"\u0901": "\u0902"},
        **{chr(letter): chr(letter - 0x60) for letter in range(0x30A1, 0x30F7)},  # katakana
    }
)
_UMLAUTS = str.maketrans(
    {
        **{"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe"},
        **{"Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "Å": "Aa", "Ø": "Oe"},
    }
)
"""What is typed for a letter on a keyboard that lacks it."""
_UMLAUT = re.compile("[äöüåøÄÖÜÅØ\u0308\u030a]")

_LINE_HYPHEN = re.compile("\u00ad\\s+")
_NO_BREAK = re.compile("(?<=\\d)[\u00a0\u2009\u202f](?=\\d{3}(?!\\d))")
_UNSPACED_BREAK = re.compile(f"(?<=[{_UNSPACED}])[ \t]*+\r?\n[ \t]*+(?=[{_UNSPACED}])")
_RUN = re.compile(f"[{_UNSPACED}]+")
_W = rf"[\w{_WORD_MARKS}]"
_JOINER = r"(?:[-‐‑‒–−'.:/@&\\·]{1,2}+|[-‐¬]\s++|(?<=[\u05d0-\u05ea])[\"”]|,(?=\d{3}(?!\d)))"
_WORD = re.compile(rf"(?:(?<![\w.])\.)?{_W}++(?:{_JOINER}{_W}++)*(?:[#+]{{1,2}}|%)?")
_SIGNED_LETTER = re.compile(r"[^\W\d][#+]{1,2}")
"""A name such as ``C#``, which is no kind of ``C``."""
_BOUNDARY = re.compile(
    rf"[^\w{_WORD_MARKS}]+|(?<=[a-zß-ÿ])(?=[A-ZÀ-Þ])|(?<=[A-Z])(?=[A-Z][a-z]{{2}})"
    r"|(?<=\d)(?=[^\W\d])|(?<=[^\W\d])(?=\d)"
)


def normalize_text(text: str) -> str:
    """Return the text in the form in which texts are compared. Doing it twice changes nothing."""
    if text.isascii():
        return text.lower().replace("`", "'")
    text = unicodedata.normalize("NFKD", _MARKS_RUN.sub(r"\1", _INVISIBLE.sub("", text)))
    text = _ACCENT.sub("", text).casefold().translate(_LETTERS)
    text = _NASAL.sub("\u0902", text)
    return unicodedata.normalize("NFKC", _DIGIT.sub(_read_digit, text))


def split_terms(text: str) -> list[str]:
    """Return the normalized words of the text in order, each compound also joined."""
    terms: list[str] = []
    for word in _WORD.findall(_prepare(text)):
        if word.isalpha() and word[1:] == word[1:].lower():
            terms.append(word)
        else:
            terms += _split_compound(word)
    if _UMLAUT.search(text):
        terms = [spelled for term in terms for spelled in _spell_out(term)]
    return normalize_text(" ".join(terms)).split()


def is_unspaced(letter: str) -> bool:
    """Return True for a character of a script that is split into pairs."""
    return _RUN.match(letter) is not None


def _prepare(text: str) -> str:
    """Return the text with its case and accents, and all else as in the normal form."""
    if not text.isascii():
        text = _NO_BREAK.sub("'", _LINE_HYPHEN.sub("-\n", text)).replace("\u200c", "-")
        text = _MARKS_RUN.sub(r"\1", _INVISIBLE.sub("", text.translate(_PUNCTUATION)))
        text = _ACCENT.sub("", unicodedata.normalize("NFKC", text))
        text = _DIGIT.sub(_read_digit, text)
        text = _RUN.sub(_split_run, _UNSPACED_BREAK.sub("", text))
    return text.replace("_", "-").replace("`", "'")


def _read_digit(match: re.Match[str]) -> str:
    return str(unicodedata.decimal(match[0]))


def _split_run(match: re.Match[str]) -> str:
    run = match[0]
    return f" {' '.join(map(''.join, itertools.pairwise(run))) or run} "


def _split_compound(word: str) -> list[str]:
    """Return the parts of a word, each two of them joined, and all of them."""
    if _SIGNED_LETTER.fullmatch(word):
        return [word]
    parts = [part for part in _BOUNDARY.split(word) if part]
    joined = [a + b for a, b in itertools.pairwise(parts)]
    if len(parts) > 2 and len(word) <= _MAX_WHOLE:
        joined.append("".join(parts))
    if word[0] == ".":
        joined.append(f".{parts[0]}")
    if word[-1] in "#+%":
        joined.append(parts[-1] + word[len(word.rstrip("#+%")) :])
    return parts + joined


def _spell_out(term: str) -> Iterator[str]:
    yield term
    if _UMLAUT.search(term):
        yield term.translate(_UMLAUTS)
