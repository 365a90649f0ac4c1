"""Citations in an answer: marks such as ``[2]`` that name a passage.

A mark is ``[2]``, ``[1, 3]``, ``[1-3]`` or ``【2】``. Code, links, footnotes, definitions and
indexes (``items[2]``) are no marks. Each decision rests on the text before and on a few characters
after, so that an answer that comes in pieces is read as a whole one.
"""

import re
from collections.abc import Iterator, Sequence

from palaver import Passage, is_unspaced, split_terms
from palaver_skills.markdown import BLOCK_PARSER

_NUMBERS = r"\d{1,2}(?:[ ]{0,2}[,;–-][ ]{0,2}\d{1,2}){0,19}"
MARK = re.compile(rf"\[({_NUMBERS})\]|【({_NUMBERS})(?:†[^】\n]{{0,40}})?】|［({_NUMBERS})］")
_UNFINISHED_MARK = re.compile(r"\[[\d ,;–-]{0,120}|【[^】\n]{0,160}|［[\d ,;–-]{0,120}")
_GAP = re.compile(r"[ ]?,?[ ]?")
"""What may stand between marks of one place."""
_MAX_MARKS = 20
"""Marks that are read as one group."""
_RANGE = re.compile(r"(\d+)(?:[ ]*[–-][ ]*(\d+))?")
_SPECIAL = re.compile(r"[\[【［]|`+|\\")
_WORD_BEFORE = re.compile(r"[\w.:/\\$@>()-]{1,80}\Z")
_IDENTIFIER = re.compile(
    r"(?:\A|\W)[a-z]\Z|_\w*\Z|[a-z]{2}[A-Z]\w*\Z|[./\\$@>]\w+\Z|::\w+\Z|://\S*\Z|\(\)\Z", re.ASCII
)
"""What code is like before an index; a plain word may have a citation behind it."""
_CONTEXT = 100
"""Characters before a mark that are looked at."""
_LONGEST_SPAN = 2_000
"""Characters of the longest code span."""
_MAX_PARSED = 400_000
"""Characters that are parsed for one answer: a block is parsed again for each mark in it. Marks
after that stay as they are."""
_SPAN_EVENT = re.compile(r"`+|\n")
_BLOCK_START = re.compile(
    r"\n[ \t]*+(?:>[ \t]*+)*(?:\n|#{1,6}[ \t]|[-*+][ \t]|\d{1,9}[.)][ \t]|`{3}|~{3}|\Z)"
)
"""A line that ends the paragraph before it, and with it an open code span."""
_UNFINISHED_LINE = re.compile(r"\n[ \t>]*+(?:#{1,6}|[-*+]|\d{1,9}[.)]?|`{1,2}|~{1,2})?")
_FENCE_PREFIX = re.compile(r"[ \t]*+(?:(?:>|[-*+]|\d{1,9}[.)])[ \t]*+)*\Z")
_LEAVES = ("fence", "code_block", "html_block", "inline")


