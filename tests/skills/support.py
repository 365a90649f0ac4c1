"""Scripts and engines for the tests of skills."""

import dataclasses
import re
from typing import Any

from palaver import Conversation, Task, TaskReach, new_id
from palaver.engine import EngineInfo, GenerationRequest
from palaver.testing import ChatClient, ScriptedEngine
from palaver.testing.engine import Script

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


REACH: dict[Task, TaskReach] = {
    "passages": TaskReach(requests=("en",)),
    "translation": TaskReach(languages=("en", "fr", "de", "es", "zh"), words=8, confidence=0.5),
    "summarization": TaskReach(languages=("en",), words=40),
    "programming": TaskReach(languages=("Python",), requests=("en",)),
    "small_talk": TaskReach(),
}


class Demonstration(ScriptedEngine):
    """An engine with a demonstration model, made for the tasks of `REACH`."""

    def __init__(self, *replies: str | Script, **options: Any) -> None:  # Any: as ScriptedEngine's
        super().__init__(*replies, reach=REACH, **options)

    async def start(self) -> EngineInfo:
        return dataclasses.replace(await super().start(), demonstration=True)


async def say_alone(chat: ChatClient, text: str, **about: Any) -> str:  # Any: fields of Message
    """Send a message to a new conversation of a new tenant, and return the reply."""
    client = ChatClient(chat.server, Conversation(new_id(), "test", "main"), "alice")
    subscription = await chat.server.subscribe(client.conversation, client.recorder)
    reply = await client.say(text, **about)
    chat.server.unsubscribe(subscription)
    return reply
