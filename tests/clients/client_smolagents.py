"""Smolagents."""

import os

from checks import check, report
from checks import temperature as measured

# [docs
from smolagents import OpenAIModel, ToolCallingAgent, tool

model = OpenAIModel("acme/tiny-1b", api_base=os.environ["OPENAI_BASE_URL"], api_key="none")


@tool
def temperature(city: str) -> str:
    """How warm it is in a city.

    Args:
        city: Its name.
    """
    return measured(city)


agent = ToolCallingAgent(tools=[temperature], model=model)
print(agent.run("The weather in Rome?"))
# docs]
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


ran = agent.run("The weather in Rome?", return_full_result=True)
check("agent loop", "15 degrees" in ran.output, ran)
names = [call["function"]["name"] for step in ran.steps for call in step.get("tool_calls") or ()]
check("tools", names == ["temperature", "final_answer"], names)
messages = [{"role": "user", "content": "Hello"}]
check("Chat Completions", bool(model.generate(messages).content))
pieces = [delta.content or "" for delta in model.generate_stream(messages)]
check("streams", "".join(pieces) != "", pieces)
schema = {"name": "Person", "schema": Person.model_json_schema(), "strict": True}
answer = model.generate(
    [{"role": "user", "content": "Who is Ada?"}],
    response_format={"type": "json_schema", "json_schema": schema},
)
person = Person.model_validate_json(answer.content)
check("structured output", person == Person(name="Ada", age=36), person)
report()
