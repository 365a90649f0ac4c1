"""Arithmetic in messages, with signs or words: "what is 12*7?", "17 times 23", "15 mal 12"."""

import re

_SIGNS = {
    "+": r"plus|m[áa]s|加上?",
    "-": r"minus|moins|menos|减去?",
    "*": r"times|multiplied by|mal|fois|multipli[ée] par|por|multiplicado por|乘以?",
    "/": r"divided by|over|geteilt durch|durch|divis[ée] par|dividido (?:por|entre)|entre|除以",
    "% of": r"(?:%|percent|prozent|pour ?cent|por ?ciento)\s*(?:of|von|de|del)",
}
"""Words for signs, in English, German, French, Spanish and Chinese."""
_WORDS = "|".join(_SIGNS.values())
_NUMBER = r"[\s(]*(?:[-+−][\s(]*)?\d[\d.,]*[\s)]*"
_WITH_SIGNS = rf"{_NUMBER}(?:(?:\*\*|//|[-+*/×÷·−^%]){_NUMBER})+"
_WITH_WORDS = rf"{_NUMBER}(?:(?:\*\*|//|[-+*/×÷·−^%]|{_WORDS}){_NUMBER})+"
_QUESTION = (
    r"(?:(?:so |please |bitte |请问?)?"
    r"(?:what(?:['’]s| is| are| does)|how (?:much|many) (?:is|are)|calculate|compute"
    r"|was (?:ist|sind|ergibt|macht)|wie ?viel (?:ist|sind|ergibt|macht)|berechne|rechne"
    r"|combien (?:font|fait)|calcule|¿?cu[áa]nto (?:es|son|da)|calcula|计算|算一?下?))"
)
_END = r"(?:\s*(?:make|ergibt|gleich|equals?|是多少|等于多少|等于几|是几|等于))?\s*[=?？.!]*"
PATTERNS = (
    rf"{_QUESTION}\s*(?P<expression>{_WITH_WORDS}){_END}",
    rf"(?P<expression>{_WITH_SIGNS})\s*=\s*[?？]?",
    rf"(?P<expression>{_NUMBER}(?:(?:{_WORDS}){_NUMBER})+){_END}",
    rf"请?问?(?P<expression>{_WITH_WORDS})(?:是多少|等于多少|等于几|是几)[?？]?",
)
"""Patterns of messages that ask for nothing but the value of an expression."""
_SPOKEN = tuple(
    (re.compile(words, re.IGNORECASE), sign) for sign, words in reversed(_SIGNS.items())
)


def write_signs(expression: str) -> str:
    """Return an expression with signs in place of words."""
    for words, sign in _SPOKEN:
        expression = words.sub(f" {sign} ".replace(" %", "%"), expression)
    return " ".join(expression.split())
