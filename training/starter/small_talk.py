"""Fit the weights that tell small talk from other messages, and measure them on held-out messages.

    python -m training.starter.small_talk --data data/train

Small talk is what the model was trained to answer: wordings of `dialogue_data`, but for those whose
answer is that the assistant has no opinion, knowledge or advice. Other messages are requests and
questions of public data sets, questions of Tatoeba that address nobody, and requests to write, explain
or advise. Needs scikit-learn.
"""

# ruff: noqa: E501 (tables of texts read better with one entry to a line)

from __future__ import annotations

import argparse
import math
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse
from training.starter import corpus, dialogue_data
from training.starter.groups import hash_fraction

from palaver_skills.courtesies import COURTESIES
from palaver_skills.small_talk import read_features

OUTPUT = Path(__file__).parents[2] / "skills" / "palaver_skills" / "small_talk.txt"
HELD_OUT_SHARE = 0.1
MIN_COUNT = 8
"""Messages that a feature must occur in."""
STRENGTH = 8.0
"""Inverse of the L1 penalty on the weights."""
MESSAGES_PER_SIDE = 6_000
"""Weight of all messages of a language and a side together, in messages."""
DECLINING = re.compile(
    r"not something I can do\.|any authority|opinion about that|how to advise|^I don't know\."
    r"|^So etwas kann ich nicht|Fachkenntnis|wirklich eine Meinung|wozu ich da raten|^Ich weiß es nicht"
    r"|domaine de compétences|me prononcer|réponse tranchée|à votre jugement|expertise en la matière"
    r"|répondre avec certitude|^No puedo hacer eso|preguntas que no puedo|una opinión formada"
    r"|No puedo aconsejarte|^No lo sé|力所能及的事|没有发言权|没什么看法|提供不了建议|^我不知道|\d{3}.*\d{2}"
)
"""Answers to questions that are no small talk, and telephone numbers of help lines."""
CLINC_TALK = frozenset(
    "greeting goodbye thank_you what_is_your_name are_you_a_bot how_old_are_you who_made_you "
    "do_you_have_pets who_do_you_work_for".split()
)
CLINC_UNCLEAR = frozenset(
    "where_are_you_from tell_joke what_are_your_hobbies whisper_mode yes no maybe user_name fun_fact "
    "change_user_name what_can_i_ask_you meaning_of_life cancel repeat".split()
)
MEMORY_REPEATS = 4
VALUES = ("Anna", "Tom", "Berlin", "blue", "teacher", "pizza", "Rex")
QUESTION_WORDS = {
    "en": r"^(what|who|whose|which|when|where|why|how (many|much|long|far|old|high|tall|big|do|does|is|can|to))\b",
    "de": r"^(was|wer|wen|wem|wessen|welche\w*|wann|wo|woher|wohin|warum|wieso|wie (viel\w*|lange|weit|hoch|gro|kann|macht|funktion))\b",
    "fr": r"^(quel\w*|qui|quand|où|pourquoi|combien|comment (fai|fonc|peut|dit)|qu'est-ce|que)\b",
    "es": r"^¿?(qu[ée]|qui[ée]n\w*|cu[áa]l\w*|cu[áa]ndo|d[óo]nde|por qu[ée]|cu[áa]nt\w*|c[óo]mo (se|puedo|funciona|hago))\b",
    "zh": r"[吗什么谁哪几多为怎何]",
}
ADDRESSED = {
    "en": r"\b(you|your|i|i'm|me|my)\b",
    "de": r"\b(du|dir|dich|dein\w*|ihr|euch|sie|ihnen|ich|mir|mich|mein\w*)\b",
    "fr": r"\b(tu|te|toi|ton|ta|tes|vous|votre|vos|je|me|moi|mon|ma|mes)\b|[tj]'",
    "es": r"\b(tú|te|ti|tu|tus|usted|yo|me|mi|mis)\b|\w+(as|es)\b",
    "zh": r"[你您我]",
}
"""Words of questions that speak of the person or the assistant."""
THINGS = {
    "en": "the moon,a wedding,my boss,winter,football,healthy food,a holiday in Italy,black holes,the French Revolution,electric cars,my landlord,a birthday,cats,climate change,a job interview,photosynthesis,love,the sea,a garden,my diet",
    "de": "den Mond,eine Hochzeit,meinen Chef,den Winter,Fußball,gesunde Ernährung,einen Urlaub in Italien,schwarze Löcher,die Französische Revolution,Elektroautos,meinen Vermieter,einen Geburtstag,Katzen,den Klimawandel,ein Vorstellungsgespräch,die Liebe,das Meer,einen Garten",
    "fr": "la lune,un mariage,mon chef,l'hiver,le football,une alimentation saine,des vacances en Italie,les trous noirs,la Révolution française,les voitures électriques,mon propriétaire,un anniversaire,les chats,le climat,un entretien,l'amour,la mer,un jardin",
    "es": "la luna,una boda,mi jefe,el invierno,el fútbol,una dieta sana,unas vacaciones en Italia,los agujeros negros,la Revolución francesa,los coches eléctricos,mi casero,un cumpleaños,los gatos,el clima,una entrevista,el amor,el mar,un jardín",
    "zh": "月亮,婚礼,老板,冬天,足球,健康饮食,意大利旅行,黑洞,法国大革命,电动汽车,房东,生日,猫,气候变化,面试,爱情,大海,花园",
}
REQUESTS = {
    "en": "Write a story about {}.|Write an e-mail about {}.|write me a letter about {}|Explain {} to me.|Tell me something about {}.|Give me ideas for {}.|Give me five tips for {}.|Make a list about {}.|Recommend a book about {}.|What do I need to know about {}?|Plan {} for me.|Describe {}.|Can you help me write about {}?|Draft a message to {}.|Compose a song about {}.|What should I say about {}?|How do I prepare for {}?|How can I get better at {}?|Find information about {}.|What is the latest news about {}?|Compare {} with something else.",
    "de": "Schreib eine Geschichte über {}.|Schreibe eine E-Mail über {}.|Verfasse einen Brief über {}.|Erkläre mir {}.|Erzähl mir etwas über {}.|Gib mir Ideen für {}.|Nenne fünf Tipps für {}.|Mach eine Liste über {}.|Empfiehl mir ein Buch über {}.|Was muss ich über {} wissen?|Plane {} für mich.|Beschreibe {}.|Hilf mir, etwas über {} zu schreiben.|Kannst du mir einen Text über {} schreiben?|Wie bereite ich mich auf {} vor?|Was gibt es Neues über {}?|Was soll ich tun wegen {}?|Soll ich etwas über {} sagen?|Was soll ich zu {} sagen?|Wie kann ich {} verbessern?",
    "fr": "Écris une histoire sur {}.|Écris un mail sur {}.|Rédige une lettre sur {}.|Explique-moi {}.|Parle-moi de {}.|Donne-moi des idées pour {}.|Donne cinq conseils pour {}.|Fais une liste sur {}.|Recommande-moi un livre sur {}.|Que dois-je savoir sur {} ?|Organise {} pour moi.|Décris {}.|Aide-moi à écrire un texte sur {}.|Peux-tu m'écrire un texte sur {} ?|Comment se préparer pour {} ?|Comment puis-je améliorer {} ?|Quoi de neuf sur {} ?|Que faut-il dire sur {} ?",
    "es": "Escribe una historia sobre {}.|Escribe un correo sobre {}.|Redacta una carta sobre {}.|Explícame {}.|Cuéntame algo sobre {}.|Dame ideas para {}.|Dame cinco consejos para {}.|Haz una lista sobre {}.|Recomiéndame un libro sobre {}.|¿Qué debo saber sobre {}?|Organiza {} para mí.|Describe {}.|Ayúdame a escribir sobre {}.|¿Puedes escribirme un texto sobre {}?|¿Cómo me preparo para {}?|¿Cómo puedo mejorar {}?|¿Qué hay de nuevo sobre {}?|¿Qué debería decir sobre {}?",
    "zh": "写一个关于{}的故事。|写一封关于{}的邮件。|帮我写一封关于{}的信。|给我解释一下{}。|给我讲讲{}。|给我一些关于{}的建议。|列出五个关于{}的要点。|推荐一本关于{}的书。|关于{}我需要知道什么？|帮我计划{}。|描述一下{}。|{}有什么新闻？|我该怎么准备{}？|关于{}我该说什么？|{}是什么？|为什么要了解{}？",
}
"""Requests for texts, knowledge and advice, separated by bars."""


