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
)
from palaver_skills import prompts
from palaver_skills.documents import cut_documents, read_documents, read_earlier_documents
from palaver_skills.token_budget import count_prompt_room, limit_reply_tokens

_QUESTION = (
    r"(?:what(?:'s| is)|how much is|calculate|compute|was (?:ist|ergibt)|wie ?viel (?:ist|sind)"
    r"|berechne|combien font|calcule|cu[áa]nto es|calcula|计算)"
)
_NUMBER = r"[\s(]*(?:[-+−][\s(]*)?\d[\d.,]*[\s)]*"
_SUM = rf"{_NUMBER}(?:(?:\*\*|//|[-+*/×÷·−^%]){_NUMBER})+"


class Chat(Skill):
    """Small talk and general conversation.

    Answers from what the model knows, which may be wrong, with the conversation so far in mind.
    Bare arithmetic is worked out by the tool ``calculate`` where that is installed. It reads
    the documents of messages, as much as fits, and sees their images where the model does. The
    model may call the tools of ``agents.tools``, and those of the program that sent the message.
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
    patterns: ClassVar = (
        rf"{_QUESTION}\s*(?P<expression>{_SUM})\s*[=?？.]*",
        rf"(?P<expression>{_SUM})\s*=\s*[?？]?",
    )

    class Settings(PluginSettings):
        system: str = prompts.CHAT
        """System text of the model."""
        temperature: float = pydantic.Field(default=0.7, ge=0, le=2)
        """0 always takes the likeliest word."""
        max_tokens: int = pydantic.Field(default=512, ge=1)
        """Longest reply; never more than half of the model's context window."""

    class Arguments(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
        expression: str = pydantic.Field(default="", description="Arithmetic to work out")

    async def answer(self, turn: Turn[Arguments]) -> None:
        if problem := _find_blindness(turn):
            await turn.say(problem)
            return
        if turn.arguments.expression and await _calculate(turn, turn.arguments.expression):
            return
        reply = limit_reply_tokens(turn, self.settings.max_tokens)
        sampling = Sampling(temperature=self.settings.temperature, max_tokens=reply)
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
    try:
        result = await turn.call_tool("calculate", expression=expression.strip())
    except (NotFound, InvalidInput):
        return False
    await turn.say(f"{expression.strip()} = {result}")
    return True
