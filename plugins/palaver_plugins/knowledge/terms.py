"""Search terms of texts, and full-text expressions of questions.

SQLite's tokenizer splits words. Scripts without spaces (Chinese, Japanese, Thai) are indexed as
overlapping pairs of characters, plus the last character of a run alone: two characters match a
term, and a single character matches the beginning of a term.
"""

import re

_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\u0e00-\u0e7f"
_RUN = re.compile(f"[{_UNSPACED}]+")
_TERM = re.compile(f"[{_UNSPACED}]+|[^\\W_{_UNSPACED}]+")
MAX_QUERY_TERMS = 32
"""Terms of one question that are searched; further ones are ignored."""
MAX_PREFIX_TERMS = 4
"""Single characters of one question that are searched: each matches many terms."""
MAX_QUERY_CHARACTERS = 8_000
"""Characters of a question that are read; a message may be much longer."""

_STOP_WORDS = frozenset(
    """
    a an and are as at be been by can could did do does for from had has have he her him his how
    i if in into is it its me my no not of on or our she should so such than that the their them
    then there these they this those to us was we were what when where which who whom whose why
    will with would you your about tell please give any some one know want need much many der
    die das den dem des ein eine einer eines einem einen und oder ist sind war waren wird werden
    wie wer wo wann warum welche welcher welches ich du er sie es wir ihr mein dein mit von zu
    zum zur im auf für am bei aus nicht auch kann muss bitte le la les un une de d l et ou est
    sont que qui quoi quel quelle quels quelles comment où quand pourquoi je tu il elle nous
    vous ils elles mon ma mes ce cette ces pour par dans sur avec à au aux ne pas se s el los
    las una unos unas y o son qué quién cuál cuáles cómo como dónde cuándo por para del al en
    con mi su lo sin
    """.split()
)
"""Frequent words without a topic: English, German, French, Spanish."""


def index_terms(text: str) -> str:
    """Return the text to index, with scripts without spaces split into pairs."""
    return _RUN.sub(lambda run: f" {' '.join([*_character_pairs(run[0]), run[0][-1]])} ", text)


def query_terms(question: str) -> list[str]:
    """Return the question's words as FTS5 expressions, without stop words if others remain.

    Every word is quoted, so that FTS5 reads none of it as an operator.
    """
    words: list[str] = _TERM.findall(question[:MAX_QUERY_CHARACTERS].casefold())
    words = [word for word in words if word not in _STOP_WORDS] or words
    unique = dict.fromkeys(term for word in words for term in _quote_term(word))
    prefixes = [term for term in unique if term.endswith("*")]
    costly = set(prefixes[MAX_PREFIX_TERMS:])
    return [term for term in unique if term not in costly][:MAX_QUERY_TERMS]


def _quote_term(word: str) -> list[str]:
    if not _RUN.match(word):
        return [f'"{word}"']
    return [f'"{pair}"' for pair in _character_pairs(word)] or [f'"{word}"*']


def _character_pairs(run: str) -> list[str]:
    return [run[at : at + 2] for at in range(len(run) - 1)]
