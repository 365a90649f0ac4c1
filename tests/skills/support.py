"""What the tests of skills share."""

import re

from palaver.engine import EngineInfo, GenerationRequest
from palaver.testing import ScriptedEngine

GERMAN = {
    "Hello": "Hallo",
    "good morning": "guten Morgen",
    "Click": "Klicke",
    "to continue": "um weiterzumachen",
    "The cat sleeps.": "Die Katze schläft.",
    "It rains.": "Es regnet.",
}


def echo(request: GenerationRequest) -> str:
    """Says what it was asked."""
    return request.messages[-1].content


def german(request: GenerationRequest) -> str:
    """Knows a few words of German, and leaves marks where they are."""
    text = request.messages[-1].content
    for english, translated in GERMAN.items():
        text = text.replace(english, translated)
    return text


def shout(request: GenerationRequest) -> str:
    """Loses every mark: what a careless model does."""
    return re.sub(r"⟦\d+⟧", "", request.messages[-1].content).upper()


class Demonstration(ScriptedEngine):
    """An engine that says of itself that its model is too small for real use."""

    async def start(self) -> EngineInfo:
        engine_info = await super().start()
        return EngineInfo(
            model=engine_info.model,
            context_window=engine_info.context_window,
            capabilities=engine_info.capabilities,
            demonstration=True,
        )
