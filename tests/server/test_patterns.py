"""Patterns that take linear time."""

import re

import pytest

from palaver import compile_pattern

TEXTS = (
    "", "abc", "Ünïcödé wörter", "a1٣४", "x\u00a0y\u2003z\u3000", "snake_case-kebab",
    "¿Qué? 東京タワー 12", "[a:b]", "line\nbreak\r\n\x1c\x85", "ÀÉÎ ß ſ K",
    "e\u0301 ᄒ\u1161ᆫ 👩‍👩‍👧", "^]-\\",
)  # fmt: skip
PATTERNS = (
    r"\w+", r"\W+", r"\d+", r"\D+", r"\s+", r"\S+", r"[\w.]+", r"[\s\d]+", r"[^\s]+", r"[^\d\n]+",
    r"[\S\n]+", r"(?P<a>\w)(?P<b>.*)", r"[]\\^-]+", r"[\[:]+", r"\u00e9|\U0001f469", r"é|ü",
    r".+", r"a\Z", r"\[\w", r"\\",
)  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("text", TEXTS)
def test_a_pattern_matches_as_with_re(pattern: str, text: str) -> None:
    found = compile_pattern(pattern).search(text)
    expected = re.compile(pattern, re.IGNORECASE | re.DOTALL).search(text)
    assert (found is None) is (expected is None)
    if found is not None and expected is not None:
        assert found.group() == expected.group()
        assert found.groupdict() == expected.groupdict()
        assert (found.start(), found.end()) == (expected.start(), expected.end())


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        (r"(a)\1", "refers back"),
        (r"(?P<a>.)(?P=a)", "refers back"),
        (r"a(?=b)", "looks ahead"),
        (r"a(?!b)", "looks ahead"),
        (r"(?<=a)b", "looks behind"),
        (r"(?<!a)b", "looks behind"),
        (r"(?>a+)b", "atomic group"),
        (r"a++b", "possessive"),
        (r"a{2,2000}", "more than 1,000"),
        (r"[\W_]", r"\\W inside brackets"),
        (r"(a", "missing"),
    ],
)
def test_a_pattern_without_a_guarantee_is_refused_with_the_reason(pattern: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        compile_pattern(pattern)