class CitationFilter:
    """Filter that corrects the passage numbers of an answer while it is written.

    A mark refers to the text since the mark before. Where another passage shares more words with
    that text than the named ones, the number is corrected: models mistake numbers more often than
    words, and a wrong source is worse than none. A number without a passage is removed. Marks that
    are right stay as they are. ``corrects=False`` only reads the marks.
    """

    def __init__(self, passages: Sequence[Passage], *, corrects: bool = True) -> None:
        self._texts = [add_heading(passage) for passage in passages]
        self._terms = [select_terms(text) if corrects else set() for text in self._texts]
        self._pending = ""
        self._out: list[str] = []
        self._unread: list[str] = []
        """Text since the last look at its words."""
        self._said: set[str] = set()
        self._block: list[str] = []
        """The text since the beginning of the last block of the document."""
        self._parsed = 0
        self._line = ""
        """The end of the last line."""
        self._after_mark = False
        self.cited: list[int] = []
        """The numbers of the cited passages in the order of the answer."""

    def feed(self, text: str) -> str:
        return self._read(self._pending + text, is_last=False)

    def end(self) -> str:
        return self._read(self._pending, is_last=True)

    def ends_in_code(self) -> bool:
        """Return True when the last line belongs to a code block, also as its end."""
        return self._is_in_code("")

    def _read(self, text: str, *, is_last: bool) -> str:
        at, end = 0, -1
        while at < len(text) and (end := self._step(text, at, is_last)) > at:
            at = end
        self._pending = text[at:]
        out, self._out = "".join(self._out), []
        return out

    def _step(self, text: str, at: int, is_last: bool) -> int:
        """Pass a part of the text on. Return its end: ``at`` when more is needed first."""
        special = _SPECIAL.search(text, at)
        start = special.start() if special else len(text)
        if special is None:
            return self._pass(text, at, start if is_last else _skip_back(text, at, start))
        if special[0] == "\\":
            is_whole = is_last or start + 1 < len(text)
            return self._pass(text, at, start + 2 if is_whole else start)
        if special[0].startswith("`"):
            line = (self._line + text[at:start]).rpartition("\n")[2]
            is_fence = len(special[0]) >= 3 and _FENCE_PREFIX.match(line) is not None
            return self._pass(text, at, _find_span_end(text, special, is_fence, is_last) or start)
        if (before := _skip_back(text, at, start)) > at:
            return self._pass(text, at, before)
        return self._read_marks(text, at, start, is_last)

    def _pass(self, text: str, at: int, end: int) -> int:
        """Pass ``text[at:end]`` on as it is."""
        part = text[at:end]
        if part:
            self._out.append(part)
            self._unread.append(part)
            self._block.append(part)
            self._line = (self._line + part).rpartition("\n")[2][-_CONTEXT:]
            self._after_mark = False
        return at + len(part)

    def _read_marks(self, text: str, at: int, start: int, is_last: bool) -> int:
        """Read a group of marks, before which ``text[at:start]`` is space."""
        marks: list[re.Match[str]] = []
        end = start
        while len(marks) < _MAX_MARKS and (mark := MARK.match(text, end)):
            marks.append(mark)
            end = mark.end() + len(_GAP.findall(text[mark.end() : mark.end() + 3])[0])
            if not is_last and (end == len(text) or text[mark.end() :] == "]"):
                return at
        if not is_last and _UNFINISHED_MARK.fullmatch(text, end):
            return at
        if not marks:
            return self._pass(text, at, start + 1)
        if text.startswith(("(", "]("), marks[-1].end()):
            link = marks.pop()
            if not marks:
                return self._pass(text, at, link.end())
        if start == at and not self._after_mark and self._is_index(marks[0][0]):
            return self._pass(text, at, marks[0].end())
        end = marks[-1].end()
        numbers = [number for mark in marks for number in _read_numbers(mark)]
        after = text[end : end + 1]
        if self._is_citation(text[at:start], text[start:end], numbers, after):
            begins_line = _FENCE_PREFIX.match(self._line) is not None
            if self._cite(text[at:start], text[start:end], numbers) or not (
                begins_line or after == "`"  # without the mark, a block or code might begin here
            ):
                return end
        return self._pass(text, at, end)

    def _is_citation(self, space: str, written: str, numbers: list[int], after: str) -> bool:
        is_list = len(numbers) > 1
        if is_list and not any(1 <= number <= len(self._texts) for number in numbers):
            return False
        if is_list and "][" not in written and self._is_quoted(written):
            return False
        is_definition = after == ":" and not self._line.strip()
        return not is_definition and not self._is_in_code(space + written)

    def _is_index(self, written: str) -> bool:
        """Return True for an index behind a name, or the second half of a link."""
        if written == "[0]" and self._line[-1:].isalnum():
            return True
        word = _WORD_BEFORE.search(self._line)
        if word and (_IDENTIFIER.search(word[0]) or self._is_quoted(word[0] + written)):
            return True
        return self._line.endswith(("]", "!"))

    def _is_quoted(self, text: str) -> bool:
        return any(text in passage for passage in self._texts)

    def _is_in_code(self, rest: str) -> bool:
        """Return True when ``rest`` is in a code block here. Forget the blocks before its own."""
        text = "".join([*self._block, rest])
        self._parsed += len(text)
        if self._parsed > _MAX_PARSED:
            return True
        is_code, start = _read_last_block(text)
        self._block = [text[start : len(text) - len(rest)]]
        return is_code

    def _cite(self, space: str, written: str, numbers: list[int]) -> bool:
        """Write a group of marks with the numbers that fit the text before, if there are any."""
        self._said |= select_terms("".join(self._unread))
        self._unread = []
        shared = [len(self._said & terms) for terms in self._terms]
        best = max(shared, default=0)
        known = [number for number in numbers if 1 <= number <= len(shared)]
        is_right = any(shared[number - 1] == best for number in known)
        if not is_right:
            known = [shared.index(best) + 1] if best else []
        if not known:
            return False
        if not is_right or len(known) < len(numbers) or "【" in written or "［" in written:
            written = "".join(f"[{number}]" for number in dict.fromkeys(known))
        self._out.append(space + written)
        self._block.append(space + written)
        self._line = (self._line + space + written)[-_CONTEXT:]
        self._said = set()
        self._after_mark = True
        self.cited = list(dict.fromkeys([*self.cited, *known]))
        return True


