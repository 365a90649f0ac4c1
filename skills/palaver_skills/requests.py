"""Tells what a person wants done from the text that they want it done to."""

import re

_QUOTED = re.compile(
    r"[\"“„«「](?P<double>.+)[\"”“»」]|(?<!\w)['‘](?P<single>.+)['’](?!\w)", re.DOTALL
)
_SEPARATOR = re.compile(r"[:：]\s|[:：](?=[^\s/])|\n")
_HEAD = 160
"""Characters that an instruction has at most, when a text follows or precedes it."""
_QUOTING = 4000
"""Characters of a message up to which quotation marks are looked for."""
_BARE = 240
"""Characters from which a message that mixes both is taken for the text itself."""


def parted(message: str, instruction: re.Pattern[str]) -> tuple[str, str]:
    """Instruction and text; either may be empty. ``instruction`` finds what instructions hold."""
    message = message.strip()
    return (
        _leading(message, instruction)
        or _trailing(message, instruction)
        or _around_quotes(message, instruction)
        or ((message, "") if _is_bare(message, instruction) else ("", message))
    )


def unquoted(text: str) -> str:
    """``text`` without quotation marks around the whole of it."""
    match = _QUOTED.fullmatch(text.strip())
    return (match["double"] or match["single"]) if match else text


def _is_bare(message: str, instruction: re.Pattern[str]) -> bool:
    return len(message) <= _BARE and bool(instruction.search(message))


def _leading(message: str, instruction: re.Pattern[str]) -> tuple[str, str] | None:
    for separator in _SEPARATOR.finditer(message, 0, _HEAD):
        head, body = message[: separator.start()], message[separator.end() :].strip("\n")
        if instruction.search(head) and body.strip():
            return head, body
    return None


def _trailing(message: str, instruction: re.Pattern[str]) -> tuple[str, str] | None:
    body, _, tail = message.rpartition("\n\n")
    if body and len(tail) <= _HEAD and instruction.search(tail):
        return tail, body
    return None


def _around_quotes(message: str, instruction: re.Pattern[str]) -> tuple[str, str] | None:
    quoted = _QUOTED.search(message) if len(message) <= _QUOTING else None
    if quoted is None:
        return None
    rest = message[: quoted.start()] + " " + message[quoted.end() :]
    if not instruction.search(rest):
        return None
    return rest, quoted["double"] or quoted["single"]
