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


def able_model(name: str) -> Chat:
    return Chat(
        name,
        model_name=name,
        api_base=os.environ["OPENAI_BASE_URL"],
        supports_tools=True,
        supports_schema=True,
    )


able = able_model("acme/tiny-1b")
for name, each in (("agent loop", able), ("beside a skill's tools", able_model("agent"))):
    chain = each.chain("The weather in Rome?", tools=[temperature], key="none")
    check(name, "15 degrees" in chain.text(), chain)
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
