"""Names of files are cleaned: what remains is harmless to readers, pages and file systems."""

import unicodedata

import pytest

from palaver.files.names import MAX_MARKS, MAX_NAME_BYTES, MAX_NAME_CHARACTERS, UNNAMED, clean_name

DEVICES = ("CON", "con", "PRN", "AUX", "NUL", "nul", "COM1", "COM9", "LPT1", "COM¹", "CONIN$")
CLEANED = {
    "report.pdf": "report.pdf",
    "Grüße an José.txt": "Grüße an José.txt",
    "報告書.docx": "報告書.docx",
    "تقرير.pdf": "تقرير.pdf",
    "می‌خواهم.txt": "می‌خواهم.txt",  # a word with a joiner
    "👩‍👩‍👧.png": "👩‍👩‍👧.png",
    "../../etc/passwd": "passwd",
    "..\\..\\windows\\system32\\cmd.exe": "cmd.exe",
    "/etc/shadow": "shadow",
    "C:\\Users\\a.txt": "a.txt",
    "C:a.txt": "C_a.txt",
    "a/b/": "b",
    "//": UNNAMED,
    ".": UNNAMED,
    "..": UNNAMED,
    "...": UNNAMED,
    "": UNNAMED,
    " ": UNNAMED,
    "\0": UNNAMED,
    "\u202e": UNNAMED,
    ".bashrc": "bashrc",
    "name.": "name",
    "name. . .": "name",
    " a.txt ": "a.txt",
    "a\0.txt": "a.txt",
    "a\r\nSet-Cookie: x=1.txt": "a Set-Cookie_ x=1.txt",
    "a\tb\vc\fd.txt": "a b c d.txt",
    "a\x1b[31m.txt": "a[31m.txt",
    "a\x7f\x80\x9f.txt": "a.txt",
    "photo\u202egnp.exe": "photognp.exe",
    "\u2066a\u2069\u200f\u200e\u061c.txt": "a.txt",
    "a\u200b\u2060\ufeff.txt": "a.txt",
    "a\u2028b\u2029c.txt": "a b c.txt",
    "a\u00a0\u3000b.txt": "a b.txt",
    "\ud800a\udfff.txt": "a.txt",
    "\ue000\U000f0000a.txt": "a.txt",
    "\uffff\U0010fffea.txt": "a.txt",
    "\U000e0041a.txt": "a.txt",  # an invisible tag
    "a<script>alert(1)</script>.html": "script_.html",
    '"quoted".txt': "_quoted_.txt",
    "a;b=c.txt": "a;b=c.txt",
    "what?*.txt": "what__.txt",
    "a|b.txt": "a_b.txt",
    "%2e%2e%2f.txt": "%2e%2e%2f.txt",
    "${HOME}`id`.txt": "${HOME}`id`.txt",
    "-rf": "-rf",
    "~": "~",
    "e\u0301.txt": "é.txt",
    "a" + 50 * "\u0301" + ".txt": "á" + MAX_MARKS * "\u0301" + ".txt",
    "CON .txt": "_CON.txt",
    "con.tar.gz": "_con.tar.gz",
    "console.txt": "console.txt",
    "a.b.c": "a.b.c",
    "data:text/html,x": "html,x",
    "javascript:alert(1)": "javascript_alert(1)",
    "&lt;img src=x onerror=alert(1)&gt;": "&lt;img src=x onerror=alert(1)&gt;",
    "=cmd|' /C calc'!A0.csv": "C calc'!A0.csv",
}
HOSTILE = [
    *CLEANED,
    *DEVICES,
    *(f"{device}.txt" for device in DEVICES),
    *(f"a{chr(code)}b.txt" for code in range(32)),
    *(
        f"a{character}b.txt"
        for character in "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    ),
    10_000 * "a",
    10_000 * "🌊" + ".png",
    10_000 * "a" + "." + 10_000 * "b",
    10_000 * ".",
    10_000 * " ",
    10_000 * "/",
    10_000 * "../" + "a.txt",
    "a" + 10_000 * "\u0301\u0316" + ".txt",
    10_000 * "\u202e" + "a.txt",
    10_000 * "\ufdfa" + ".txt",  # one character that compatibility forms make eighteen of
]


def test_there_are_at_least_a_hundred_hostile_names() -> None:
    assert len(set(HOSTILE)) >= 100


@pytest.mark.parametrize(("name", "cleaned"), CLEANED.items())
def test_a_name_is_cleaned(name: str, cleaned: str) -> None:
    assert clean_name(name) == cleaned


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_every_cleaned_name_is_harmless(name: str) -> None:
    cleaned = clean_name(name)
    assert 1 <= len(cleaned) <= MAX_NAME_CHARACTERS
    assert len(cleaned.encode()) <= MAX_NAME_BYTES
    assert not set(cleaned) & set('/\\<>:"|?*\0\r\n')
    assert cleaned == cleaned.strip(" .")
    assert cleaned.partition(".")[0].strip().lower() not in map(str.lower, DEVICES)
    categories = {unicodedata.category(each) for each in cleaned if each not in "\u200c\u200d"}
    assert not categories & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_a_cleaned_name_is_clean(name: str) -> None:
    assert clean_name(clean_name(name)) == clean_name(name)


def test_a_long_name_keeps_its_extension() -> None:
    assert clean_name(300 * "a" + ".pdf").endswith("a.pdf")
    assert clean_name(300 * "報" + ".pdf").endswith("報.pdf")
