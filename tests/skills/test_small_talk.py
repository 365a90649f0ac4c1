"""Small talk is told from other messages, in five languages."""

import pytest

from palaver_skills.small_talk import is_small_talk


@pytest.mark.parametrize(
    "text",
    [
        "Good afternoon, how are you doing?",
        "I love rainy days",
        "Wie geht es dir denn heute?",
        "Ich bin so müde",
        "Merci pour ton aide, c'est gentil",
        "Je suis très content aujourd'hui",
        "¿Cómo estás hoy?",
        "Estoy muy cansada",
        "你今天过得怎么样？",
        "我有点难过",
    ],
)
def test_small_talk_is_recognised(text: str) -> None:
    assert is_small_talk(text)


@pytest.mark.parametrize(
    "text",
    [
        "Who invented the telephone?",
        "Give me a recipe for pancakes",
        "Wie hoch ist der Mont Blanc?",
        "Schreib einen Brief an die Schule",
        "Quelle est la population de la Chine ?",
        "¿Quién descubrió la penicilina?",
        "为什么天空是蓝色的？",
        "I like it. " * 20,
        "",
        "?!",
    ],
)
def test_questions_and_requests_are_no_small_talk(text: str) -> None:
    assert not is_small_talk(text)
