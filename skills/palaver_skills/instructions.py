"""Separation of a message into an instruction and the text that it is about."""

import re

_QUOTES = (
    (re.compile(r"[\"“„«「]"), re.compile(r"[\"”“»」]")),
    (re.compile(r"(?<!\w)['‘]"), re.compile(r"['’](?!\w)")),
)
"""Opening and closing quotation marks."""
_SEPARATOR = re.compile(r"[:：]\s|[:：](?=[^\s/])|\n")
MAX_INSTRUCTION_LENGTH = 160
"""Characters of the longest instruction beside a text."""
_MAX_QUOTED_LENGTH = 4000
"""Characters of the longest message that is searched for quotation marks."""
_MAX_BARE_LENGTH = 240
"""Characters of the longest message that is an instruction as a whole; a longer one is a text."""


def split_request(message: str, instruction: re.Pattern[str]) -> tuple[str, str]:
    """Return instruction and text; either may be empty. ``instruction`` matches in instructions."""
    message = message.strip()
    return (
        _split_leading(message, instruction)
        or _split_trailing(message, instruction)
        or _split_at_quotes(message, instruction)
        or ((message, "") if _is_bare(message, instruction) else ("", message))
    )


def strip_quotes(text: str) -> str:
    """Return ``text`` without quotation marks around the whole of it."""
    stripped = text.strip()
    whole = any(
        len(stripped) > 2 and opening.match(stripped) and closing.match(stripped, len(stripped) - 1)
        for opening, closing in _QUOTES
    )
    return stripped[1:-1] if whole else text


def _find_quoted(text: str) -> tuple[int, int] | None:
    """Return the range of the first quotation, with its marks; it ends at the last closing one."""
    ranges = (_find_range(opening, closing, text) for opening, closing in _QUOTES)
    return min((found for found in ranges if found), default=None)


def _find_range(
    opening: re.Pattern[str], closing: re.Pattern[str], text: str
) -> tuple[int, int] | None:
    first = opening.search(text)
    end = max((match.end() for match in closing.finditer(text)), default=0)
    return (first.start(), end) if first and end > first.start() + 2 else None


def _is_bare(message: str, instruction: re.Pattern[str]) -> bool:
    return len(message) <= _MAX_BARE_LENGTH and bool(instruction.search(message))


def _split_leading(message: str, instruction: re.Pattern[str]) -> tuple[str, str] | None:
    for separator in _SEPARATOR.finditer(message, 0, MAX_INSTRUCTION_LENGTH):
        head, body = message[: separator.start()], message[separator.end() :].strip("\n")
        if instruction.search(head) and body.strip():
            return head, body
    return None


def _split_trailing(message: str, instruction: re.Pattern[str]) -> tuple[str, str] | None:
    body, _, tail = message.rpartition("\n\n")
    if body and len(tail) <= MAX_INSTRUCTION_LENGTH and instruction.search(tail):
        return tail, body
    return None


def _split_at_quotes(message: str, instruction: re.Pattern[str]) -> tuple[str, str] | None:
    quoted = _find_quoted(message) if len(message) <= _MAX_QUOTED_LENGTH else None
    if quoted is None:
        return None
    start, end = quoted
    rest = message[:start] + " " + message[end:]
    if not instruction.search(rest):
        return None
    return rest, message[start + 1 : end - 1]
