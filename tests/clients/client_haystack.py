"""Haystack."""

from checks import check, report, temperature
from pydantic import BaseModel

# [docs
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage

generator = OpenAIChatGenerator(model="auto")  # OPENAI_BASE_URL=http://127.0.0.1:7252/v1
print(generator.run([ChatMessage.from_user("Hello")])["replies"][0].text)
# docs]
from haystack.components.agents import Agent
from haystack.components.embedders import OpenAITextEmbedder
from haystack.components.generators.chat import OpenAIResponsesChatGenerator
from haystack.tools import create_tool_from_function

MODEL = "acme/tiny-1b"


class Person(BaseModel):
    """A person."""

    name: str
    age: int


def ask(model: str, text: str, kind: type = OpenAIChatGenerator, **fields: object) -> str:
    made = kind(model=model, **fields)
    return made.run([ChatMessage.from_user(text)])["replies"][0].text


check("Chat Completions", bool(ask("auto", "Hello")))
check("Responses", bool(ask("auto", "Hello", OpenAIResponsesChatGenerator)))
chunks: list[object] = []
check("streams", bool(ask("auto", "Hello", streaming_callback=chunks.append)) and bool(chunks))
tool = create_tool_from_function(temperature)
for kind in (OpenAIChatGenerator, OpenAIResponsesChatGenerator):
    agent = Agent(chat_generator=kind(model=MODEL), tools=[tool])
    ran = agent.run([ChatMessage.from_user("The weather in Rome?")])
    check("agent loop", "15 degrees" in ran["last_message"].text, ran)
    check("tools", any(message.tool_call_results for message in ran["messages"]), ran)
    agent = Agent(chat_generator=kind(model="agent"), tools=[tool])
    ran = agent.run([ChatMessage.from_user("The weather in Rome?")])
    check("beside a skill's tools", "15 degrees" in ran["last_message"].text, ran)
text = ask(MODEL, "Who is Ada?", generation_kwargs={"response_format": Person})
person = Person.model_validate_json(text)
check("structured output", person == Person(name="Ada", age=36), person)
vector = OpenAITextEmbedder(model=MODEL).run("a")["embedding"]
check("embeddings", len(vector) == 2, vector)
report()
