"""Separation of a message into an instruction and the text that it is about."""

import re

_QUOTED = re.compile(
    r"[\"“„«「](?P<double>.+)[\"”“»」]|(?<!\w)['‘](?P<single>.+)['’](?!\w)", re.DOTALL
)
_SEPARATOR = re.compile(r"[:：]\s|[:：](?=[^\s/])|\n")
_MAX_INSTRUCTION_LENGTH = 160
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
    match = _QUOTED.fullmatch(text.strip())
    return (match["double"] or match["single"]) if match else text


def _is_bare(message: str, instruction: re.Pattern[str]) -> bool:
    return len(message) <= _MAX_BARE_LENGTH and bool(instruction.search(message))


def _split_leading(message: str, instruction: re.Pattern[str]) -> tuple[str, str] | None:
    for separator in _SEPARATOR.finditer(message, 0, _MAX_INSTRUCTION_LENGTH):
        head, body = message[: separator.start()], message[separator.end() :].strip("\n")
        if instruction.search(head) and body.strip():
            return head, body
    return None


def _split_trailing(message: str, instruction: re.Pattern[str]) -> tuple[str, str] | None:
    body, _, tail = message.rpartition("\n\n")
    if body and len(tail) <= _MAX_INSTRUCTION_LENGTH and instruction.search(tail):
        return tail, body
    return None


def _split_at_quotes(message: str, instruction: re.Pattern[str]) -> tuple[str, str] | None:
    quoted = _QUOTED.search(message) if len(message) <= _MAX_QUOTED_LENGTH else None
    if quoted is None:
        return None
    rest = message[: quoted.start()] + " " + message[quoted.end() :]
    if not instruction.search(rest):
        return None
    return rest, quoted["double"] or quoted["single"]
