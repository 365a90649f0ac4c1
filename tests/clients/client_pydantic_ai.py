"""Pydantic AI."""

import asyncio

from checks import check, report, temperature
from pydantic import BaseModel

# [docs
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel

agent = Agent(OpenAIChatModel("auto"))  # OPENAI_BASE_URL=http://127.0.0.1:7252/v1
print(agent.run_sync("Hello").output)
# docs]
from pydantic_ai import NativeOutput

MODEL = "acme/tiny-1b"


class Person(BaseModel):
    """A person."""

    name: str
    age: int


check("Chat Completions", bool(agent.run_sync("Hello").output))


async def stream() -> str:
    async with agent.run_stream("Hello") as streamed:
        return "".join([piece async for piece in streamed.stream_text(delta=True)])


check("streams", bool(asyncio.run(stream())))
for name, model in (("tools", OpenAIChatModel(MODEL)), ("Responses", OpenAIResponsesModel(MODEL))):
    ran = Agent(model, tools=[temperature]).run_sync("The weather in Rome?")
    check("agent loop", "15 degrees" in ran.output, ran)
    check(name, True)
    person = Agent(model, output_type=Person).run_sync("Who is Ada?").output
    check("structured output", person == Person(name="Ada", age=36), person)
    person = Agent(model, output_type=NativeOutput(Person)).run_sync("Who is Ada?").output
    check("structured output", person == Person(name="Ada", age=36), person)
for model in (OpenAIChatModel("agent"), OpenAIResponsesModel("agent")):
    ran = Agent(model, tools=[temperature]).run_sync("The weather in Rome?")
    check("beside a skill's tools", "15 degrees" in ran.output, ran)
report()
