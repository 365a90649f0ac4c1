"""LiteLLM."""

import time

from checks import check, report
from pydantic import BaseModel

# [docs
import litellm

answer = litellm.completion(  # OPENAI_BASE_URL=http://127.0.0.1:7252/v1
    model="openai/auto", messages=[{"role": "user", "content": "Hello"}]
)
print(answer.choices[0].message.content)
# docs]
MODEL = "openai/acme/tiny-1b"
ASKED = [{"role": "user", "content": "The weather in Rome?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "temperature",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}

check("Chat Completions", bool(answer.choices[0].message.content), answer)
stream = litellm.completion(model=MODEL, messages=ASKED, tools=[TOOL], stream=True)
chunks = list(stream)
whole = litellm.stream_chunk_builder(chunks, messages=ASKED)
check("streams", whole.choices[0].finish_reason == "tool_calls", whole)
call = whole.choices[0].message.tool_calls[0]
check(
    "tools",
    (call.function.name, call.function.arguments) == ("temperature", '{"city": "Rome"}'),
    call,
)
vectors = litellm.embedding(model=MODEL, input=["a", "b"])
check("embeddings", len(vectors.data) == 2, vectors)


class Person(BaseModel):
    name: str
    age: int


found = litellm.completion(
    model=MODEL, messages=[{"role": "user", "content": "Who is Ada?"}], response_format=Person
)
person = Person.model_validate_json(found.choices[0].message.content)
check("structured output", person == Person(name="Ada", age=36), person)
check("Responses", bool(litellm.responses(model="openai/auto", input="Hello").output))
background = litellm.responses(model="openai/auto", input="Hello", background=True)
while (read := litellm.get_responses(background.id)).status in ("queued", "in_progress"):
    time.sleep(0.1)
check("background", read.status == "completed", read)
report()
