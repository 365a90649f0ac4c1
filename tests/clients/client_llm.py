"""Simon Willison's llm."""

import os

from checks import check, report, temperature

# [docs
import llm
from llm.default_plugins.openai_models import Chat

model = Chat("palaver", model_name="auto", api_base=os.environ["OPENAI_BASE_URL"])
print(model.prompt("Hello", key="none").text())
# docs]
check("Chat Completions", bool(model.prompt("Hello", key="none").text()))
check("streams", "".join(model.prompt("Hello", key="none", stream=True)) != "")
able = Chat(
    "tiny",
    model_name="acme/tiny-1b",
    api_base=os.environ["OPENAI_BASE_URL"],
    supports_tools=True,
    supports_schema=True,
)
chain = able.chain("The weather in Rome?", tools=[temperature], key="none")
check("agent loop", "15 degrees" in chain.text(), chain)
check("tools", True)
schema = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
answer = able.prompt("Who is Ada?", schema=schema, key="none").text()
check("structured output", '"Ada"' in answer, answer)
assert llm
report()
