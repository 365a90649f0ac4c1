"""Check digits of numbers that identify people and accounts.

By the issuers' published rules: they tell such a number from any other one of that length.
"""

import re
from collections.abc import Callable, Mapping

_IBAN_LENGTHS = {
    **{"AD": 24, "AE": 23, "AT": 20, "BE": 16, "BG": 22, "CH": 21, "CY": 28, "CZ": 24, "DE": 22},
    **{"DK": 18, "EE": 20, "ES": 24, "FI": 18, "FR": 27, "GB": 22, "GR": 27, "HR": 21, "HU": 28},
    **{"IE": 22, "IL": 23, "IS": 26, "IT": 27, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "MC": 27},
    **{"MT": 31, "NL": 18, "NO": 15, "PL": 28, "PT": 25, "RO": 24, "SA": 24, "SE": 24, "SI": 19},
    **{"SK": 24, "SM": 27, "TR": 26, "UA": 29},
}
"""Characters of an IBAN by country."""
_DNI_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"
_SEPARATORS = re.compile(r"[\s.\-/]+")


def is_iban(text: str) -> bool:
    """Check by ISO 13616: the number modulo 97 is 1, with letters as numbers from 10."""
    moved = text[4:] + text[:4]
    if _IBAN_LENGTHS.get(text[:2]) != len(text) or not moved.isalnum():
        return False
    return int("".join(str(int(letter, 36)) for letter in moved)) % 97 == 1


def is_card(text: str) -> bool:
    """Check by ISO/IEC 7812: Luhn's check digit, and the first digit of a card network."""
    if not 13 <= len(text) <= 19 or text[0] not in "23456" or len(set(text)) == 1:
        return False
    doubled = [2 * int(digit) for digit in text[-2::-2]]
    others = sum(int(digit) for digit in text[-1::-2])
    return (sum(each - 9 * (each > 9) for each in doubled) + others) % 10 == 0


def is_us_ssn(text: str) -> bool:
    """Check the parts that are never given out; there is no check digit."""
    area, group, serial = text[:3], text[3:5], text[5:]
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def is_de_tax_id(text: str) -> bool:
    """Check by ISO 7064, MOD 11,10; one digit comes twice or three times among the first ten."""
    most = max(text[:10].count(digit) for digit in text[:10])
    if text[0] == "0" or most not in (2, 3):
        return False
    product = 10
    for digit in text[:10]:
        total = (int(digit) + product) % 10 or 10
        product = 2 * total % 11
    return (11 - product) % 10 == int(text[10])


def is_fr_nir(text: str) -> bool:
    """Check the last two digits: 97 minus the first 13 digits modulo 97 (Corsica: 2A, 2B)."""
    digits = text[:13].replace("2A", "19").replace("2B", "18")
    month = text[3:5]
    plausible = text[0] in "12" and month.isdigit() and (1 <= int(month) <= 12 or int(month) >= 20)
    return plausible and digits.isdigit() and 97 - int(digits) % 97 == int(text[13:])


def is_es_dni(text: str) -> bool:
    """Check the letter: that of the number modulo 23; X, Y and Z are 0, 1 and 2."""
    number = text[:-1].replace("X", "0").replace("Y", "1").replace("Z", "2")
    return _DNI_LETTERS[int(number) % 23] == text[-1]


def is_nl_bsn(text: str) -> bool:
    """Do the eleven test: weights 9 to 2, and -1 for the last digit."""
    weights = (9, 8, 7, 6, 5, 4, 3, 2, -1)
    total = sum(weight * int(digit) for weight, digit in zip(weights, text, strict=True))
    return total % 11 == 0 and len(set(text)) > 1


def is_uk_nhs(text: str) -> bool:
    """Check by modulus 11 with the weights 10 to 2."""
    total = sum(weight * int(digit) for weight, digit in zip(range(10, 1, -1), text, strict=False))
    return (11 - total % 11) % 11 == int(text[9]) and len(set(text)) > 1


CHECKS: Mapping[str, Callable[[str], bool]] = {
    "iban": is_iban,
    "card": is_card,
    "us_ssn": is_us_ssn,
    "de_tax_id": is_de_tax_id,
    "fr_nir": is_fr_nir,
    "es_dni": is_es_dni,
    "nl_bsn": is_nl_bsn,
    "uk_nhs": is_uk_nhs,
}


def is_valid(kind: str, text: str) -> bool:
    """Return True for a number of that kind, however it is separated."""
    return CHECKS[kind](_SEPARATORS.sub("", text).upper())
