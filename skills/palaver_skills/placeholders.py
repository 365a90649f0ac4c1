"""Placeholders: what programs replace in a text, and names and addresses that only they read."""

import re
from typing import Protocol

_MAX_BRACED = 200
"""Characters of the longest placeholder in braces."""
_MAX_DEPTH = 4
"""Messages within messages whose texts are found."""
_FIXED = re.compile(
    r"""
      <%(?:(?!%>).){0,500}%>
    | <[\w@\#!$./-][^<>\s]{0,500}>                                    # <@U1>, <user_name>
    | %(?:\(\w{1,80}\)|\d{1,3}\$)?[-+\#0]{0,5}\d{0,9}(?:\.\d{1,9})?
       (?:hh|ll|[hlqjzt])?[A-Za-z@](?![A-Za-z])
    | %\w{1,80}% | %%
    | \[[ xX]\](?=\s) | \[![A-Z]{1,20}\] | \[\^[^\]\s]{1,100}\]        # task, alert, footnote
    | :{3,}[ ]?[\w-]{0,40}                                            # directive
    | (?<![\w:]):[a-zA-Z_][\w+-]{0,80}:? | (?<![\w:]):\+1: | (?<![\w:]):-1:
    | (?<![^\W_])@\w(?:[\w.-]{0,80}\w)?(?:/\w(?:[\w.-]{0,80}\w)?)?     # mention, @scope/package
    | !?\[\[[^\[\]\n]{1,200}\]\](?![(\[])                             # wiki link
    | [A-Za-z]:\\(?:[\w.()-]{1,100}\\?){0,30}                         # path
    | \\begin\{(?P<kind>(?:equation|align|gather|multline|eqnarray|math|displaymath|verbatim
       |lstlisting|minted|tikzpicture|tabular|[bpvBV]?matrix|array|cases)\*?)\}
       (?:(?!\\(?:begin|end)\{(?P=kind)\}).){0,3000}\\end\{(?P=kind)\}
    | \\\((?:[^\\\n]{1,2}|(?=[^\n()]{0,300}?(?:[\^_={}<>+*/]|\\[A-Za-z]))
       (?:(?!\\[()]).){1,500})\\\)                                    # formula
    | \\\[(?:[^\\\n]{1,2}|(?=[^\n\[\]]{0,300}?(?:[\^_={}<>+*/]|\\[A-Za-z]))
       (?:(?!\\[\[\]]).){1,500})\\\]
    | \\(?:(?![nrt])[A-Za-z]{2,40}|[A-Za-z]{2,40}(?=[{\[*]))\*?(?:\[[^\[\]\n]{0,200}\])?
    | \\(?:u[0-9A-Fa-f]{4}|[nrt])                                     # line break in a string
    | (?:msgctxt|msgid(?:_plural)?|msgstr(?:\[\d{1,2}\])?)(?=[ ]")        # catalogue of messages
    | (?<![^\n])\#[:,|~][^\n]{0,500}
    | "[\w.@/-]{1,100}"(?=\s{0,9}[:=]\s{0,9}["{\[\d])                  # key of a string
    | [A-Za-z][A-Za-z0-9+.-]{1,20}://[!-;=?-_a-~\u00a1-\u1fff]*[\w/\#=&%+-]
    | www\.[!-;=?-_a-~\u00a1-\u1fff]*[\w/]
    | (?:mailto:)?[\w.+-]{1,64}@[\w-]{1,64}\.[\w.-]{0,100}\w
    | &(?:[A-Za-z]\w{1,30}|\#\d{1,9}|\#[xX][0-9A-Fa-f]{1,8});
    | [A-Za-z0-9]{1,100}(?:_[A-Za-z0-9]{1,100})+                      # snake_case
    | ⟦[^⟧\n]{0,20}⟧? | [\U000F0000-\U0010FFFD]
    """,
    re.VERBOSE | re.DOTALL,
)
VARIABLE = re.compile(r"\$(?:[A-Za-z_]\w{0,80}(?:\([\w.:-]{1,80}\))?|\([^()\n]{1,80}\))")
"""A variable, unless a formula begins with it."""
_BRACED = re.compile(r"[$#%@]?\{")
_JSON = re.compile(r"\{[ \t\r]{0,9}\n\s{0,99}\"[^\"\n]{0,100}\"\s{0,9}:")
"""The beginning of an object with strings, which is no placeholder."""
_PROSE_COMMAND = re.compile(
    r"\\(?:text\w{2}|emph|underline|(?:sub){0,2}section\*?|chapter\*?|title|caption|footnote"
    r"|paragraph)\{"
)
"""A command of LaTeX whose argument is prose."""
_TAG = re.compile(r"</?[A-Za-z][\w.:-]{0,80}(?=[\s/>])|</?(?=>)")
_ATTRIBUTE = re.compile(
    r"\s{1,99}(?:[@:#*.\[(]{0,3}[A-Za-z_$][\w.:$\[\])-]{0,80}"
    r"(?:\s{0,9}=\s{0,9}(?:\"[^\"]{0,1000}\"|'[^']{0,1000}'|[^\s\"'=<>`{}]{1,200}|(?=\{)))?|(?=\{))"
)
_TAG_END = re.compile(r"\s{0,99}/?>")
_MAX_ATTRIBUTES = 50
_CHOICE = re.compile(
    r"\{\s{0,9}[\w.-]{1,80}\s{0,9},\s{0,9}(?:plural|selectordinal|select)\s{0,9},"
    r"(?:\s{0,9}offset:\d{1,9})?"
)
"""The beginning of a choice among messages, as ICU writes it."""
_KEY = re.compile(r"\s{0,99}(?:=\d{1,9}|[\w-]{1,80})\s{0,99}(?=\{)")
_MARKUP = re.compile(r"[{}]|\\.", re.DOTALL)


