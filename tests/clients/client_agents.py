"""The OpenAI Agents SDK, with its own loop."""

import asyncio

from checks import check, report
from checks import temperature as measured
from pydantic import BaseModel

# [docs
from agents import Agent, OpenAIResponsesModel, Runner, function_tool
from openai import AsyncOpenAI

model = OpenAIResponsesModel("acme/tiny-1b", AsyncOpenAI())
# OPENAI_BASE_URL=http://127.0.0.1:7252/v1


@function_tool
def temperature(city: str) -> str:
    """How warm it is in a city."""
    return measured(city)


agent = Agent(name="Guide", model=model, tools=[temperature])
ran = Runner.run_sync(agent, "The weather in Rome?")
print(ran.final_output)
# docs]

from agents import HostedMCPTool, OpenAIChatCompletionsModel


class Person(BaseModel):
    name: str
    age: int


check("agent loop", "15 degrees" in ran.final_output, ran)
check("tools", len(ran.new_items) > 2, ran.new_items)
check("Responses", ran.last_response_id.startswith("resp_"), ran)
ran = Runner.run_sync(Agent(name="Clerk", model=model, output_type=Person), "Who is Ada?")
check("structured output", ran.final_output == Person(name="Ada", age=36), ran)


async def stream() -> list[str]:
    streamed = Runner.run_streamed(agent, "The weather in Rome?")
    return [event.type async for event in streamed.stream_events()]


check("streams", "raw_response_event" in asyncio.run(stream()))
chat = OpenAIChatCompletionsModel("acme/tiny-1b", AsyncOpenAI())
ran = Runner.run_sync(Agent(name="Guide", model=chat, tools=[temperature]), "The weather in Rome?")
check("Chat Completions", "15 degrees" in ran.final_output, ran)
skill = OpenAIResponsesModel("agent", AsyncOpenAI())
hosted = HostedMCPTool(
    tool_config={"type": "mcp", "server_label": "palaver", "server_url": "http://127.0.0.1"},
    on_approval_request=lambda request: {"approve": request.data.name == "pay"},
)
guide = Agent(name="Guide", model=skill, tools=[temperature, hosted])
ran = Runner.run_sync(guide, "The weather in Rome?")
check("beside a skill's tools", "15 degrees" in ran.final_output, ran)
ran = Runner.run_sync(guide, "Pay 5")
check("approvals", "paid 5" in ran.final_output, ran)
report()
