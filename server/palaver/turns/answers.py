"""Answers of people to questions that have options."""

from collections.abc import Sequence

from palaver.search_terms import normalize_text

MAX_ANSWER = 4_000
"""Characters of the longest answer that may be an option."""
MAX_QUESTIONS = 3
"""Times that one thing is asked before the turn fails."""


def find_option(answer: str, options: Sequence[str]) -> str | None:
    """Return the option that ``answer`` names: its text in any case, or its number from 1."""
    if len(answer) > MAX_ANSWER:
        return None
    for compared in (str.casefold, normalize_text):  # é and e are equal where nothing else is
        said = compared(answer.strip())
        for option in options:
            if said == compared(option.strip()):
                return option
    number = said.rstrip(".)")
    if number.isascii() and number.isdigit() and 1 <= int(number) <= len(options):
        return options[int(number) - 1]
    return None


def format_options(options: Sequence[str]) -> str:
    """Return the options with their numbers: "1. red, 2. blue"."""
    return ", ".join(f"{number}. {option}" for number, option in enumerate(options, 1))
