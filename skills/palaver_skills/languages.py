"""Languages, with the names and codes that people use for them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from palaver_skills.prompts import LANGUAGES as STARTER


@dataclass(frozen=True, slots=True)
class Language:
    """A language: its ISO 639-1 code, its English name, and its other names."""

    code: str
    name: str
    names: tuple[str, ...] = ()


_TABLE: Final = """
en English engels englisch englische anglais anglaise inglés ingles inglesa inglese inglês 英语 英語
  英文 английский
de German duits deutsch deutsche deutschen allemand allemande alemán aleman alemana tedesco alemão
  德语 德語 德文 немецкий
fr French frans französisch französische franzoesisch français francais française francés frances
  francesa francese francês 法语 法語 法文 французский
es Spanish spaans spanisch spanische espagnol espagnole español espanol española spagnolo espanhol
  castellano castilian 西班牙语 西班牙文 испанский
zh Chinese chinees chinesisch chinesische mandarin chinois chinoise chino china cinese chinês 中文
  汉语 漢語 普通话 简体中文 китайский
ja Japanese japanisch japanische japonais japonaise japonés japones giapponese 日语 日文
  日本語
ko Korean koreanisch coréen coreen coreano 韩语 韓語 한국어
ru Russian russisch russische russe ruso russo 俄语 俄文 русский
ar Arabic arabisch arabische arabe árabe arabo 阿拉伯语 العربية
it Italian italiaans italienisch italienische italien italienne italiano italiana 意大利语 意大利文
pt Portuguese portugees portugiesisch portugiesische portugais portugaise portugués portugues
  português portoghese 葡萄牙语 葡萄牙文
nl Dutch niederländisch niederländische niederlaendisch holländisch néerlandais neerlandais
  neerlandés holandés nederlands olandese 荷兰语
pl Polish polnisch polnische polonais polonaise polaco polski polacco 波兰语
sv Swedish schwedisch schwedische suédois suedois sueco svenska svedese 瑞典语
da Danish dänisch dänische daenisch danois danés danes dansk danese 丹麦语
no Norwegian norwegisch norwegische norvégien norvegien noruego norsk norvegese 挪威语
fi Finnish finnisch finnische finnois finlandés finlandes finés suomi finlandese 芬兰语
cs Czech tschechisch tschechische tchèque tcheque checo čeština cestina ceco 捷克语
hu Hungarian ungarisch ungarische hongrois húngaro hungaro magyar ungherese 匈牙利语
ro Romanian rumänisch rumänische rumaenisch roumain rumano română romana rumeno 罗马尼亚语
tr Turkish türkisch türkische tuerkisch turc turco türkçe turkce 土耳其语
el Greek griechisch griechische grec griego ελληνικά greco 希腊语
uk Ukrainian ukrainisch ukrainische ukrainien ucraniano українська ucraino 乌克兰语
he Hebrew hebräisch hebräische hebraeisch hébreu hebreu hebreo עברית ebraico 希伯来语
hi Hindi हिन्दी 印地语
th Thai thailändisch thaï tailandés ไทย 泰语
vi Vietnamese vietnamesisch vietnamien vietnamita 越南语
id Indonesian indonesisch indonésien indonesio indonesiano 印尼语 印度尼西亚语
"""


def _parse(entry: str) -> Language:
    code, name, *names = entry.split()
    return Language(code, name, tuple(names))


ALL: Final = tuple(_parse(entry) for entry in re.split(r"\n(?! )", _TABLE.strip()))
BY_CODE: Final = {language.code: language for language in ALL}
STARTER_LANGUAGES: Final = tuple(BY_CODE[code] for code in STARTER)
"""The languages of the starter model."""

_BY_NAME: Final = {
    name.casefold(): language
    for language in ALL
    for name in (language.code, language.name, *language.names)
}
_NAMED: Final = re.compile(
    r"\b(?:{})\b".format(
        "|".join(sorted((re.escape(n) for n in _BY_NAME if len(n) > 2), key=len, reverse=True))
    )
    + "|"
    + "|".join(re.escape(n) for n in _BY_NAME if not n.isascii() and "\u4e00" <= n[0] <= "\u9fff"),
    re.IGNORECASE,
)
_LONGEST_NAME: Final = 100
_READ_CHARACTERS: Final = 4_000
"""Characters at the beginning of a text in which languages are looked for."""
NAMES: Final = _NAMED.pattern
"""A regular expression that matches any name of a language, but no two-letter code."""
MARK: Final = "§"
"""Stands for any language in a text of `mark_languages`."""
_QUALIFIER: Final = re.compile(
    r"\b(?P<kind>brazilian|european|american|british|australian|canadian|swiss|austrian|mexican"
    r"|simplified|traditional|standard|modern|formal|informal|colloquial|simple|plain"
    r"|einfache[sn]?|brasilianische[sn]?)\s{1,10}\Z",
    re.IGNORECASE,
)
_LONGEST_QUALIFIER: Final = 30
"""Characters before the name of a language in which a qualifier of it is looked for."""
_CODE: Final = re.compile(r"(?<=to )[a-z]{2}(?=\W*$)", re.IGNORECASE)


def mark_languages(text: str) -> str:
    """Return a short ``text`` with a mark in place of each language that it names."""
    parts = []
    end = 0
    for name, qualifier in _find_names(text):
        parts.append(text[end : qualifier.start() if qualifier else name.start()])
        end = name.end()
    marked = MARK.join([*parts, text[end:]])
    return _CODE.sub(lambda code: MARK if find_language(code[0]) else code[0], marked)


def find_language(name: str) -> Language | None:
    """Return the language with this name or code ("German", "Deutsch", "de", "de-AT"), or None."""
    if len(name) > _LONGEST_NAME:
        return None
    wanted = name.strip().strip(".!?。！？\"'").casefold()
    plain = wanted.split("-")[0].split("_")[0] if len(wanted) <= 7 else wanted
    return _BY_NAME.get(wanted) or _BY_NAME.get(plain)


def find_languages(text: str) -> Iterator[Language]:
    """Yield the languages that ``text`` names, in its order; a lone code counts as well."""
    alone = find_language(text)
    if alone:
        yield alone
        return
    for match in _NAMED.finditer(text, 0, _READ_CHARACTERS):
        yield _BY_NAME[match.group().casefold()]


def qualify(language: Language, text: str) -> Language:
    """Return ``language`` as a short ``text`` qualifies its name: "Brazilian Portuguese"."""
    for name, qualifier in _find_names(text):
        if qualifier and _BY_NAME[name.group().casefold()] == language:
            return replace(language, name=f"{qualifier['kind'].capitalize()} {language.name}")
    return language


def _find_names(text: str) -> Iterator[tuple[re.Match[str], re.Match[str] | None]]:
    """Yield the names of languages in ``text``, each with the qualifier before it."""
    for name in _NAMED.finditer(text):
        start = max(0, name.start() - _LONGEST_QUALIFIER)
        yield name, _QUALIFIER.search(text, start, name.start())
