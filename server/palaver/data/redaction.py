"""Redaction: personal data in texts, replaced by marks such as ``[EMAIL]``.

Found are data with a form: addresses, numbers with check digits, telephone numbers. Names of
people and places are not.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Literal, NamedTuple, get_args

from palaver.data.identifiers import is_valid
from palaver.evaluation.libraries import load_library

RedactionKind = Literal[
    "url", "email", "iban", "card", "ip", "phone",
    "us_ssn", "de_tax_id", "fr_nir", "es_dni", "nl_bsn", "uk_nhs",
]  # fmt: skip
"""``url``: one with a name and password."""
REDACTION_KINDS: tuple[RedactionKind, ...] = get_args(RedactionKind)
_EDGE, _END = r"(?<![\w.+-])", r"(?![\w])"
_PATTERNS = {
    "url": r"\b[a-z][a-z0-9+.-]{1,20}://[^\s/@:]{1,200}:[^\s/@]{1,200}@[^\s<>\"')\]]{1,500}",
    "email": r"(?<![\w.+%-])[\w.+%-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w-])",
    "iban": _EDGE + r"[a-z]{2}\d{2}(?:[ -]?[a-z0-9]){11,30}" + _END,
    "card": _EDGE + r"[2-6]\d{3}(?:[ -]?\d){9,15}" + _END,
    "ip": r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){2,7})"
    r"(?!\w|[.:]\w)",
    "us_ssn": _EDGE + r"\d{3}[- ]\d{2}[- ]\d{4}" + _END,
    "de_tax_id": _EDGE + r"[1-9]\d[ ]?\d{3}[ ]?\d{3}[ ]?\d{3}" + _END,
    "fr_nir": _EDGE + r"[12] ?\d\d ?\d\d ?(?:\d\d|2[ab]) ?\d{3} ?\d{3} ?\d\d" + _END,
    "es_dni": _EDGE + r"[xyz\d]\d{7}[ -]?[a-z]" + _END,
    "nl_bsn": r"\bbsn\W{1,3}(\d{9})" + _END,
    "uk_nhs": _EDGE + r"\d{3} \d{3} \d{4}" + _END,
}
_COMPILED = {kind: re.compile(pattern, re.IGNORECASE) for kind, pattern in _PATTERNS.items()}
_CHECKED = frozenset(_PATTERNS) - {"url", "email", "ip"}
_DIGITS = re.compile(r"\d")
MIN_PHONE_DIGITS = 7


class Finding(NamedTuple):
    """Personal data in a text, in code points."""

    start: int
    end: int
    kind: str

    @property
    def mark(self) -> str:
        return f"[{self.kind.upper()}]"


class Redactor:
    """Finds and replaces personal data of some ``kinds``. ``regions``: countries whose telephone
    numbers are known without their code."""

    def __init__(self, kinds: Collection[str], regions: Sequence[str]) -> None:
        self._kinds = [kind for kind in _PATTERNS if kind in kinds]
        self._regions: tuple[str | None, ...] = (None, *regions) if "phone" in kinds else ()
        self._phones = load_library("phonenumbers", extra="data") if self._regions else None
        self.counts: Counter[str] = Counter()

    def redact(self, text: str) -> str:
        """Return the text with marks, and count them."""
        for finding in reversed(self.take(text)):
            text = text[: finding.start] + finding.mark + text[finding.end :]
        return text

    def take(self, text: str) -> list[Finding]:
        """Find, and count."""
        found = self.find(text)
        self.counts.update(finding.kind for finding in found)
        return found

    def find(self, text: str) -> list[Finding]:
        """Return what is found, in order. Of findings that overlap, the longer one counts, and any
        other one rather than a telephone number."""
        every = [finding for kind in self._kinds for finding in _find(kind, text)]
        if len(_DIGITS.findall(text)) >= MIN_PHONE_DIGITS:
            every += self._find_phones(text)
        taken: list[Finding] = []
        for finding in sorted(
            every, key=lambda each: (each.kind == "phone", each.start - each.end)
        ):
            if all(finding.end <= each.start or each.end <= finding.start for each in taken):
                taken.append(finding)
        return sorted(taken)

    def _find_phones(self, text: str) -> Iterator[Finding]:
        for region in self._regions:
            assert self._phones is not None
            for match in self._phones.PhoneNumberMatcher(text, region):
                yield Finding(match.start, match.end, "phone")


def _find(kind: str, text: str) -> Iterator[Finding]:
    for match in _COMPILED[kind].finditer(text):
        start, end = match.span(match.re.groups)  # of the number alone, where there is a group
        if kind == "iban":
            end = _end_of_iban(text, start, end)
        if (kind == "ip" and not _is_address(match[0])) or end <= start:
            continue
        if kind in _CHECKED and not is_valid(kind, text[start:end]):
            continue
        yield Finding(start, end, kind)


def _end_of_iban(text: str, start: int, end: int) -> int:
    """Return the end of the number, without words that follow it; ``start`` if there is none."""
    ends = [place for place in range(start + 15, end + 1) if place == end or text[place] in " -"]
    return next((each for each in reversed(ends) if is_valid("iban", text[start:each])), start)


def _is_address(text: str) -> bool:
    """Return True for an IP address of a machine; a time such as 10:20:30 is none."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not address.is_unspecified and not address.is_loopback
