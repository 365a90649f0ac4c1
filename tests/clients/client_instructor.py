"""Instructor."""

from checks import check, report
from pydantic import BaseModel

# [docs
import instructor
from openai import OpenAI


class Person(BaseModel):
    name: str
    age: int


client = instructor.from_openai(OpenAI())  # OPENAI_BASE_URL=http://127.0.0.1:7252/v1
person = client.chat.completions.create(
    model="acme/tiny-1b",
    response_model=Person,
    messages=[{"role": "user", "content": "Who is Ada?"}],
)
print(person)
# docs]
check("tools", (person.name, person.age) == ("Ada", 36), person)
by_schema = instructor.from_openai(OpenAI(), mode=instructor.Mode.JSON_SCHEMA)
person = by_schema.chat.completions.create(
    model="acme/tiny-1b",
    response_model=Person,
    messages=[{"role": "user", "content": "Who is Ada?"}],
)
check("structured output", (person.name, person.age) == ("Ada", 36), person)
check("Chat Completions", True)
pieces = list(
    client.create_partial(
        model="acme/tiny-1b",
        response_model=Person,
        messages=[{"role": "user", "content": "Who is Ada?"}],
    )
)
check("streams", pieces[-1] == Person(name="Ada", age=36), pieces)
by_responses = instructor.from_openai(OpenAI(), mode=instructor.Mode.RESPONSES_TOOLS)
person = by_responses.responses.create(
    model="acme/tiny-1b", input="Who is Ada?", response_model=Person
)
check("Responses", (person.name, person.age) == ("Ada", 36), person)
report()
