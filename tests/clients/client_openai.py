"""OpenAI's own Python library."""

from checks import check, report, temperature
from openai import OpenAI
from pydantic import BaseModel

# [docs
client = OpenAI(_strict_response_validation=True)  # OPENAI_BASE_URL=http://127.0.0.1:7252/v1
answer = client.responses.create(model="auto", input="Hello")
print(answer.output_text)
# docs]
MODEL = "acme/tiny-1b"
TOOL = {
    "type": "function",
    "function": {
        "name": "temperature",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


class Person(BaseModel):
    name: str
    age: int


check("Responses", answer.status == "completed" and bool(answer.output_text), answer)
chat = client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "Hello"}])
check("Chat Completions", bool(chat.choices[0].message.content), chat)
asked = [{"role": "user", "content": "The weather in Rome?"}]
with client.chat.completions.stream(model=MODEL, messages=asked, tools=[TOOL]) as stream:
    kinds = [event.type for event in stream]
    called = stream.get_final_completion().choices[0].message
check("streams", "chunk" in kinds, kinds)
for name, model in (("tools", MODEL), ("beside a skill's tools", "agent")):
    first = client.chat.completions.create(model=model, messages=asked, tools=[TOOL])
    (call,) = first.choices[0].message.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "content": temperature("Rome")}
    messages = [*asked, first.choices[0].message, result]
    final = client.chat.completions.create(model=model, messages=messages, tools=[TOOL])
    check(name, "15 degrees" in final.choices[0].message.content, final)
parsed = client.responses.parse(model=MODEL, input="Who is Ada?", text_format=Person)
check("structured output", parsed.output_parsed == Person(name="Ada", age=36), parsed)
asked = client.responses.create(model="agent", input="Pay 5").output[-1]
answer = {"type": "mcp_approval_response", "approval_request_id": asked.id, "approve": True}
paid = client.responses.create(model="agent", input=[answer])
check("approvals", paid.output[0].output == "paid 5", paid)
vectors = OpenAI().embeddings.create(model=MODEL, input=["a", "b"]).data  # asks for base64
check("embeddings", len(vectors) == 2, vectors)
background = client.responses.create(model="auto", input="Hello", background=True)
events = list(client.responses.retrieve(background.id, stream=True, starting_after=0))
check("background", events[-1].type == "response.completed", events)
check("models", "auto" in [model.id for model in client.models.list()])
report()
