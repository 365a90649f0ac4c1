"""What is in a document is found by what a person types."""

import contextlib
import sqlite3
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.proof_settings import short_or_long

from palaver import Document, is_unspaced
from palaver_plugins.knowledge.index import SCHEMA_VERSION, SearchIndex


@contextlib.contextmanager
def open_index(path: Path = Path(":memory:")) -> Iterator[SearchIndex]:
    with contextlib.closing(SearchIndex(path, search_timeout=60)) as index:
        yield index


def finds(index: SearchIndex, question: str) -> bool:
    return bool(index.rank_by_words("t", question, 3))


@pytest.mark.parametrize(
    ("text", "questions"),
    [
        ("Die Straße ist gesperrt.", "straße strasse STRASSE Strasse"),
        ("Our oﬃce opens at nine.", "office OFFICE"),
        ("Use the data\u200bbase and the co\u00adlumn.", "database column"),
        ("The infor-\nmation is here.", "information infor-mation"),
        ("Ｐａｌａｖｅｒ はﾃﾞｰﾀを保存する", "palaver データ 保存"),
        ("A cafe\u0301 in Zürich", "café cafe CAFÉ zurich zuerich Zürich"),
        ("Herr Mueller wohnt in Aarhus", "Müller mueller Århus"),
        ("Das ist für alle", "für fuer"),
        ("كِتَابٌ في المدرسة رقم ٤٢", "كتاب المدرسه 42 ٤٢ کتاب"),
        ("او می\u200cخواهم گفت", "میخواهم می\u200cخواهم می-خواهم"),
        ("שָׁלוֹם מצה״ל", 'שלום מצה"ל מצהל'),
        ("我们在数据\n库中查找文档", "数据库 查找 文 据库"),
        ("ห้องสมุดเปิดทุกวัน", "ห้องสมุด เปิด"),
        ("ຫ້ອງສະໝຸດ", "ສະໝຸດ"),
        ("បណ្ណាល័យបើក", "បណ្ណាល័យ"),
        ("서울에서 만나요", "서울 서울에서"),
        ("We write C#, C++ and F# on .NET.", "c# C++ f# .net .NET NET"),
        ("Set max_message_bytes.", "max_message_bytes maxMessageBytes message bytes MAX_MESSAGE"),
        ("node.js sends e-mail", "node.js nodejs Node email e-mail E‑Mail mail"),
        ("The parseHttpRequest function", "parsehttprequest http_request parseHttpRequest"),
        ("Version 3.11.2 on 192.168.0.1:8080", "3.11.2 3.11 192.168.0.1 v3.11.2 8080"),
        ("50% of 1,000 people", "50% 1000 1,000 1.000 ５０％"),
        ("Don’t ask l’homme or O'Brien", "don't dont homme L'HOMME OBrien o’brien"),
        ("DİYARBAKIR ve ısı", "diyarbakır diyarbakir ISI isi"),
        ("Ὁ ΔΡΌΜΟΣ", "δρόμος δρομος ΔΡΟΜΟΣ"),
        ("Ёлка зелёная", "елка ёлка зеленая"),
        ("हिन्दी भाषा क़ानून", "हिन्दी हिंदी भाषा क़ानून कानून"),
    ],
)
def test_a_document_is_found_by_each_spelling(text: str, questions: str) -> None:
    with open_index() as index:
        index.add("t", Document(id="d", title="", text=text))
        assert [word for word in questions.split() if not finds(index, word)] == []
        assert not finds(index, "zeppelin")


def widen(word: str) -> str:
    return "".join(chr(ord(x) + 0xFEE0) if "!" <= x <= "~" else x for x in word)


def drop_accents(word: str) -> str:
    """Leave out the marks that people leave out: not those that make か another letter than が."""
    return "".join(
        letter
        if letter == "й" or is_unspaced(letter)
        else "".join(
            x for x in unicodedata.normalize("NFD", letter) if not unicodedata.combining(x)
        )
        for letter in word
    )


SPELLINGS: tuple[Callable[[str], str], ...] = (
    str,
    str.upper,
    str.capitalize,
    str.casefold,
    widen,
    "\u00ad".join,
    "\u200b".join,
    lambda word: f"“{word}”,",
    lambda word: unicodedata.normalize("NFD", word),
    lambda word: word.replace("-", "\u2011").replace("'", "’"),
    lambda word: word.translate(str.maketrans("", "", "-_.'")),
    lambda word: word.replace("_", "-").replace("-", "_").replace(".", "_"),
)
ACCENTED: tuple[Callable[[str], str], ...] = (
    *SPELLINGS,
    drop_accents,
    lambda word: word.replace("ä", "ae").replace("ö", "oe").replace("ü", "ue"),
)
LATIN = st.text("abcdefgijklmnopqrstuvwxyzäöüßéèçñ", min_size=2, max_size=9)
WORDS = st.one_of(
    LATIN,
    st.builds("-".join, st.lists(LATIN, min_size=2, max_size=3)),
    st.builds("_".join, st.lists(LATIN, min_size=2, max_size=4)),
    st.builds("{}.{}.{}".format, *[st.integers(0, 400)] * 3),
    st.builds("{}'{}".format, LATIN, LATIN),
    st.text("αβγδεζηθικλμνξοπρσςτυφχψωάέίόύ", min_size=2, max_size=9),
    st.text("абвгдеёжзийклмнопрстуфхцчшщъыьэюя", min_size=2, max_size=9),
    st.text("אבגדהוזחטיכלמנסעפצקרשת", min_size=2, max_size=9),
    st.text("ابتثجحخدذرزسشصضطظعغفقكلمنهوي", min_size=2, max_size=9),
    st.text("中文数据库查找文档绿茶水温八十度かがパテー서울에서กาไทย", min_size=1, max_size=6),
)


