"""Questions for the date and the time of day, in five languages, and the answer of the tool."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_NOW = r"(?:\s*(?:now|today|right now|heute|jetzt|gerade|aujourd['’]hui|maintenant|hoy|ahora))?"
_ASKED = (
    r"what(?:['’]s| is) (?:the |today['’]s )?(?:date|day|time)(?: of today)?",
    r"what (?:day|date|time|weekday|day of the week) (?:is it|is today|do we have)",
    r"which day is (?:it|today)",
    r"(?:do you know|can you tell me) what (?:day|date|time) it is",
    r"welche[rns]? (?:wochen)?tag (?:ist|haben wir)(?: es)?",
    r"was (?:ist|haben wir) (?:heute )?(?:für ein(?:en)? (?:wochen)?tag|für ein datum)",
    r"der wievielte ist|den wievielten haben wir|welches datum (?:ist|haben wir)",
    r"wie (?:spät ist es|viel uhr ist es)|wieviel uhr ist es",
    r"quel(?:le)? (?:jour|date) (?:sommes-nous|est-on|est-ce|est-il)|on est quel jour",
    r"nous sommes quel jour|quelle est la date(?: d['’]aujourd['’]hui)?|quelle heure est-il",
    r"il est quelle heure",
    r"qu[ée] d[íi]a (?:es|estamos)|a qu[ée] d[íi]a estamos|qu[ée] fecha (?:es|tenemos)",
    r"cu[áa]l es la fecha(?: de hoy)?|qu[ée] hora es",
    r"(?:今天|现在)?(?:是)?(?:星期几|周几|礼拜几|几号|几月几号|几月几日|什么日子|几点(?:了|钟)?)了?",
    r"今天(?:的)?日期(?:是什么|是多少)?",
)
PATTERN = rf"[¿\s]*(?P<clock>(?:hey |please |bitte |请问)?(?:{'|'.join(_ASKED)})){_NOW}[\s?？!.。]*"
"""A message that asks for nothing but the date or the time."""
_ENGLISH = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_WEEKDAYS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "en": _ENGLISH,
        "de": tuple("Montag Dienstag Mittwoch Donnerstag Freitag Samstag Sonntag".split()),
        "fr": tuple("lundi mardi mercredi jeudi vendredi samedi dimanche".split()),
        "es": tuple("lunes martes miércoles jueves viernes sábado domingo".split()),
        "zh": tuple("星期一 星期二 星期三 星期四 星期五 星期六 星期日".split()),
    }
)
_ANSWERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "en": "It is {weekday}, {date}, {time} ({time_zone}).",
        "de": "Es ist {weekday}, {date}, {time} Uhr ({time_zone}).",
        "fr": "Nous sommes {weekday}, {date}, il est {time} ({time_zone}).",
        "es": "Es {weekday}, {date}, son las {time} ({time_zone}).",
        "zh": "今天是{weekday}，{date}，时间 {time}（{time_zone}）。",
    }
)


def tell_time(result: str, language: str) -> str:
    """Return the result of the tool ``current_time`` as a sentence in one of five languages."""
    moment: Mapping[str, str] = json.loads(result)
    weekday = _WEEKDAYS[language][_ENGLISH.index(moment["weekday"])]
    told = {**moment, "weekday": weekday, "time": moment["time"][:5]}
    return _ANSWERS[language].format(**told)