class Message(NamedTuple):
    text: str
    language: str
    is_talk: bool


def read_talk(folder: Path) -> Iterator[Message]:
    """Yield small talk, and questions to which small talk has no answer."""
    for row in corpus.read_rows(folder, "botframework_chitchat_all"):
        if row["lang"] in dialogue_data.LOCALES:
            is_talk = DECLINING.search(row["answer"].strip()) is None
            for text in row["questions"]:
                yield Message(text, row["lang"][:2], is_talk)
    for asked, _ in COURTESIES:
        yield from (Message(text, "courtesy", True) for text in asked)
    for statement, questions, _, _ in dialogue_data.MEMORIES:
        for value in VALUES:
            told = [Message(statement.format(v=value), "memory", True)]
            yield from told * MEMORY_REPEATS
        yield from (Message(text, "memory", True) for text in questions * MEMORY_REPEATS)


def read_requests(folder: Path, random_: random.Random) -> Iterator[Message]:
    """Yield requests and questions in English, and CLINC150's small talk."""
    for row in corpus.read_rows(folder, "intent_clinc150_train"):
        if row["intent"] not in CLINC_UNCLEAR:
            yield Message(row["text"], "en", row["intent"] in CLINC_TALK)
    for row in corpus.read_rows(folder, "intent_hwu64_train"):
        if not row["intent"].startswith("general"):
            yield Message(row["text"], "en", False)
    for name, field, most in (
        ("intent_snips_train", "text", 3_000),
        ("qa_strategyqa_train", "question", 3_000),
        ("faq_pairs_medquad_train90", "question", 1_500),
        ("qa_gsm8k_train", "question", 500),
    ):
        texts = [row[field] for row in corpus.read_rows(folder, name)]
        yield from (Message(x, "en", False) for x in random_.sample(texts, min(most, len(texts))))


