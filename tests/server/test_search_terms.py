"""The normal form of texts, and their search terms."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.proof_settings import short_or_long

from palaver import is_unspaced, normalize_text, split_terms


@pytest.mark.parametrize(
    ("written", "typed"),
    [
        ("Straße", "strasse"),
        ("STRASSE", "straße"),
        ("oﬃce", "office"),
        ("co\u00adopera\u00adtion", "cooperation"),
        ("data\u200bbase\ufeff", "database"),
        ("\u200fשלום\u200e", "שלום"),
        ("ＦＵＬＬ　ｗｉｄｔｈ", "full width"),
        ("ﾃﾞｰﾀ", "データ"),
        ("デ\u3099", "デ\u3099"),
        ("テ\u3099ータ", "データ"),
        ("cafe\u0301", "café"),
        ("Crème Brûlée", "creme brulee"),
        ("Tiếng Việt", "tieng viet"),
        ("Łódź, Đà Nẵng, Ærø", "lodz, da nang, aero"),
        ("مُحَمَّد", "محمد"),
        ("كتــــاب", "كتاب"),
        ("أحمد إلى آمن ٱسم", "احمد الي امن اسم"),
        ("مدرسة", "مدرسه"),
        ("کیک", "كيك"),
        ("٢٠٢٤ ۲۰۲۴ २०२४", "2024 2024 2024"),
        ("ﻣﺮﺣﺒﺎ", "مرحبا"),
        ("שָׁלוֹם", "שלום"),
        ("DİYARBAKIR", "diyarbakır"),
        ("ΟΔΟΣ", "οδός"),
        ("Ёлка", "елка"),
        ("мои\u0306", "мой"),
        ("क्\u200dष", "क्ष"),
        ("हिन्दी ज़रूरी हाँ सम्बन्ध", "हिंदी जरूरी हां संबंध"),
        ("don’t", "don't"),
        ("x² ½ №5", "x2 1\u20442 no5"),
        ("한\u1100\u1161", "한가"),
    ],
)
def test_spellings_of_one_word_are_equal(written: str, typed: str) -> None:
    assert normalize_text(written) == normalize_text(typed)


@pytest.mark.parametrize(
    ("one", "other"),
    [("か", "が"), ("мой", "мои"), ("हिन्दी", "हन्दी"), ("C", "C#"), ("กา", "ก"), ("ab", "a b")],
)
def test_different_words_stay_different(one: str, other: str) -> None:
    assert normalize_text(one) != normalize_text(other)


@settings(max_examples=short_or_long(300, 20_000), deadline=None)
@given(st.text() | st.text(st.characters(categories=["Mn", "Mc", "Lo", "Lm", "Cf", "Sk"])))
def test_normalizing_twice_changes_nothing(text: str) -> None:
    once = normalize_text(text)
    assert normalize_text(once) == once


@pytest.mark.slow
def test_no_character_changes_when_it_is_normalized_again() -> None:
    changed = [
        hex(code)
        for code in range(0x1F000)
        if not 0xD800 <= code < 0xE000
        and normalize_text(normalize_text(chr(code))) != normalize_text(chr(code))
    ]
    assert changed == []


@settings(max_examples=short_or_long(200, 5_000), deadline=None)
@given(st.text(max_size=60))
def test_terms_do_not_depend_on_the_unicode_form(text: str) -> None:
    forms = {tuple(split_terms(unicodedata.normalize(form, text))) for form in ("NFC", "NFD")}
    assert len(forms) == 1


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("max_message_bytes", "max message bytes maxmessage messagebytes maxmessagebytes"),
        ("node.js", "node js nodejs"),
        ("E-Mail-Adresse", "e mail adresse email mailadresse emailadresse"),
        ("getHTTPResponse", "get http response gethttp httpresponse gethttpresponse"),
        ("PDFs", "pdfs"),
        ("C# C++ F# .NET Notepad++", "c# c++ f# net .net notepad notepad++"),
        ("C♯, ASP.NET", "c# asp net aspnet"),
        ("3.11.2", "3 11 2 311 112 3112"),
        ("50% ٥٠٪", "50 50% 50 50%"),
        ("1,000 1\u202f000 1.000", "1 000 1000 1 000 1000 1 000 1000"),
        ("a,b", "a b"),
        ("don’t O'Brien", "don t dont o brien obrien"),
        ("infor-\n  mation", "infor mation information"),
        ("infor\u00ad\r\nmation", "infor mation information"),
        ("می\u200cخواهم", "مي خواهم ميخواهم"),
        ('צה״ל צה"ל', "צה ל צהל צה ל צהל"),
        ("Müller Århus", "muller mueller arhus aarhus"),
        ("数据\n库", "数据 据库"),
        ("GPT模型4", "gpt 模型 4"),
        ("서울에서", "서울 울에 에서"),
        ("हिन्दी भाषा।", "हिन्दी भाषा"),
        ("__init__ std::vector TCP/IP", "init std vector stdvector tcp ip tcpip"),
        ("“quoted” (text)… — end.", "quoted text end"),
        ("?! --- ...", ""),
    ],
)
def test_terms_of_a_text(text: str, terms: str) -> None:
    assert split_terms(text) == normalize_text(terms).split()


@given(st.text(st.sampled_from("水茶กาかハ서 a"), max_size=12))
def test_unspaced_scripts_become_pairs(text: str) -> None:
    for term in split_terms(text):
        assert len(term) <= 2 or not any(map(is_unspaced, term))


@pytest.mark.parametrize(
    "text",
    ["a-" * 50_000, "\u0301\u0323" * 50_000, "aB" * 50_000, "-\n" * 50_000, 'א"' * 50_000],
    ids=["joined", "marks", "camel", "hyphens", "quotes"],
)
def test_a_long_compound_has_few_terms_for_its_length(text: str) -> None:
    assert sum(map(len, split_terms(text))) <= 3 * len(text)
