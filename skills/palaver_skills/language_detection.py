"""Language detection by script, function words and letter trigrams.

Made for English, German, French, Spanish and Chinese; some twenty more are recognised by their
script or their function words. A text of one or two words may be taken for a related language.
The trigram table was counted on Tatoeba sentences (tatoeba.org, CC BY 2.0 FR) and Microsoft
product documentation (CC BY 4.0) by ``benchmarks/language_detection.py``.
"""

import re
from collections import Counter
from importlib import resources

from palaver_skills.languages import BY_CODE, Language

_READ_CHARACTERS = 4000
"""Characters at the beginning of a text that are read."""
_SPANISH_MARKS = re.compile("[¿¡]")
_WORD = re.compile(r"[^\W\d_]+")
_SCRIPTS = tuple(
    (code, re.compile(f"[{characters}]"))
    for code, characters in (
        ("ja", "\u3040-\u30ff"),
        ("ko", "\uac00-\ud7af\u1100-\u11ff"),
        ("zh", "\u3400-\u9fff"),
        ("uk", "іїєґІЇЄҐ"),
        ("ru", "\u0400-\u04ff"),
        ("ar", "\u0600-\u06ff"),
        ("he", "\u0590-\u05ff"),
        ("hi", "\u0900-\u097f"),
        ("th", "\u0e00-\u0e7f"),
        ("el", "\u0370-\u03ff"),
    )
)
_SCRIPT_SHARE = 0.2
"""Least share of letters in its script that a text has: Japanese mixes kana and Chinese characters,
Ukrainian has few letters of its own, and all contain Latin names."""
_SCRIPT_SHARES = {"ja": 0.05, "zh": 0.1, "uk": 0.02}

_FUNCTION_WORDS = {
    "en": "the and of to in is that it was for you he on are with as this have not be at but "
    "from we they must there she what his her will would do did can all no my me your him "
    "them an or if how much many does what when where who why which could should "
    "into please",
    "de": "der die das und ist nicht ich ein eine zu den mit von sich auf für dem es sie wir im "
    "auch den des er hat war was du mir mich dich dir aber oder wenn wie noch nur nach "
    "bei aus um am wer wo wann warum welche welcher welches viel viele kann meine mein",
    "fr": "le la les des et est un une que pas pour dans je il qui ce sur vous au avec nous "
    "sont ai as ont avez suis peut fait très bien elle ils on ne se son sa ses du tu me "
    "te mon ma mes cette était été plus tout mais ou si par quel quelle quels où quand "
    "comment pourquoi combien",
    "es": "el la los las de que y es en un una por con no para se del lo su como está más al "
    "este esta estos ese esa muy me te mi tu él ella yo le nos sus son fue ha he todo "
    "pero o si a queda tiene hay ya qué cuando eso sin sobre quién dónde cuándo cómo cuál "
    "cuánto cuántos",
    "it": "il lo gli di che è e un una per con non sono della del nel alla ha anche più questo "
    "i le dei nella delle sul dal si come essere questa hanno loro molto tra ma se ai "
    "alle dello stato dai agli sulla quando perché però stata era ogni cui ed",
    "pt": "o os as de que e é um uma para com não em do da na no dos das por mais foi são ao "
    "pela você isso à ou se seu sua pode ter também entre seus nos nas pelo quando ele "
    "ela eles foram muito mas este esta às aos eu meu minha está ser num numa já",
    "nl": "de het een en van is niet dat ik in op te zijn met voor aan ook maar er hij wordt "
    "naar deze om bij werd",
    "sv": "och att det är en ett som på av för inte den med har till jag från om han var också",
    "da": "og at det er en et som på af for ikke den med har til jeg fra om han var også blev",
    "no": "og å det er en et som på av for ikke den med har til jeg fra om han var også ble",
    "pl": "i w na z się nie to jest do że jak po ale o od przez są być jego był oraz",
    "cs": "a je v na se že s z do to ale jako za by jsou pro byl které o jsem není",
    "ro": "și în de la cu este un o care nu pe din pentru sunt mai a fost să că au",
    "fi": "ja on ei se että oli hän mutta ovat kun myös tai joka sen ole minä mitä",
    "hu": "a az és hogy nem is egy van volt ez meg csak de mint még már vagy",
    "tr": "ve bir bu da de için ile çok ne var olarak daha gibi değil ama mi olan",
    "vi": "và là của không có một được cho trong này người với các những đã",
    "id": "dan yang di itu ini dengan untuk tidak dari pada adalah dalam ke saya akan",
}
_FUNCTION_WORD_WEIGHT = 3.0
"""What a function word adds to the logarithms of the trigrams."""
_FUNCTION_WORD_LEAD = 60
"""Lead that a language without trigrams needs, in sixtieths of a function word."""
_WORDS_OF = {code: frozenset(words.split()) for code, words in _FUNCTION_WORDS.items()}


def detect_language(text: str) -> Language | None:
    """Return the language of ``text``, or None when it has no letters or stays unclear."""
    text = text[:_READ_CHARACTERS]
    words = _WORD.findall(text)
    code = (
        _detect_by_script("".join(words))
        or ("es" if words and _SPANISH_MARKS.search(text) else "")
        or _detect_by_words([word.casefold() for word in words])
    )
    return BY_CODE[code] if code else None


def _detect_by_script(letters: str) -> str:
    for code, script in _SCRIPTS:
        if letters and len(script.findall(letters)) / len(letters) >= _SCRIPT_SHARES.get(
            code, _SCRIPT_SHARE
        ):
            return code
    return ""


def _detect_by_words(words: list[str]) -> str:
    scores = _score_trigrams(words)
    hits = _count_function_words(words)
    together = {
        code: score + _FUNCTION_WORD_WEIGHT * hits[code] / 60 for code, score in scores.items()
    }
    learnt = max(together, key=lambda code: together[code]) if any(scores.values()) else ""
    other = max((code for code in hits if code not in scores), key=hits.__getitem__, default="")
    return other if other and hits[other] >= hits[learnt] + _FUNCTION_WORD_LEAD else learnt


def _count_function_words(words: list[str]) -> Counter[str]:
    """Count function words by language; one of several languages counts in part for each."""
    hits: Counter[str] = Counter()
    for word in words:
        sharing = (
            [code for code, known in _WORDS_OF.items() if word in known] if len(word) > 1 else []
        )
        for code in sharing:
            hits[code] += 60 // len(sharing)
    return hits


def split_trigrams(text: str) -> list[str]:
    """Return overlapping three-letter pieces of the words, with a space around each word."""
    return _join_trigrams(_WORD.findall(text.casefold()))


def _join_trigrams(words: list[str]) -> list[str]:
    line = f" {' '.join(words)} "
    return [line[start : start + 3] for start in range(len(line) - 2)]


def _score_trigrams(words: list[str]) -> dict[str, float]:
    found = [_TABLE[piece] for piece in _join_trigrams(words) if piece in _TABLE]
    return {code: sum(row[column] for row in found) for column, code in enumerate(_COLUMNS)}


def _read_table() -> tuple[tuple[str, ...], dict[str, tuple[float, ...]]]:
    """Return the languages of the columns, and per trigram its natural-log probability in each."""
    text = resources.files("palaver_skills").joinpath("trigrams.txt").read_text(encoding="utf-8")
    head, *lines = text.splitlines()
    rows = (line.split() for line in lines)
    return tuple(head[1:].split()), {
        row[0].replace("_", " "): tuple(-float(value) for value in row[1:]) for row in rows
    }


# Read at import: later it would block the event loop.
_COLUMNS, _TABLE = _read_table()
