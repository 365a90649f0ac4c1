"""Decoding of files in any encoding."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaver_plugins.knowledge.decoding import Undecodable, decode

CHINESE = "退款需要十四天。请联系客服中心，我们的办公时间是早上九点到下午五点。"
JAPANESE = "返品は十四日以内にお願いします。営業時間は午前九時から午後五時までです。"
GERMAN = "Die Straße führt über die Brücke. Geöffnet ist täglich von 9 bis 17 Uhr."
RUSSIAN = "Возврат возможен в течение четырнадцати дней. Часы работы с девяти до пяти."


@pytest.mark.parametrize("text", [CHINESE, JAPANESE, GERMAN, RUSSIAN, "plain", "a\nb"])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be"]
)
def test_unicode_is_decoded(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding)).text == text


def test_a_guess_of_utf_16_is_reported() -> None:
    assert decode(CHINESE.encode("utf-16-be")).note == "its encoding is a guess: UTF-16-BE"
    assert decode(CHINESE.encode("utf-16")).note == ""


@pytest.mark.parametrize(
    ("text", "encoding", "name"),
    [
        (CHINESE, "gb18030", "GB18030"),
        ("# 退款政策\n\nEnglish as well.", "gbk", "GB18030"),
        (
            "退款需要十四天。請聯絡客服中心，我們的辦公時間是早上九點到下午五點。",
            "big5",
            "BIG5HKSCS",
        ),
        (JAPANESE, "shift_jis", "CP932"),
        ("返品について", "shift_jis", "CP932"),
        (JAPANESE, "euc_jp", "EUC-JP"),
        ("お願いします", "euc_jp", "EUC-JP"),
        (JAPANESE, "iso2022_jp", "ISO2022-JP"),
        (
            "환불은 십사 일 이내에 가능합니다. 영업 시간은 오전 아홉 시부터입니다.",
            "euc_kr",
            "CP949",
        ),
        (GERMAN, "latin-1", "CP1252"),
        ("café", "latin-1", "CP1252"),
        ("“quoted” – £5", "cp1252", "CP1252"),
        (RUSSIAN, "cp1251", "CP1251"),
        (RUSSIAN, "koi8_r", "KOI8-R"),
        ("Zwrot możliwy w ciągu czternastu dni. Godziny są następujące.", "cp1250", "CP1250"),
        (RUSSIAN, "cp866", "CP866"),
        ("Привет мир", "cp1251", "CP1251"),
        ("你好", "gb18030", "GB18030"),
        ("หากคุณลืมรหัสผ่าน โปรดติดต่อผู้ดูแลระบบ", "cp874", "CP874"),
        ("© 2024", "latin-1", "CP1252"),
        ("plain text\n" * 10_000 + RUSSIAN, "cp1251", "CP1251"),
        ("plain text\n" * 10_000 + "Die Straße ist grün.\n", "latin-1", "CP1252"),
    ],
)
def test_other_encodings_are_detected_and_reported(text: str, encoding: str, name: str) -> None:
    assert decode(text.encode(encoding)) == (text, f"its encoding is a guess: {name}")


@pytest.mark.parametrize(
    ("head", "encoding"),
    [
        ('<meta charset="gb2312">', "gb18030"),
        ("<META content='text/html; charset=shift_jis' http-equiv=content-type>", "cp932"),
        ('<?xml version="1.0" encoding="iso-8859-1"?>', "cp1252"),
        ("<meta charset=windows-1251>", "cp1251"),
        ("<meta charset=euc-kr>", "cp949"),
        ("<meta charset=x-sjis>", "cp932"),
        ("<meta charset=windows-874>", "cp874"),
        ("<meta charset=TIS-620>", "cp874"),
        ("<meta charset=iso-8859-2>", "iso8859_2"),
        ("<meta charset=ISO-8859-8-I>", "iso8859_8"),
        ("<!-- <meta charset=koi8-r> --><meta charset=windows-1251>", "cp1251"),
    ],
)
def test_a_declaration_is_believed(head: str, encoding: str) -> None:
    letters = {"cp1252": "é", "cp1251": "ж", "cp949": "환불", "cp932": "返品"}
    letters |= {"cp874": "รหัส", "iso8859_2": "ąśł", "iso8859_8": "שלום"}
    text = head + letters.get(encoding, "小一")  # GB18030 bytes that are valid UTF-8 as well
    assert decode(text.encode(encoding), has_declaration=True) == (text, "")


def test_a_wrong_declaration_does_not_spoil_utf_8() -> None:
    text = f"<meta charset=iso-8859-1>{GERMAN}"
    assert decode(text.encode(), has_declaration=True) == (text, "")
    text = f"<meta charset=gb2312>{GERMAN}"
    assert decode(text.encode(), has_declaration=True) == (text, "")
    text = f"<meta charset=no-such-thing>{GERMAN}"
    assert decode(text.encode(), has_declaration=True) == (text, "")


def test_a_damaged_file_is_read_with_a_note() -> None:
    decoded = decode(GERMAN.encode() * 20 + b"\xff" + GERMAN.encode())
    assert decoded.text == GERMAN * 20 + "\ufffd" + GERMAN
    assert decoded.note == "one place is not valid UTF-8, marked by \ufffd"


@pytest.mark.parametrize(
    "content", [b"\0\1\2", b"PK\3\4\xff\xfe\1\2", bytes(range(1, 256)), b"a\xed\xa0\x80b", b"a\0b"]
)
def test_what_is_no_text_is_refused(content: bytes) -> None:
    with pytest.raises(Undecodable):
        decode(content)


def test_a_few_zero_bytes_are_left_out_with_a_note() -> None:
    text = "A line of a log.\n" * 200
    assert decode(text.encode() + b"\0") == (text, "one zero byte is left out")
    assert decode(b"\0\0" + text.encode()).note == "2 zero bytes are left out"


def test_line_ends_become_one_kind() -> None:
    assert decode(b"a\r\nb\rc\n").text == "a\nb\nc\n"


def test_the_colours_of_a_log_are_no_part_of_its_words() -> None:
    assert decode(b"\x1b[31;1merror\x1b[0m\x1b[K here\x1b[").text == "error here\x1b["


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_decoded_or_refused(content: bytes, has_declaration: bool) -> None:
    with contextlib.suppress(Undecodable):
        decode(content, has_declaration=has_declaration).text.encode()


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_utf_8_is_never_guessed(text: str) -> None:
    assert decode(text.encode()) == (text.removeprefix("\ufeff"), "")