class Braced(Protocol):
    """A text with its pairs of braces, which are found once."""

    src: str
    braces: dict[int, int] | None


def find_placeholder(text: str, at: int, state: Braced) -> tuple[int, list[tuple[int, int]]] | None:
    """Return the end of the placeholder that begins here, and what of it must not change."""
    braced = _BRACED.match(text, at) or _PROSE_COMMAND.match(text, at)
    if braced:
        braces = _get_braces(state)
        end = braces.get(braced.end() - 1)
        if end is not None:
            return _read_braced(text, braced, end, braces)
    match = _FIXED.match(text, at)
    after = match.end() if match else _find_tag_end(text, at, state)
    return (after, [(at, after)]) if after else None


def _get_braces(state: Braced) -> dict[int, int]:
    if state.braces is None:
        state.braces = _pair_braces(state.src)
    return state.braces


def _find_tag_end(text: str, at: int, state: Braced) -> int | None:
    """Return the end of a tag, also of one with the attributes of a template or of JSX."""
    match = _TAG.match(text, at)
    for _ in range(_MAX_ATTRIBUTES if match else 0):
        if match is None:
            break
        end = match.end()
        if text.startswith("{", end):
            end = _get_braces(state).get(end, end)
        if closing := _TAG_END.match(text, end):
            return closing.end()
        match = _ATTRIBUTE.match(text, end)
    return None


def _read_braced(
    text: str, opening: re.Match[str], end: int, braces: dict[int, int]
) -> tuple[int, list[tuple[int, int]]] | None:
    start, inner = opening.span()
    if opening[0][0] == "\\":
        return inner, [(start, inner), (end - 1, end)]
    if _CHOICE.match(text, start):
        return end, _find_syntax(text, start, end, braces, _MAX_DEPTH)
    if _JSON.match(text, start):
        return None
    return (end, [(start, end)]) if end - start <= _MAX_BRACED else None


def _pair_braces(text: str) -> dict[int, int]:
    """Return by the position of each opening brace the one after its closing brace."""
    pairs = {}
    opened: list[int] = []
    for match in _MARKUP.finditer(text):
        if match[0] == "{":
            opened.append(match.start())
        elif match[0] == "}" and opened:
            pairs[opened.pop()] = match.end()
    return pairs


def _find_syntax(
    text: str, start: int, end: int, braces: dict[int, int], depth: int
) -> list[tuple[int, int]]:
    """Return the ranges of a choice that are no text of a message."""
    head = _CHOICE.match(text, start)
    if head is None or depth == 0:
        return [(start, end)]
    found: list[tuple[int, int]] = []
    begun, at = start, head.end()
    while key := _KEY.match(text, at, end):
        closing = braces.get(key.end())
        if closing is None or closing > end:
            return [(start, end)]
        found.append((begun, key.end() + 1))
        found += _find_in_message(text, key.end() + 1, closing - 1, braces, depth - 1)
        begun, at = closing - 1, closing
    return [*found, (begun, end)]


def _find_in_message(
    text: str, start: int, end: int, braces: dict[int, int], depth: int
) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    at = start
    while at < end:
        after = braces.get(at, at + 1)
        if text[at] == "{":
            found += _find_syntax(text, at, after, braces, depth)
        elif text[at] == "#":
            found.append((at, after))
        else:
            begins = not text[at].isspace() and not (text[at].isalnum() and text[at - 1].isalnum())
            match = _FIXED.match(text, at, end) if begins else None
            after = match.end() if match else after
            found += [match.span()] if match else []
        at = after
    return found
