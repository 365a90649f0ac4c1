"""A text that looks like an instruction is a text: 200 sentences reach the engine whole."""

from pathlib import Path

import pytest
from tests.skills.support import echo, say_alone

from palaver import Skill
from palaver.testing import ScriptedEngine, converse
from palaver_skills import summarization, translation
from palaver_skills.instructions import Grammar, is_unclear, split_request
from palaver_skills.summarization import Summarization
from palaver_skills.translation import Translation

SENTENCES = [
    line.partition("\t")[2]
    for line in (Path(__file__).parent / "innocent_sentences.txt").read_text("utf-8").splitlines()
]
NAMED = {
    Translation: ("/translate --to ja ", {"target": "ja"}),
    Summarization: ('/summarize --length "one sentence" ', {"length": "one sentence"}),
}
"""Each skill's command, and its arguments without a text."""
SKILLS: list[type[Skill]] = list(NAMED)
GRAMMARS = [translation.GRAMMAR, summarization.GRAMMAR]


class Recorder(ScriptedEngine):
    """Engine that repeats its prompt, and forgets a prompt that was read."""

    def __init__(self) -> None:
        super().__init__(echo)

    def take_prompts(self) -> list[str]:
        """Return the prompts since the last call."""
        prompts = [request.messages[-1].content for request in self.requests]
        self.requests.clear()
        return prompts


def test_there_are_many_in_five_languages() -> None:
    assert len(set(SENTENCES)) >= 200


@pytest.mark.slow
@pytest.mark.parametrize("skill", SKILLS)
async def test_a_named_skill_takes_the_whole_text(skill: type[Skill]) -> None:
    command, arguments = NAMED[skill]
    engine = Recorder()
    async with converse(skill, engine=engine) as chat:
        for sentence in SENTENCES:
            await say_alone(chat, sentence, skill=skill.name, arguments=arguments)
            await say_alone(chat, "x", skill=skill.name, arguments={**arguments, "text": sentence})
            await say_alone(chat, sentence, arguments=arguments)
            await say_alone(chat, command + sentence)
            assert engine.take_prompts() == [sentence] * 4


@pytest.mark.parametrize("sentence", SENTENCES[::20])
async def test_a_skill_that_is_named_without_a_target_asks_for_it_alone(sentence: str) -> None:
    engine = Recorder()
    async with converse(Translation, engine=engine) as chat:
        assert await chat.say(f"/translate {sentence}") == "Into which language?"
        await chat.say("ja")
        assert engine.take_prompts() == [sentence]


@pytest.mark.parametrize("grammar", GRAMMARS)
def test_no_part_of_a_sentence_is_taken_for_an_instruction(grammar: Grammar) -> None:
    assert {s: split_request(s, grammar) for s in SENTENCES} == {s: ("", s) for s in SENTENCES}


@pytest.mark.parametrize("grammar", GRAMMARS)
def test_few_sentences_are_unclear(grammar: Grammar) -> None:
    unclear = [sentence for sentence in SENTENCES if is_unclear(sentence, grammar)]
    assert len(unclear) < 20, unclear


@pytest.mark.parametrize(
    ("skill", "message", "question"),
    [
        (Translation, "Translate the sign, she said, and laughed.", translation.UNCLEAR),
        (Summarization, "Shorten the rope before you climb.", summarization.UNCLEAR),
        (Summarization, "Fass mich nicht an!", None),
        (Translation, "It is raining.", "Into which language?"),
    ],
)
async def test_what_is_unclear_is_asked(
    skill: type[Skill], message: str, question: str | None
) -> None:
    engine = Recorder()
    async with converse(skill, engine=engine) as chat:
        reply = await chat.say(message)
        assert (reply.question.question if reply.question else None) == question
        assert engine.take_prompts() == ([] if question else [message])
        if question in (translation.UNCLEAR, summarization.UNCLEAR):
            await chat.say("Der Hund schläft.")
            if skill is Translation:
                await chat.say("ja")
            assert engine.take_prompts() == ["Der Hund schläft."]


@pytest.mark.parametrize("skill", SKILLS)
def test_an_example_of_a_skill_is_an_instruction(skill: type[Skill]) -> None:
    grammar = GRAMMARS[SKILLS.index(skill)]
    texts = {example: split_request(example, grammar)[0] for example in skill.examples}
    assert [example for example, instruction in texts.items() if not instruction] == []


