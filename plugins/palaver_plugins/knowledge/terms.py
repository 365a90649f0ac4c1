"""Terms of documents, and full-text expressions of questions.

The words of both come from `split_terms`; SQLite only reduces English ones to their stems.
"""

import itertools
import re
from collections.abc import Iterator

from palaver import is_unspaced, split_terms

TOKENIZER = "porter ascii tokenchars '#+.%'"
"""Tokenizer of SQLite that takes the terms apart at the spaces between them."""
MAX_QUERY_TERMS = 32
"""Terms of one question that are searched; further ones are ignored."""
MAX_PREFIX_TERMS = 4
"""Single characters of one question that are searched: each matches many terms."""
MAX_QUERY_CHARACTERS = 8_000
"""Characters of a question that are read; a message may be much longer."""
_HYPHENS = ("-", "\u2010", "\u00ad")
_LONGEST_REST = 40
"""Characters that a hyphenated word may have in the next passage."""
_PUNCTUATION = ".,;:!?…¿¡()[]{}\"'“”„«»‘’`*"
_ACRONYM = re.compile(r"\b[A-Z]{2,5}\b")
"""A name that may look like a stop word: ``IT``, ``US``, ``WHO``."""
_STOP_WORDS = frozenset(
    """
    a an and are as at be been by can could did do does for from had has have he her him his how
    i if in into is it its me my no not of on or our she should so such than that the their them
    then there these they this those to us was we what when where which who whom whose why
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
    """Return the terms of a text to index, with the last character of each unspaced run alone.

    So two characters match a term, and a single one matches the beginning of a term.
    """
    return " ".join(_end_runs(split_terms(text)))


def _end_runs(terms: list[str]) -> Iterator[str]:
    for term, following in itertools.pairwise([*terms, ""]):
        yield term
        if len(term) == 2 and is_unspaced(term[0]) and not following.startswith(term[1]):
            yield term[1]


def finish_word(text: str, following: str) -> str:
    """Return ``text``, with the beginning of the text after it where a word may go on there."""
    if is_unspaced(text[-1:]):
        return text + following[:1]
    if text.endswith(_HYPHENS):
        return text + following[:_LONGEST_REST].partition(" ")[0]
    return text


def query_terms(question: str) -> list[str]:
    """Return the question's terms as FTS5 expressions, without stop words if others remain.

    Every term is quoted, so that FTS5 reads none of it as an operator.
    """
    question = question[:MAX_QUERY_CHARACTERS]
    names = set() if question.isupper() else set(_ACRONYM.findall(question))
    kept = " ".join(
        word
        for word in question.split()
        if word.strip(_PUNCTUATION) in names or not _is_stop_word(word)
    )
    ignored = _STOP_WORDS - {name.lower() for name in names}
    terms = [term for term in split_terms(kept) if term not in ignored]
    unique = dict.fromkeys(map(_quote_term, terms or split_terms(question)))
    prefixes = [term for term in unique if term.endswith("*")]
    costly = set(prefixes[MAX_PREFIX_TERMS:])
    return [term for term in unique if term not in costly][:MAX_QUERY_TERMS]


def written_words(text: str) -> set[str]:
    """Return the words as they are written but for their case, without stop words."""
    words = (word.strip(_PUNCTUATION).lower() for word in text.split())
    return {word for word in words if word and word not in _STOP_WORDS}


def _is_stop_word(word: str) -> bool:
    return word.strip(_PUNCTUATION).lower() in _STOP_WORDS


def _quote_term(term: str) -> str:
    return f'"{term}"*' if len(term) == 1 and is_unspaced(term) else f'"{term}"'
