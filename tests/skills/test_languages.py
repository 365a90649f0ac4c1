"""Languages by name, and the language of a text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaver_skills import languages
from palaver_skills.language_detection import detect_language


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("German", "de"),
        ("Deutsch", "de"),
        ("allemand", "de"),
        ("alemán", "de"),
        ("德语", "de"),
        ("de", "de"),
        ("DE-at", "de"),
        ("pt_BR", "pt"),
        ("english.", "en"),
        ("Français", "fr"),
        ("中文", "zh"),
        ("日本語", "ja"),
    ],
)
def test_a_language_is_known_by_its_names_and_codes(name: str, code: str) -> None:
    found = languages.find_language(name)
    assert found is not None
    assert found.code == code


@pytest.mark.parametrize("name", ["Klingon", "", "xx", "Germany", "a"])
def test_what_is_no_language_is_not_found(name: str) -> None:
    assert languages.find_language(name) is None


def test_no_two_languages_share_a_name() -> None:
    names = [n.casefold() for x in languages.ALL for n in {x.code, x.name, *x.names}]
    assert len(names) == len(set(names))


def test_a_sentence_names_languages_in_its_order() -> None:
    named = languages.find_languages("from English into simplified Chinese, not 德语 or Germany")
    assert [language.code for language in named] == ["en", "zh", "de"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Where is the nearest station?", "en"),
        ("Wo ist der nächste Bahnhof?", "de"),
        ("Où est la gare la plus proche ?", "fr"),
        ("¿Dónde está la estación más cercana?", "es"),
        ("La casa de mi hermano es muy grande.", "es"),
        ("最近的车站在哪里？", "zh"),
        ("一番近い駅はどこですか。", "ja"),
        ("가장 가까운 역이 어디입니까?", "ko"),
        ("Где находится ближайшая станция?", "ru"),
        ("Де знаходиться найближча станція?", "uk"),
        ("أين أقرب محطة؟", "ar"),
        ("Dove si trova la stazione più vicina? Non la trovo nella mappa.", "it"),
        ("Onde é que fica a estação mais próxima? Não a encontro no mapa.", "pt"),
        ("Waar is het dichtstbijzijnde station? Ik kan het niet vinden op de kaart.", "nl"),
        ("我用 Dynamics 365 工作。", "zh"),
    ],
)
def test_the_language_of_a_sentence_is_told(text: str, code: str) -> None:
    found = detect_language(text)
    assert found is not None
    assert found.code == code


@pytest.mark.parametrize("text", ["", "12 + 7 = 19", "…!?"])
def test_a_text_without_letters_has_no_language(text: str) -> None:
    assert detect_language(text) is None


@given(st.text(max_size=60))
def test_any_text_can_be_asked_about(text: str) -> None:
    found = detect_language(text)
    assert found is None or found in languages.ALL
