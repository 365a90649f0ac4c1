"""Check of the code in a reply: fences that are left open, and Python that is surely wrong.

The check reads tokens, without a grammar: it takes linear time, and does not depend on the server's
version of Python. What looks like something else than a program (a session, shell output, a patch,
a notebook) is not judged, and neither is what may be a part of a program.
"""

import ast
import keyword
import re
from typing import NamedTuple

from palaver_skills.markdown import BLOCK_PARSER

_LONGEST_CHECKED = 200_000
"""Characters of the longest reply that is checked."""
_NO_PROGRAM = re.compile(
    r"^[ \t]*+(?:>>>|[%!?$]|In \[|Out\[|Traceback )|^(?:[+-]|@@|diff |<<<<|====)", re.MULTILINE
)
"""Lines of sessions, notebooks, tracebacks and patches."""
_TOKEN = re.compile(
    r"#[^\n]*+|\\\r?\n|\n|\w++|\"\"\"|'''|[\"'()\[\]{}]|(?:[=!<>:+*/%&|^@-](?==))?={1,2}+|:"
)
_STRING_EVENTS = {
    '"': re.compile(r'\\[\s\S]|"|\n'),
    "'": re.compile(r"\\[\s\S]|'|\n"),
    '"""': re.compile(r'\\[\s\S]|"""'),
    "'''": re.compile(r"\\[\s\S]|'''"),
}
"""What may stand in a string by its quotes: an escape, its end."""
_PREFIXES = frozenset("r b u f t br rb fr rf tr rt ur".split())
_KEYWORDS = frozenset(keyword.kwlist) | {"match", "case", "type", "print", "exec", "lazy"}
"""Words that another word may follow, in any version."""
_CLOSING = {")": "(", "]": "[", "}": "{"}
_HEADER = re.compile(
    r"(?:async\s+)?(?:def\s+\w+\s*\(|class\s+\w+|(?:if|elif|while|with)\s|for\s[^\n]*\sin\s"
    r"|(?:else|try|finally|except)\b)"
)
_CONDITION = re.compile(r"(?:if|elif|while)\s")
_DECLARATION = re.compile(r"\s*+(?:@|(?:async\s+)?def\s|class\s)")


class Fence(NamedTuple):
    """A fenced block."""

    language: str
    code: str
    opening: str
    """The text before the mark of the fence, in its line."""
    mark: str
    is_open: bool


class _Silence(Exception):
    """The text is no program, or one that cannot be judged."""


class _Wrong(Exception):
    """An error, at a line."""

    def __init__(self, line: int, problem: str, *, in_fragment: bool = True) -> None:
        super().__init__(f"line {line}: {problem}")
        self.in_fragment = in_fragment
        """The code is wrong even if it is a part of a program."""


def read_fences(text: str) -> list[Fence]:
    """Return the fenced blocks of a Markdown text."""
    text = text.replace("\r", "")
    lines = text.split("\n")
    return [
        _read_fence(token.info, token.content, token.markup, lines[token.map[0] : token.map[1]])
        for token in BLOCK_PARSER.parse(text)
        if token.type == "fence" and token.map
    ]


def defines_function(text: str) -> bool:
    """Return True when the first fenced block parses with this version of Python, and defines a
    function."""
    blocks = read_fences(text[:_LONGEST_CHECKED])
    try:
        body = ast.parse(blocks[0].code).body if blocks else []
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in body)


def _read_fence(info: str, code: str, mark: str, lines: list[str]) -> Fence:
    last = lines[-1].strip("> \t")
    is_closed = len(lines) > 1 and last.startswith(mark) and not last.strip(mark[0])
    language = (info.split() or [""])[0].casefold()
    return Fence(language, code, lines[0].partition(mark)[0], mark, not is_closed)


def close_fence(text: str, *, is_cut: bool) -> str:
    """Return the end of a fence that ``text`` leaves open; with a note if the reply is cut."""
    fences = read_fences(text)
    if not fences or not fences[-1].is_open:
        return ""
    fence = fences[-1]
    if not is_cut and not fence.language and not fence.code.strip():
        return ""  # the end of a block that held a fence itself
    newline = "" if text.endswith("\n") else "\n"
    containers = re.sub(r"[^>\s]", " ", fence.opening)
    closing = f"{newline}{containers}{fence.mark}"
    note = "\n\nNote: the code breaks off here; it may be longer than I can write."
    return f"{closing}{note}" if is_cut else closing


def find_python_error(text: str, names: tuple[str, ...]) -> str:
    """Return what is surely wrong in the blocks of these languages; empty when nothing is."""
    if len(text) > _LONGEST_CHECKED:
        return ""
    fences = read_fences(text)
    for fence in fences:
        if fence.language in names and not _NO_PROGRAM.search(fence.code):
            try:
                _Program(fence.code).check()
            except _Wrong as error:
                # With other blocks, this one may be a part, or have ended at a fence in a string.
                if error.in_fragment or len(fences) == 1:
                    return str(error)
            except _Silence:
                continue
    return ""


