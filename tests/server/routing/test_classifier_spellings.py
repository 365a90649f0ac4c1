"""The classifier reads a message in the form in which texts are compared."""

import unicodedata
from typing import Literal

import pytest

from palaver.routing.classifier import count_features


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize(
    "text", ["Écris une fonction", "Schreibe für die Straße", "文档里关于退款"]
)
def test_spellings_of_one_message_have_the_same_features(
    text: str, form: Literal["NFC", "NFD"]
) -> None:
    spelled = "\u200b".join(unicodedata.normalize(form, text.upper()))
    assert count_features(spelled) == count_features(text)
