"""Chat: general conversation, and the default skill."""

from typing import Any, ClassVar

import pydantic

from palaver import (
    InvalidInput,
    NotFound,
    PluginSettings,
    Sampling,
    Skill,
    ToolDefinition,
    Turn,
    run_on_text,
)
from palaver_skills import calculation, clock, help, prompts
from palaver_skills.courtesies import find_courtesy
from palaver_skills.documents import cut_documents, read_documents, read_earlier_documents
from palaver_skills.flaws import is_in_language
from palaver_skills.refusals import (
    ask_for_confidence,
    decline,
    detect_person_language,
    is_limited,
    is_usable,
    tell_tasks,
)
from palaver_skills.small_talk import is_small_talk
from palaver_skills.token_budget import count_prompt_room, limit_reply_tokens

_TEMPERATURE = 0.7


class Chat(Skill):
    """Small talk and general conversation.

    Answers from what the model knows, which may be wrong, with the conversation so far in mind.
    Bare arithmetic is worked out by the tool ``calculate``, and the date is told by
    ``current_time``, where these are installed. It reads the documents of messages, as much as
    fits, and sees their images where the model does. The model may call the tools of
    ``agents.tools``, and those of the program that sent the message. A model with a declared reach
    makes only small talk, if that is part of it.
    """

    name = "chat"
    aliases: ClassVar = ("talk",)
    sees_images = True
    calls_client_tools = True
    prompts: ClassVar = ("Are you a robot or real?",)
    examples: ClassVar = (
        "hello",
        "hi, how are you?",
        "good morning",
        "thank you very much",
        "who are you?",
        "what can you do?",
        "tell me a joke",
        "I am bored",
        "what do you think about the weather",
        "bye, see you tomorrow",
        "do you like music?",
        "let's talk about something else",
        "why do cats purr?",
        "who wrote Hamlet?",
        "how tall is the Eiffel Tower?",
        "which animal is the fastest?",
        "how do magnets work?",
        "Warum schnurren Katzen?",
        "Wer hat den Faust geschrieben?",
        "Wie hoch ist der Eiffelturm?",
        "Pourquoi les chats ronronnent-ils ?",
        "Qui a peint la Joconde ?",
        "¿Por qué ronronean los gatos?",
        "¿Quién escribió Don Quijote?",
        "猫为什么会打呼噜？",
        "谁写了《红楼梦》？",
        "Hallo, wie geht's?",
        "Erzähl mir einen Witz",
        "Danke, bis später",
        "Salut, ça va ?",
        "Qui es-tu ?",
        "Hola, ¿qué tal?",
        "Cuéntame algo divertido",
        "你好",
        "你是谁？",
        "谢谢，再见",
    )
    patterns: ClassVar = (*calculation.PATTERNS, clock.PATTERN, help.PATTERN)

    class Settings(PluginSettings):
        system: str = prompts.CHAT
        """System text of the model."""
        temperature: float | None = pydantic.Field(default=None, ge=0, le=2)
        """0 always takes the likeliest word. Not set: 0.7; 0 for a model with a declared reach."""
        max_tokens: int = pydantic.Field(default=512, ge=1)
        """Longest reply; never more than half of the model's context window."""

    class Arguments(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
        expression: str = pydantic.Field(default="", description="Arithmetic to work out")
        clock: str = pydantic.Field(default="", description="Question for the date or the time")

    async def answer(self, turn: Turn[Arguments]) -> None:
        if problem := _find_blindness(turn):
            await turn.say(problem)
            return
        if turn.arguments.expression and await _calculate(turn, turn.arguments.expression):
            return
        if turn.arguments.clock and await _tell_time(turn):
            return
        if is_limited(turn.engine):
            await self._make_small_talk(turn)
        else:
            await self._converse(turn)

    async def _make_small_talk(self, turn: Turn[Arguments]) -> None:
        """Answer small talk with a model that can do no more; decline anything else, and what the
        model is not sure of."""
        text = turn.message.text
        reach = turn.engine.find_reach("small_talk")
        if help.asks_for_help(text):
            await tell_tasks(turn)
            return
        if reach is None or turn.message.attachments or not await run_on_text(is_small_talk, text):
            await decline(turn, "knowledge")
            return
        if courtesy := await run_on_text(find_courtesy, text):
            await turn.say(courtesy)
            return
        sampling = self._sampling(limit_reply_tokens(turn, self.settings.max_tokens), 0.0)
        written = await turn.generate(
            text,
            system=self.settings.system,
            history=turn.history,
            sampling=ask_for_confidence(turn, sampling),
            for_reply=True,
        )
        language = await detect_person_language(text)
        if is_usable(turn, "small_talk", written, text) and await run_on_text(
            is_in_language, written, language
        ):
            await turn.say(written)
        else:
            await decline(turn, "small_talk")

    async def _converse(self, turn: Turn[Arguments]) -> None:
        """Answer from what the model knows, with tools where it can call them."""
        reply = limit_reply_tokens(turn, self.settings.max_tokens)
        sampling = self._sampling(reply, _TEMPERATURE)
        prompt = await self._build_prompt(turn, reply)
        system, history = self.settings.system, turn.history
        tools: list[str | ToolDefinition] = [*(turn.enabled_tools or ()), *turn.client_tools]
        if tools and "tools" in turn.engine.capabilities:
            await turn.run(
                prompt,
                tools=tools,
                system=system,
                history=history,
                sampling=sampling,
                images=True,
            )
        else:
            await turn.stream(
                prompt, system=system, history=history, sampling=sampling, images=True
            )

    def _sampling(self, tokens: int, temperature: float) -> Sampling:
        """Return the sampling parameters; ``temperature`` applies where none is set."""
        chosen = self.settings.temperature
        return Sampling(temperature=temperature if chosen is None else chosen, max_tokens=tokens)

    async def _build_prompt(self, turn: Turn[Arguments], reply: int) -> str:
        """Return the message, after the documents that were sent with it, or last."""
        text = turn.message.text
        documents = await read_documents(turn) or await read_earlier_documents(turn)
        if not documents:
            return text
        room = await count_prompt_room(turn, self.settings.system, reply)
        shown = await cut_documents(turn, documents, max(8, room // 2))
        return prompts.build_question_about_documents(
            [document.name for document in documents], shown, text
        )


def _find_blindness(turn: Turn[Any]) -> str:
    """Return what to say about pictures that the model cannot see; empty when it sees all."""
    pictures = [it for it in turn.message.attachments if it.media_type.startswith("image/")]
    if pictures and "vision" not in turn.engine.capabilities:
        return prompts.BLIND
    return prompts.UNKNOWN_IMAGE if len(pictures) > len(turn.images) else ""


async def _calculate(turn: Turn[Chat.Arguments], expression: str) -> bool:
    """Answer by the tool and return True; False when it is not installed or refuses."""
    expression = calculation.write_signs(expression)
    try:
        result = await turn.call_tool("calculate", expression=expression)
    except (NotFound, InvalidInput):
        return False
    await turn.say(f"{expression} = {result}")
    return True


async def _tell_time(turn: Turn[Chat.Arguments]) -> bool:
    """Tell date and time by the tool and return True; False when it is not installed."""
    try:
        moment = await turn.call_tool("current_time")
    except NotFound:
        return False
    await turn.say(clock.tell_time(moment, await detect_person_language(turn.message.text)))
    return True
