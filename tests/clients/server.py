"""The server that the clients talk to: real, but for its model, which is scripted."""

import contextlib
import json
from collections.abc import AsyncIterator

from tests.plugins.channels.test_openai_embeddings import EmbeddingEngine
from tests.server.web.live_server import open_live_server

from palaver import GenerationRequest, JsonSchema, tool
from palaver.config.settings import AgentSettings
from palaver.testing import ScriptedReply, tool_call
from palaver_plugins.channels.openai_api import OpenAIChannel
from palaver_skills.agent import Agent

ADA = {"name": "Ada", "age": 36}
MEASURED = "15 degrees in Rome"


@tool(needs_approval=True)
def pay(amount: int) -> str:
    """Pay."""
    return f"paid {amount}"


def answer(request: GenerationRequest) -> ScriptedReply:
    """Answer as a model that follows schemas and calls the tools that it is offered."""
    last = request.messages[-1]
    names = [tool.name for tool in request.tools]
    if "pay" in names and last.content == "Pay 5":
        return ScriptedReply(tool_calls=(tool_call("pay", amount=5),))
    if "final_answer" in names and MEASURED in last.content:
        return ScriptedReply(tool_calls=(tool_call("final_answer", answer=MEASURED),))
    if last.role == "tool":
        return ScriptedReply(text=f"It is {last.content}.")
    if isinstance(request.sampling.structure, JsonSchema):
        return ScriptedReply(text=json.dumps(ADA))
    for offered in request.tools:
        known = offered.parameters.get("properties", {}).keys()
        if "name" in known:
            return ScriptedReply(tool_calls=(tool_call(offered.name, **ADA),))
        if "city" in known:
            return ScriptedReply(tool_calls=(tool_call(offered.name, city="Rome"),))
    if last.content.startswith("echo "):
        return ScriptedReply(text=last.content.removeprefix("echo "))
    return ScriptedReply(text="Hello from the model.")


@contextlib.asynccontextmanager
async def open_server() -> AsyncIterator[str]:
    """Yield the base URL for clients."""
    async with open_live_server(
        engine=EmbeddingEngine(answer),
        channels=(OpenAIChannel(),),
        skills=(Agent(),),
        tools=[pay],
        agents=AgentSettings(tools=("pay",)),
    ) as live_server:
        yield live_server.url("/v1")
