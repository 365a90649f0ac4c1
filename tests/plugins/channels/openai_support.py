"""Skills and helpers for the tests of the OpenAI channel."""

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from openai import AsyncOpenAI
from tests.server.web.live_server import TIMEOUT_SECONDS, LiveServer, open_live_server

from palaver import Sampling, Skill, Turn
from palaver.engine import EngineInfo
from palaver.testing import ScriptedEngine
from palaver_plugins.channels.openai_api import OpenAIChannel

MODEL = "acme/tiny-1b"
"""Name of the engine's own model in these tests."""


class NamedEngine(ScriptedEngine):
    """A scripted engine whose model has a name of its own."""

    model = MODEL

    async def start(self) -> EngineInfo:
        self._info = EngineInfo(
            model=self.model,
            context_window=self._info.context_window,
            capabilities=self._info.capabilities,
            slots=self._info.slots,
        )
        return await super().start()


class Observer(Skill):
    """Tell what the skill sees: the history and the message."""

    name = "seen"

    async def answer(self, turn: Turn) -> None:
        history = [
            [it.role, it.text or "".join(call.arguments for call in it.client_calls or ())]
            for it in turn.history
        ]
        await turn.say(json.dumps({"history": history, "message": turn.message.text}))


class Talker(Skill):
    """Let the model answer, with a system text of its own."""

    name = "talker"

    async def answer(self, turn: Turn) -> None:
        sampling = Sampling(max_tokens=50, temperature=0.3)
        await turn.stream(
            turn.message.text, system="Be kind.", history=turn.history, sampling=sampling
        )


@contextlib.asynccontextmanager
async def open_openai_server(
    *replies: Any, engine: ScriptedEngine | None = None, skills: Sequence[Skill] = (), **about: Any
) -> AsyncIterator[tuple[LiveServer, AsyncOpenAI]]:
    """Yield a server with the channel, and OpenAI's own client."""
    about.setdefault("channels", (OpenAIChannel(),))
    async with (
        open_live_server(
            engine=engine or NamedEngine(*replies),
            skills=(Observer(), Talker(), *skills),
            **about,
        ) as live_server,
        AsyncOpenAI(
            base_url=live_server.url("/v1"),
            api_key="none",
            max_retries=0,
            timeout=TIMEOUT_SECONDS,
            _strict_response_validation=True,
        ) as client,
    ):
        yield live_server, client


def message(role: str, content: Any = None, **fields: Any) -> Any:
    """Return a message of a request."""
    return {"role": role, "content": content, **fields}


def user(text: Any) -> Any:  # Any: one of the many message types of the client
    return message("user", text)


def assistant(text: Any) -> Any:
    return message("assistant", text)


async def ask(client: AsyncOpenAI, *messages: Any, model: str = "seen", **fields: Any) -> Any:
    return await client.chat.completions.create(model=model, messages=list(messages), **fields)


async def seen(client: AsyncOpenAI, *messages: Any, **fields: Any) -> Any:
    """Return what the skill sees of a request."""
    answer = await ask(client, *messages, **fields)
    return json.loads(answer.choices[0].message.content)


def prompt_of(engine: ScriptedEngine) -> list[tuple[str, str]]:
    """Return the messages of the engine's last request."""
    return [(message.role, message.content) for message in engine.requests[-1].messages]