@settings(max_examples=short_or_long(150, 5_000), deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=30), st.data())
@pytest.mark.slow
def test_any_word_of_a_document_finds_it_in_any_spelling(
    words: list[str], data: st.DataObject
) -> None:
    written = [data.draw(st.sampled_from(SPELLINGS))(word) for word in words]
    wanted = data.draw(st.sampled_from(words))
    typed = data.draw(st.sampled_from(ACCENTED))(wanted)
    with open_index() as index:
        index.add("t", Document(id="d", title="", text=" ".join(written)))
        assert finds(index, typed), (written, typed)


@settings(max_examples=short_or_long(100, 5_000), deadline=None)
@given(LATIN.filter(lambda word: len(word) > 3), st.sampled_from(["-", "\u2010", "\u00ad"]))
def test_a_word_is_found_wherever_its_line_ends(word: str, hyphen: str) -> None:
    with open_index() as index:
        for cut in range(1, len(word)):
            text = f"filler {word[:cut]}{hyphen}\n{word[cut:]} filler"
            index.add("t", Document(id=f"{cut}", title="", text=text))
        assert len(index.rank_by_words("t", word, 20)) == len(word) - 1


@settings(max_examples=short_or_long(100, 5_000), deadline=None)
@given(st.text(max_size=200))
def test_whatever_a_document_holds_its_words_find_it(text: str) -> None:
    with open_index() as index:
        index.add("t", Document(id="d", title="", text=text))
        for word in text.split():
            if any(map(str.isalnum, word)):
                assert finds(index, word), word


@pytest.mark.parametrize("run", ["数据库文档查找" * 40, "ห้องสมุดเปิดทุกวัน" * 20])
def test_a_word_is_found_where_a_long_sentence_is_split(run: str) -> None:
    with open_index() as index:
        assert index.add("t", Document(id="d", title="", text=run)) > 1
        for at in range(100, 250):
            index.add("t", Document(id=f"{at}", title="", text=f"{run[:at]}甲乙{run}"))
        assert found_ids(index, "甲乙") == {f"{at}" for at in range(100, 250)}


@pytest.mark.parametrize("hyphen", ["-", "\u2010", "\u00ad"])
def test_a_hyphenated_word_is_found_where_a_passage_ends_in_it(hyphen: str) -> None:
    following = "mation " + "filler " * 60
    with open_index() as index:
        for before in range(60, 70):
            text = f"{'filler ' * before}infor{hyphen}\n{following}"
            index.add("t", Document(id=f"{before}", title="", text=text))
        assert found_ids(index, "information") == {f"{before}" for before in range(60, 70)}


def found_ids(index: SearchIndex, question: str) -> set[str]:
    return {
        passage.document for passage in index.read_passages(index.rank_by_words("t", question, 500))
    }


def test_a_file_of_the_version_before_is_indexed_anew(tmp_path: Path) -> None:
    path = tmp_path / "knowledge.sqlite"
    with open_index(path) as index:
        index.add("t", Document(id="d", title="Straße", text="max_message_bytes of an oﬃce"))
        index.add("other", Document(id="e", title="", text="elsewhere"))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as old:
        for tenant in (1, 2):
            old.execute(f"DROP TABLE terms_{tenant}")
            old.execute(
                f"CREATE VIRTUAL TABLE terms_{tenant} USING fts5"
                "(title, section, body, tokenize = 'porter unicode61 remove_diacritics 2')"
            )
        old.execute("INSERT INTO terms_1 (rowid, title, body) VALUES (1, 'Straße', 'oﬃce')")
        old.execute("PRAGMA user_version=2")
    with open_index(path) as index, open_index(path) as second:
        for question in ("strasse", "office", "maxmessagebytes"):
            assert finds(index, question)
            assert finds(second, question)
        assert not finds(index, "elsewhere")
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        assert db.execute("SELECT tenant FROM scrubs ORDER BY 1").fetchall() == [(1,), (2,)]


@pytest.mark.parametrize(
    ("other", "meant", "question"),
    [
        ("C# and again C#: C# has C# properties", "A pointer is a number in C", "what is C?"),
        ("C is a language, as is C of old", "We write C#, sometimes", "how do I learn C#?"),
        ("Maße Maße: die Maße des Kartons", "die Masse des schweren Kartons", "Masse"),
        ("Die Busse fahren, Busse fahren", "Er tut heute lange Buße", "Buße"),
        ("Send a résumé, résumé again", "Press resume and wait for it", "resume"),
        ("Er ist schön, schön, schön", "Das ist gestern schon gewesen", "schon"),
        ("Node.js and Node.js", "One node of many has failed", "node"),
        ("Customer support, ask us", "IT support is elsewhere today", "IT support"),
        ("The report of a report", "The WHO wrote a long report", "WHO report"),
    ],
)
def test_the_spelling_that_is_typed_comes_first(other: str, meant: str, question: str) -> None:
    with open_index() as index:
        for name, text in (("other", other), ("meant", meant), ("far", "an unrelated text")):
            index.add("t", Document(id=name, title="", text=text))
        best, *_ = index.read_passages(index.rank_by_words("t", question, 3))
        assert best.document == "meant"


def test_a_stop_word_without_its_accent_is_a_word() -> None:
    with open_index() as index:
        index.add("t", Document(id="cat", title="", text="A cat has soft fur"))
        index.add("t", Document(id="dog", title="", text="Das ist für einen Hund"))
        assert found_ids(index, "fur") == {"cat", "dog"}
        assert found_ids(index, "für den Hund") == {"dog"}
        assert found_ids(index, "what's the dog's fur?") == {"cat", "dog"}
