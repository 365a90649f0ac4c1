"""Scripts and engines for the tests of skills."""

import re
from typing import Any

from palaver import Conversation, new_id
from palaver.engine import EngineInfo, GenerationRequest
from palaver.testing import ChatClient, ScriptedEngine

GERMAN = {
    "Hello": "Hallo",
    "good morning": "guten Morgen",
    "Click": "Klicke",
    "to continue": "um weiterzumachen",
    "The cat sleeps.": "Die Katze schläft.",
    "It rains.": "Es regnet.",
}


def echo(request: GenerationRequest) -> str:
    """Return the prompt."""
    return request.messages[-1].content


def german(request: GenerationRequest) -> str:
    """Translate a few words into German, and keep marks."""
    text = request.messages[-1].content
    for english, translated in GERMAN.items():
        text = text.replace(english, translated)
    return text


def shout(request: GenerationRequest) -> str:
    """Return the prompt in capitals without its marks, as a careless model does."""
    return re.sub(r"⟦\d+⟧", "", request.messages[-1].content).upper()


class Demonstration(ScriptedEngine):
    """An engine with a demonstration model."""

    async def start(self) -> EngineInfo:
        engine_info = await super().start()
        return EngineInfo(
            model=engine_info.model,
            context_window=engine_info.context_window,
            capabilities=engine_info.capabilities,
            demonstration=True,
        )


async def say_alone(chat: ChatClient, text: str, **about: Any) -> str:  # Any: fields of Message
    """Send a message to a new conversation of a new tenant, and return the reply."""
    client = ChatClient(chat.server, Conversation(new_id(), "test", "main"), "alice")
    subscription = await chat.server.subscribe(client.conversation, client.recorder)
    reply = await client.say(text, **about)
    chat.server.unsubscribe(subscription)
    return reply
