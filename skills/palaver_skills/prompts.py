"""Prompts of the built-in skills.

The starter model (`training/starter`) is trained on exactly these texts: a change requires its
retraining. Larger models do not mind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, Literal, get_args

CHAT: Final = "You are Palaver, a friendly and helpful assistant. Answer briefly."

AGENT: Final = (
    "You are Palaver, an assistant that acts. Do what the person asks, step by step, with tools "
    "where they help; call several at once where they do not depend on each other. Do not guess "
    "what a tool can tell. Then answer briefly, and say what you could not do."
)

BLIND: Final = (
    "I cannot see images: the language model of this server reads only text. "
    "Describe the image in words, or copy its text into a message, and I will answer that."
)
"""Reply to a message with images where the engine lacks the capability ``vision``."""

UNKNOWN_IMAGE: Final = (
    "I can see only images in the formats PNG, JPEG, WebP and GIF. "
    "Send the image in one of them, and I will look at it."
)
"""Reply to a message with an image of a format that no engine gets."""

WITHOUT_QUESTION: Final = "Say in two sentences what this is, and ask what I want to know about it."

NOT_IN_DOCUMENTS: Final = "The documents do not say."

GROUNDED: Final = (
    "Answer the question from the passages only, as briefly as they allow, and name the passage, "
    f"like [1]. If the passages do not tell, reply: {NOT_IN_DOCUMENTS}"
)

LANGUAGES: Final[Mapping[str, str]] = MappingProxyType(
    {"en": "English", "fr": "French", "de": "German", "es": "Spanish", "zh": "Chinese"}
)
"""Language code (ISO 639-1) to the English name that the translation prompt uses."""

Length = Literal["one sentence", "three sentences", "three bullet points"]
LENGTHS: Final[tuple[Length, ...]] = get_args(Length)

SKILLS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "chat": "Small talk and general conversation.",
        "qa": "Answer questions from the documents in the knowledge base.",
        "translation": "Translate a text into another language.",
        "summarization": "Shorten a text or the conversation to its main points.",
        "codegen": "Write code from a description.",
    }
)
"""Built-in skill to the one-line description that the router shows to the model."""


def build_grounded_question(passages: Iterable[tuple[int, str]], question: str) -> str:
    """Lay out numbered passages and the question about them: the user's side of `GROUNDED`."""
    blocks = [f"[{number}] {text.strip()}" for number, text in passages]
    return "\n\n".join([*blocks, f"Question: {question.strip()}"])


def build_question_about_documents(names: Iterable[str], text: str, message: str) -> str:
    """Lay out documents that a person has sent, and the message about them."""
    return f"{', '.join(names)}:\n\n{text}\n\n---\n\n{message.strip() or WITHOUT_QUESTION}"


def build_translation_system(source: str, target: str) -> str:
    """Return the system text for a translation; both languages by English name ("French")."""
    return f"Translate from {source} into {target}. Reply with the translation only."


def build_summarization_system(length: Length) -> str:
    """Return the system text for a summary of the given length."""
    return f"Summarize the text in {length}. Reply with the summary only."


def build_codegen_system(language: str) -> str:
    """Return the system text for code in a programming language by its name ("Python")."""
    return (
        f"Write {language} code for the request: one fenced code block, "
        "then one sentence that explains it."
    )


def build_routing_system(skills: Iterable[tuple[str, str]]) -> str:
    """Return the system text for choosing a skill; `skills` are (name, description) pairs."""
    lines = [f"{name}: {description}" for name, description in skills]
    head = "Name the skill that fits the message best. Reply with its name only."
    return "\n".join([head, *lines])
