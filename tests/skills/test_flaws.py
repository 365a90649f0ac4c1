"""Flaws of texts that small models write."""

import pytest

from palaver_skills.flaws import count_words, drop_repeats, is_in_language, is_loop, is_made_of


@pytest.mark.parametrize(
    ("text", "source", "loops"),
    [
        ("Liebeebeebeebeebeebe", "Love", True),
        ("an an an an an an an an", "write", True),
        ("it counts it counts it counts it counts", "count", True),
        ("Ha ha ha ha ha ha ha", "He ha ha ha ha ha ha", False),
        ("我我我我我我", "我", True),
        ("The cat sleeps on the mat.", "Die Katze schläft.", False),
        ("1000000 euros", "one million", False),
    ],
)
def test_a_loop_repeats_what_its_source_does_not(text: str, source: str, loops: bool) -> None:
    assert is_loop(text, source) is loops


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("It rains. It snows. It rains. It ra", "It rains. It snows."),
        ("- one\n- two\n- one", "- one\n- two"),
        ("Once.", "Once."),
        ("", ""),
    ],
)
def test_a_sentence_is_said_once(text: str, kept: str) -> None:
    assert drop_repeats(text) == kept


def test_a_summary_is_made_of_the_words_of_its_text() -> None:
    text = "The bridge is closed until June. Workers found cracks."
    assert is_made_of("The bridge is closed.", text)
    assert not is_made_of("The documents do not say a lady empty.", text)
    assert not is_made_of(text, text)
    assert not is_made_of("", text)


@pytest.mark.parametrize(
    ("text", "code", "is_right"),
    [
        ("The house is very old.", "en", True),
        ("Das Haus ist sehr alt, sagt sie.", "en", False),
        ("I like喝 tea.", "en", False),
        ("我喜欢喝茶。", "zh", True),
        ("I like tea.", "zh", False),
        ("Danke.", "en", True),
        ("42", "zh", True),
    ],
)
def test_another_language_is_noticed_where_it_is_certain(
    text: str, code: str, is_right: bool
) -> None:
    assert is_in_language(text, code) is is_right


def test_two_chinese_characters_count_as_a_word() -> None:
    assert count_words("It rains, again.") == 3
    assert count_words("我们在图书馆门口见。") == 5