class _Program:
    """The tokens of a Python program."""

    def __init__(self, code: str) -> None:
        self._code = code
        self._line = 1
        self._open: list[tuple[str, int]] = []
        """The open brackets with their lines."""
        self._start = 0
        """The beginning of the logical line."""
        self._start_line = 1
        self._has_colon = self._assigns = False
        self._words_end = -1
        """The end of a word that is no keyword, and of the space after it."""

    def check(self) -> None:
        """Raise `_Wrong` for the first error, `_Silence` if the text may be no program."""
        at = 0
        while token := _TOKEN.search(self._code, at):
            at = self._read(token)
        if self._open:
            bracket, line = self._open[-1]
            raise _Wrong(line, f"'{bracket}' was never closed", in_fragment=False)
        self._end_line(len(self._code))

    def _read(self, token: re.Match[str]) -> int:
        """Read a token. Return where to go on."""
        said = token[0]
        if said.endswith("\n"):
            self._line += 1
            if said == "\n" and not self._open:
                self._end_line(token.start())
                self._start, self._start_line = token.end(), self._line
        elif said in _STRING_EVENTS:
            return self._read_string(token.end(), said, "")
        elif said in ("(", "[", "{"):
            self._open.append((said, self._line))
        elif said in _CLOSING:
            self._close(token, said)
        elif said[0].isalnum() or said[0] == "_":
            return self._read_word(token)
        elif not self._open:
            self._has_colon |= said == ":"
            self._assigns |= said == "=" and not self._has_colon
        return token.end()

    def _read_word(self, token: re.Match[str]) -> int:
        word, end = token[0], token.end()
        following = self._code[end : end + 3]
        if following[:1] in ("'", '"'):
            if word.casefold() not in _PREFIXES:
                raise _Silence  # an apostrophe
            quote = following if following in _STRING_EVENTS else following[0]
            return self._read_string(end + len(quote), quote, word.casefold())
        if token.start() == self._words_end and word not in _KEYWORDS:
            raise _Silence  # prose
        if word not in _KEYWORDS:
            rest = self._code[end : end + 100]
            self._words_end = end + len(rest) - len(rest.lstrip(" ")) if rest[:1] == " " else -1
        return end

    def _read_string(self, start: int, quote: str, prefix: str) -> int:
        events = _STRING_EVENTS[quote].finditer(self._code, start)
        last = next((event for event in events if event[0][0] != "\\"), None)
        end = last.end() if last and last[0] == quote else None
        if end is None and len(quote) == 3:
            problem = "unterminated triple-quoted string literal"
            raise _Wrong(self._line, problem, in_fragment=False)
        content = self._code[start:end]
        # Since Python 3.12 a string may hold its own quotes and line breaks between braces.
        is_formatted = "f" in prefix or "t" in prefix
        if is_formatted and (end is None or content.count("{") != content.count("}")):
            raise _Silence
        if end is None:
            raise _Wrong(self._line, "unterminated string literal")
        self._line += content.count("\n")
        return end

    def _close(self, token: re.Match[str], bracket: str) -> None:
        if not self._open:
            if len(self._code[self._start : token.start()].strip()) <= 2:
                raise _Silence  # 1) the number of an item
            raise _Wrong(self._line, f"unmatched '{bracket}'", in_fragment=False)
        opened, _ = self._open.pop()
        if opened != _CLOSING[bracket]:
            problem = f"closing '{bracket}' does not match opening '{opened}'"
            raise _Wrong(self._line, problem)

    def _end_line(self, end: int) -> None:
        """Check a logical line, and the indentation of the one after it."""
        line = self._code[self._start : end]
        has_colon, assigns = self._has_colon, self._assigns
        self._has_colon = self._assigns = False
        header = line.lstrip(" \t")
        if not _HEADER.match(header):
            return
        following = self._line_after(end, _indent(line))
        if not following:
            return
        is_deeper = _indent(following) > _indent(line)
        if not has_colon:
            if is_deeper:
                raise _Wrong(self._start_line, "expected ':'")
        elif assigns and _CONDITION.match(header) and "lambda" not in header:
            raise _Wrong(self._start_line, "'=' in a condition; perhaps '==' is meant")
        elif line.rstrip().endswith(":") and not is_deeper and not _DECLARATION.match(following):
            raise _Wrong(self._start_line, "expected an indented block")

    def _line_after(self, end: int, indent: int) -> str:
        """Return the line of code after ``end``, or a comment that is indented more before it."""
        while 0 <= end < len(self._code):
            start, end = end + 1, self._code.find("\n", end + 1)
            line = self._code[start : end if end >= 0 else len(self._code)]
            if line.strip() and (line.lstrip()[0] != "#" or _indent(line) > indent):
                return line
        return ""


def _indent(line: str) -> int:
    line = line.expandtabs(8)
    return len(line) - len(line.lstrip(" "))