def _read_last_block(text: str) -> tuple[bool, int]:
    """Return whether a Markdown text ends in code, and where its last block or list item begins."""
    text = text.replace("\r", " ")
    tokens = BLOCK_PARSER.parse(text)
    leaf = next((token.type for token in reversed(tokens) if token.type in _LEAVES), "inline")
    starts = [
        token.map[0]
        for token in tokens
        if token.map and (not token.level or (token.level == 1 and token.type == "list_item_open"))
    ]
    first = max(starts, default=0)
    return leaf != "inline", sum(len(line) + 1 for line in text.split("\n")[:first])


def _find_span_end(text: str, opening: re.Match[str], is_fence: bool, is_last: bool) -> int | None:
    """Return the end of a code span, or of backticks that open none; None: more is needed.

    ``is_fence``: the backticks open or close a block, unless others follow in their line.
    """
    limit = opening.end() + _LONGEST_SPAN
    for event in _SPAN_EVENT.finditer(text, opening.end()):
        if event.start() >= limit:
            break
        if event[0] == "\n":
            if is_fence:
                return opening.end()
            if not is_last and _UNFINISHED_LINE.fullmatch(text, event.start()):
                return None
            if _BLOCK_START.match(text, event.start()):
                return opening.end()
        elif event.end() == len(text) and not is_last:
            return None
        elif len(event[0]) == len(opening[0]):
            return event.end()
        is_fence = False
    return opening.end() if is_last or len(text) >= limit else None


def _skip_back(text: str, start: int, end: int) -> int:
    """Return where the space before ``end`` begins, ``start`` at least."""
    while end > start and text[end - 1] in " \t":
        end -= 1
    return end


def _read_numbers(mark: re.Match[str]) -> Iterator[int]:
    for first, last in _RANGE.findall(mark[1] or mark[2] or mark[3]):
        yield from range(int(first), max(int(first), int(last or 0)) + 1)


def add_heading(passage: Passage) -> str:
    """Return the passage under its heading, which may name its subject."""
    heading = passage.section or passage.title
    if not heading or passage.text.lstrip("# ").startswith(heading):
        return passage.text
    return f"{heading}\n{passage.text}"


def select_terms(text: str) -> set[str]:
    """Return words of four letters and more, numbers, and Chinese characters in pairs."""
    return {
        term
        for term in split_terms(text)
        if len(term) >= 4 or term.isdigit() or is_unspaced(term[0])
    }


def find_cited(answer: str, passages: Sequence[Passage]) -> CitationFilter:
    """Return the filter that has read a corrected answer."""
    read = CitationFilter(passages, corrects=False)
    read.feed(answer)
    read.end()
    return read


def find_closest(answer: str, passages: Sequence[Passage]) -> list[int]:
    """Return the number of the passage that shares most words with the answer, if any does. It has
    all numbers that the answer has in digits."""
    said = select_terms(answer)
    numbers = set(filter(str.isdigit, said))
    terms = [select_terms(add_heading(passage)) for passage in passages]
    shared = [len(said & each) if numbers <= each else 0 for each in terms]
    best = max(range(len(shared)), key=shared.__getitem__)
    return [best + 1] if shared[best] else []
