"""A scripted engine that renders the prompts with a real chat template, and refuses as it does."""

from collections.abc import Sequence
from pathlib import Path

from tests.server.turns.test_takeover import until

from palaver.engine import ChatMessage, ToolDefinition
from palaver.errors import EngineError
from palaver.testing import ChatClient, ScriptedEngine, ScriptedReply
from palaver.testing.engine import Script
from palaver_plugins.engines.tokenization import ChatTemplate

FOLDER = Path(__file__).with_name("chat_templates")
STYLES = sorted(file.stem for file in FOLDER.iterdir())
STYLES_WITHOUT_SYSTEM = ["forgetful", "gemma", "literal", "mistral_first"]


def load_template(style: str) -> ChatTemplate:
    source = (FOLDER / f"{style}.jinja").read_text(encoding="utf-8")
    return ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"})


class TemplatedEngine(ScriptedEngine):
    """A `ScriptedEngine` whose model has a chat template; ``prompts`` are those of its replies."""

    def __init__(self, style: str, *replies: str | ScriptedReply | Script) -> None:
        super().__init__(*replies)
        self._template = load_template(style)

    @property
    def prompts(self) -> list[str]:
        return [self._template.render(request.messages) for request in self.requests]

    async def count_tokens(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition] = ()
    ) -> int:
        return len(self._template.render(messages).split())


def make_silent_engine(style: str) -> TemplatedEngine:
    """Return the engine for `take_turns_without_a_reply`."""
    silent = ScriptedReply(text="never", pause_after=0)
    failing = ScriptedReply(text="", error=EngineError("no"))
    return TemplatedEngine(style, "Hello.", silent, failing, silent, silent, "Here I am.")


async def take_turns_without_a_reply(chat: ChatClient, engine: ScriptedEngine) -> None:
    """Stop turns before the first word, and let one fail; the turn after them has a reply."""
    assert await chat.say("hi") == "Hello."
    for text, outcome in (
        ("first", "stopped"),
        ("second", "failed"),
        ("third", "stopped"),
        ("fourth", "stopped"),
    ):
        generations = len(engine.requests)
        turn = await chat.send(text)
        await until(lambda: len(engine.requests) > generations)  # noqa: B023
        if outcome == "stopped":
            await chat.stop(turn)
        reply = await chat.reply(turn)
        assert (reply, reply.outcome) == ("", outcome)
    assert await chat.say("Are you there?") == "Here I am."
