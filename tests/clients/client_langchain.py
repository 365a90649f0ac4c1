"""LangChain."""

from checks import check, report, temperature

# [docs
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

model = ChatOpenAI(model="auto")  # OPENAI_API_BASE=http://127.0.0.1:7252/v1
print(model.invoke("Hello").text)
# docs]
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel

MODEL = "acme/tiny-1b"


class Person(BaseModel):
    """A person."""

    name: str
    age: int


check("Chat Completions", bool(model.invoke("Hello").text))
check("streams", "".join(chunk.text for chunk in model.stream("Hello")) != "")
asked = [HumanMessage("The weather in Rome?")]
for name, model in (("tools", MODEL), ("beside a skill's tools", "agent")):
    bound = ChatOpenAI(model=model).bind_tools([tool(temperature)])
    called = bound.invoke(asked)
    (call,) = called.tool_calls
    answer = bound.invoke(
        [*asked, called, ToolMessage(temperature(**call["args"]), tool_call_id=call["id"])]
    )
    check(name, "15 degrees" in answer.text, answer)
for method in ("json_schema", "function_calling"):
    structured = ChatOpenAI(model=MODEL).with_structured_output(Person, method=method)
    person = structured.invoke("Who is Ada?")
    check("structured output", person == Person(name="Ada", age=36), person)
responses = ChatOpenAI(model=MODEL, use_responses_api=True)
check("Responses", bool(responses.invoke("Hello").text))
called = responses.bind_tools([tool(temperature)]).invoke(asked)
check("Responses", called.tool_calls[0]["name"] == "temperature", called)
vectors = OpenAIEmbeddings(model=MODEL, check_embedding_ctx_length=False).embed_documents(
    ["a", "b"]
)
check("embeddings", len(vectors) == 2, vectors)
report()
