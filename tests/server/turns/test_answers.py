"""Answers to questions with options."""

import pytest

from palaver.turns.answers import find_option


@pytest.mark.parametrize(
    ("answer", "option"),
    [
        ("STRASSE", "Straße"),
        ("cafe\u0301", "Café"),
        ("ｔｅａ", "Tea"),
        ("te\u200ba", "Tea"),
        ("résumé", "Résumé"),
        ("Resume", "resume"),
        ("C", "C"),
        ("c#", "C#"),
        ("2.", "Café"),
        ("tear", None),
    ],
)
def test_an_option_is_found_by_each_spelling(answer: str, option: str | None) -> None:
    options = ("Straße", "Café", "Tea", "resume", "Résumé", "C", "C#")
    assert find_option(answer, options) == option
