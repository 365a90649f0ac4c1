"""Sentences with personal data that is made up, and how much of it the redaction finds.

python -m tests.server.data.personal_data
"""

import random
import string
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from palaver.data.identifiers import is_valid
from palaver.data.redaction import REDACTION_KINDS, Redactor
from palaver.evaluation.libraries import load_library

REGIONS = ("US", "GB", "DE", "FR", "ES")
NAMES = ("ada", "jürgen", "li.wei", "o-brien", "maria_lopez", "x99", "j.r.smith")
DOMAINS = ("example.org", "mail.example.co.uk", "büro.example.de", "a-b.example.net")
BEFORE = (
    "My number is {}",
    "please use {}, thanks",
    "({})",
    "contact: {}.",
    "{}",
    "Use {}; or not",
)
HARMLESS = (
    "The order 2024-11-30 has 1,250 items at 19.99 each.",
    "Meet at 10:20:30 in room 12.",
    "Version 3.11.2 of the package, released 2026-01-15.",
    "Call the function f(x, y) with 3.14159 and 2.71828.",
    "ISBN 978-3-16-148410-0 is on page 1234.",
    "The invoice 4000123412341234 is open.",
    "Article 123456789 weighs 12.5 kg.",
    "It costs 1.234.567,89 euros.",
    "Follow @somebody or read https://example.org/a:b/c.",
    "The hash is 5d41402abc4b2a76b9719d911017c592.",
    "Chapter 12-34-5678 of the appendix.",
    "In 1999 2000 and 2001 there were 365 days.",
    "User 12345678 wrote 42 comments.",
    "Row 000 000 0000 is empty.",
    "The train IC 2034 leaves at 14:05 from platform 7.",
)


class Case(NamedTuple):
    """A sentence, and the personal data in it."""

    text: str
    kind: str
    value: str


def _digits(chooser: random.Random, count: int) -> str:
    return "".join(chooser.choices(string.digits, k=count))


def _until_valid(kind: str, make: Callable[[], str]) -> str:
    return next(text for text in iter(make, None) if is_valid(kind, text))


def _make_phone(chooser: random.Random) -> str:
    phonenumbers = load_library("phonenumbers", extra="data")
    example = phonenumbers.example_number_for_type(
        chooser.choice(REGIONS), phonenumbers.PhoneNumberType.MOBILE
    )
    forms = phonenumbers.PhoneNumberFormat
    form = chooser.choice([forms.INTERNATIONAL, forms.NATIONAL, forms.E164])
    while True:
        number = int(str(example.national_number)[:-3] + _digits(chooser, 3))
        made = phonenumbers.PhoneNumber(example.country_code, number)
        if phonenumbers.is_valid_number(made):
            return str(phonenumbers.format_number(made, form))


def _make_url(chooser: random.Random) -> str:
    scheme = chooser.choice(("https", "postgresql", "redis"))
    return f"{scheme}://{chooser.choice(NAMES)}:s3cr3t{_digits(chooser, 3)}@db.example.org/main"


def _make_ip(chooser: random.Random) -> str:
    if chooser.random() < 0.5:
        return ".".join(str(chooser.randrange(1, 255)) for _ in range(4))
    return f"2001:db8:{chooser.randrange(1, 65536):x}::{chooser.randrange(1, 65536):x}"


MAKERS: Mapping[str, Callable[[random.Random], str]] = {
    "email": lambda r: f"{r.choice(NAMES)}{r.randrange(99)}@{r.choice(DOMAINS)}",
    "phone": _make_phone,
    "url": _make_url,
    "ip": _make_ip,
    "iban": lambda r: _until_valid(
        "iban",
        lambda: (
            f"DE{_digits(r, 2)} {_digits(r, 4)} {_digits(r, 4)} {_digits(r, 4)} "
            f"{_digits(r, 4)} {_digits(r, 2)}"
        ),
    ),
    "card": lambda r: _until_valid(
        "card", lambda: "-".join(["4" + _digits(r, 3), *(_digits(r, 4) for _ in range(3))])
    ),
    "us_ssn": lambda r: (
        f"{r.randrange(1, 665):03}-{r.randrange(1, 99):02}-{r.randrange(1, 9999):04}"
    ),
    "de_tax_id": lambda r: _until_valid("de_tax_id", lambda: "1" + _digits(r, 10)),
    "fr_nir": lambda r: _until_valid(
        "fr_nir", lambda: f"1 85 05 78 {_digits(r, 3)} {_digits(r, 3)} {_digits(r, 2)}"
    ),
    "es_dni": lambda r: _until_valid(
        "es_dni", lambda: _digits(r, 8) + r.choice(string.ascii_uppercase)
    ),
    "nl_bsn": lambda r: "BSN " + _until_valid("nl_bsn", lambda: _digits(r, 9)),
    "uk_nhs": lambda r: _until_valid(
        "uk_nhs", lambda: f"{_digits(r, 3)} {_digits(r, 3)} {_digits(r, 4)}"
    ),
}


def make_cases(count: int, seed: int) -> Iterator[Case]:
    """Yield sentences with data of each kind, ``count`` of each, and as many without any."""
    chooser = random.Random(seed)
    for kind, make in MAKERS.items():
        for _ in range(count):
            value = make(chooser)
            yield Case(chooser.choice(BEFORE).format(value), kind, value)
    for _ in range(count):
        number = str(chooser.randrange(10, 99))
        yield Case(chooser.choice(HARMLESS).replace("12", number, 1), "", "")


class Score(NamedTuple):
    """Of one kind: how many there are, were found whole, and were found as any kind; how many
    findings were nothing of the kind."""

    there: int
    found: int
    covered: int
    wrong: int

    @property
    def recall(self) -> float:
        return self.covered / self.there if self.there else 1.0

    @property
    def precision(self) -> float:
        return self.found / (self.found + self.wrong) if self.found + self.wrong else 1.0


def measure(count: int, seed: int) -> dict[str, Score]:
    redactor = Redactor(REDACTION_KINDS, REGIONS)
    there, found, covered, wrong = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for case in make_cases(count, seed):
        findings = redactor.find(case.text)
        value = case.value.removeprefix("BSN ")
        start = case.text.find(value) if case.kind else -1
        there[case.kind] += 1
        for finding in findings:
            right = case.kind and finding.start <= start and finding.end >= start + len(value)
            covered[case.kind] += bool(right)
            if right and finding.kind == case.kind:
                found[finding.kind] += 1
            else:
                wrong[finding.kind] += 1
    return {k: Score(there[k], found[k], covered[k], wrong[k]) for k in REDACTION_KINDS}


def main() -> None:
    count, seed = 500, 1
    sys.stdout.write(f"{count} sentences of each kind and {count} without, seed {seed}\n")
    for kind, score in measure(count, seed).items():
        sys.stdout.write(f"{kind:<10} recall {score.recall:.3f}  precision {score.precision:.3f}\n")


if __name__ == "__main__":
    main()