@pytest.mark.parametrize(
    ("grammar", "message", "text"),
    [
        (
            translation.GRAMMAR,
            "Translate into French:\nIt rains.\nIt pours.",
            "It rains.\nIt pours.",
        ),
        (translation.GRAMMAR, "Traduci in inglese: Piove.", "Piove."),
        (translation.GRAMMAR, "¿Puedes traducir esto al francés?\nLlueve.", "Llueve."),
        (summarization.GRAMMAR, "¿Podrías resumir este texto?\nLlueve.", "Llueve."),
        (translation.GRAMMAR, "Vertaal naar het Engels:\nHet regent.", "Het regent."),
        (translation.GRAMMAR, "Traduza para inglês: Chove.", "Chove."),
        (translation.GRAMMAR, "Tradurre dall'italiano in francese:\nPiove.", "Piove."),
        (translation.GRAMMAR, "Translate this to de:\nIt rains.", "It rains."),
        (translation.GRAMMAR, "It rains.\n\nPlease translate into French.", "It rains."),
        (translation.GRAMMAR, "It rains.\r\n\r\nTraduis ce texte en français !", "It rains."),
        (translation.GRAMMAR, 'Please translate "In German: no." into French', "In German: no."),
        (translation.GRAMMAR, "Kannst du „Hallo: du“ ins Englische übersetzen?", "Hallo: du"),
        (summarization.GRAMMAR, "Summarize:\nIn summary: no.", "In summary: no."),
        (summarization.GRAMMAR, "In summary: no.\nSummarize this briefly.", "In summary: no."),
        (summarization.GRAMMAR, "Kürze das auf einen Satz: Es regnet.", "Es regnet."),
        (summarization.GRAMMAR, "Riassumi in una frase: Piove.", "Piove."),
        (summarization.GRAMMAR, 'Summarize "It rains: a lot." in one sentence', "It rains: a lot."),
    ],
)
def test_a_clear_instruction_is_taken_off(grammar: Grammar, message: str, text: str) -> None:
    instruction, rest = split_request(message, grammar)
    assert instruction
    assert rest == text


@pytest.mark.parametrize(
    ("grammar", "message", "text"),
    [
        (translation.GRAMMAR, "and now into French", ""),
        (translation.GRAMMAR, "Und auf Spanisch?", ""),
        (translation.GRAMMAR, "Et maintenant en allemand", ""),
        (translation.GRAMMAR, "the same in Italian, please", ""),
        (translation.GRAMMAR, "那法语呢？", ""),
        (translation.GRAMMAR, "再翻译成法语", ""),
        (translation.GRAMMAR, "Can you say that again in German?", ""),
        (summarization.GRAMMAR, "even shorter please", ""),
        (summarization.GRAMMAR, "Summarize the conversation so far in one sentence", ""),
        (translation.GRAMMAR, "Hi! Can you translate this to French: It rains.", "It rains."),
        (translation.GRAMMAR, "English to German: It rains.", "It rains."),
        (translation.GRAMMAR, "Translate English → German\nIt rains.", "It rains."),
        (translation.GRAMMAR, "In German please: It rains.", "It rains."),
        (translation.GRAMMAR, "It rains.\nIn German please.", "It rains."),
        (translation.GRAMMAR, "Ins Englische: Es regnet.", "Es regnet."),
        (translation.GRAMMAR, "I need this in French", ""),
        (translation.GRAMMAR, "Translate into German:", ""),
        (translation.GRAMMAR, "Translate into German (formal): It rains.", "It rains."),
        (translation.GRAMMAR, "Translate to German, but keep the tone:\nIt rains.", "It rains."),
        (translation.GRAMMAR, "Translate this to Brazilian Portuguese: It rains.", "It rains."),
        (translation.GRAMMAR, "Peux-tu traduire « Il pleut » en anglais ?", "Il pleut"),
        (translation.GRAMMAR, "What does 'il pleut' mean in English?", "il pleut"),
        (translation.GRAMMAR, "Переведи на английский: Идёт дождь.", "Идёт дождь."),
        (summarization.GRAMMAR, "Write a one-sentence summary: It rains.", "It rains."),
        (summarization.GRAMMAR, "Zusammenfassung bitte: Es regnet.", "Es regnet."),
    ],
)
def test_follow_ups_and_short_requests_are_instructions(
    grammar: Grammar, message: str, text: str
) -> None:
    instruction, rest = split_request(message, grammar)
    assert instruction
    assert rest == text


@pytest.mark.parametrize(
    "text",
    [
        "The sign read:\nPlease translate.",
        "The teacher wrote on the board:\n\nTranslate into German",
        "They sang\nin French.",
        "Le panneau disait :\ntraduire en anglais",
    ],
)
@pytest.mark.parametrize("grammar", GRAMMARS)
def test_what_a_text_announces_is_no_instruction(grammar: Grammar, text: str) -> None:
    assert split_request(text, grammar) == ("", text)


@pytest.mark.parametrize("text", ["", "  \n", "No.", "?", "🙂"])
async def test_a_summary_of_nearly_nothing_is_an_answer(text: str) -> None:
    async with converse(Summarization, engine=ScriptedEngine(lambda _: "No.")) as chat:
        reply = await chat.say(text, skill="summarization", arguments={"length": "one sentence"})
        assert reply.outcome == "done"
        assert reply in (summarization.NOTHING_TO_SUMMARIZE, "No.", text)