def read_questions(folder: Path, random_: random.Random) -> Iterator[Message]:
    """Yield questions of Tatoeba that speak neither of the person nor of the assistant."""
    for language in ("de", "fr", "es", "zh"):
        rows = list(corpus.read_rows(folder, f"tatoeba_en-{language}"))
        for side, most in ((language, 4_000), ("en", 1_500)):
            asked = [row[side] for row in rows if _is_impersonal(row[side], side)]
            random_.shuffle(asked)
            yield from (Message(text, side, False) for text in asked[:most])


def _is_impersonal(text: str, language: str) -> bool:
    text = text.casefold()
    is_question = re.search(QUESTION_WORDS[language], text) is not None
    return is_question and re.search(ADDRESSED[language], text) is None


def make_requests() -> Iterator[Message]:
    """Yield requests for texts, knowledge and advice."""
    for language, forms in REQUESTS.items():
        for form in forms.split("|"):
            for thing in THINGS[language].split(","):
                yield Message(form.format(thing), language, False)


def make_matrix(found: list[set[str]], columns: dict[str, int]) -> scipy.sparse.csr_matrix:
    """Return one row for each message: its features, scaled by their number."""
    ends, indices, values = [0], [], []
    for features in found:
        known = [columns[name] for name in features if name in columns]
        indices += known
        values += [1 / math.sqrt(len(features) or 1)] * len(known)
        ends.append(len(indices))
    return scipy.sparse.csr_matrix((values, indices, ends), shape=(len(found), len(columns)))


def fit(messages: list[Message]) -> dict[str, float]:
    """Fit the weights to the messages that are not held out, and print how they do on the others."""
    from sklearn.linear_model import LogisticRegression

    found = [read_features(message.text) for message in messages]
    counts = Counter(name for features in found for name in features)
    columns = {
        name: at for at, name in enumerate(n for n, count in counts.items() if count >= MIN_COUNT)
    }
    rows = make_matrix(found, columns)
    held_out = np.array([hash_fraction(m.text.casefold()) < HELD_OUT_SHARE for m in messages])
    is_talk = np.array([message.is_talk for message in messages])
    sides = Counter((message.language, message.is_talk) for message in messages)
    weights = np.array(
        [MESSAGES_PER_SIDE / max(600, sides[m.language, m.is_talk]) for m in messages]
    )
    model = LogisticRegression(
        C=STRENGTH, l1_ratio=1, solver="liblinear", fit_intercept=False, max_iter=300
    )
    model.fit(rows[~held_out], is_talk[~held_out], sample_weight=weights[~held_out])
    chosen = rows @ model.coef_[0] > 0
    for language in corpus_languages(messages):
        mine = held_out & np.array([message.language == language for message in messages])
        talk, other = chosen[mine & is_talk], chosen[mine & ~is_talk]
        shares = [
            f"{part.mean():.1%} of {len(part)}" if len(part) else "none" for part in (talk, other)
        ]
        sys.stdout.write(f"{language:14} found {shares[0]}, taken for it {shares[1]}\n")
    return {
        n: round(float(w), 1)
        for n, w in zip(columns, model.coef_[0], strict=True)
        if abs(w) >= 0.05
    }


def corpus_languages(messages: list[Message]) -> list[str]:
    """Return the languages, the English one first."""
    return sorted({message.language for message in messages}, key=lambda name: (name != "en", name))


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="training.starter.small_talk", description=__doc__)
    parser.add_argument("--data", type=Path, default=corpus.default_data_folder())
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    random_ = random.Random(1)
    messages = [
        *read_talk(options.data),
        *read_requests(options.data, random_),
        *read_questions(options.data, random_),
        *make_requests(),
    ]
    kept = [message for message in messages if not corpus.resembles_example(message.text)]
    weights = fit(kept)
    lines = [f"{name}\t{weight:g}" for name, weight in sorted(weights.items())]
    options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
