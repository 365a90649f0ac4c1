"""Several models of one server, as programs name them."""

import openai
import pytest
from tests.plugins.channels.openai_support import MODEL, NamedEngine, ask, open_openai_server, user

from palaver.engine import Capability, EngineInfo
from palaver.errors import EngineUnavailable
from palaver.testing import ScriptedReply, tool_call

LACKING: tuple[Capability, ...] = ("tools", "json_schema", "seed")
FORECAST = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


class Coder(NamedEngine):
    """The engine of the model ``coder``."""

    model = "acme/coder-7b"


class Absent(Coder):
    """An engine that cannot be reached."""

    async def start(self) -> EngineInfo:
        raise EngineUnavailable("nobody is there")


async def test_a_program_names_any_model_of_the_settings() -> None:
    models = {"coder": Coder(lambda request: "print()")}
    async with open_openai_server("Hello.", named_models=models) as (_, client):
        listed = [model.id async for model in client.models.list()]
        assert listed[0] == "auto"
        assert listed[-2:] == [MODEL, "coder"]
        answer = await ask(client, user("hi"), model="coder")
        assert answer.choices[0].message.content == "print()"
        assert answer.model == "coder"
        assert (await ask(client, user("hi"), model=MODEL)).model == MODEL
        response = await client.responses.create(model="coder", input="hi")
        assert (response.output_text, response.model) == ("print()", "coder")
        again = await client.responses.create(
            model="coder", input="more", previous_response_id=response.id
        )
        assert again.output_text == "print()"
        assert [message.content for message in models["coder"].requests[-1].messages] == [
            "hi",
            "print()",
            "more",
        ]
        streamed = await ask(client, user("hi"), model="coder", stream=True)
        assert {chunk.model async for chunk in streamed} == {"coder"}
        retrieved = await client.models.retrieve("coder")
        assert retrieved.id == "coder"
        for unknown in ("default", "acme/coder-7b", "big"):
            with pytest.raises(openai.NotFoundError, match="does not exist; GET /v1/models lists"):
                await ask(client, user("hi"), model=unknown)


async def test_each_model_has_its_own_limits() -> None:
    small = Coder(lambda request: "yes", context_window=100, missing_capabilities=LACKING)
    call = ScriptedReply(tool_calls=(tool_call("weather"),))
    async with open_openai_server(call, named_models={"small": small}) as (_, client):
        with pytest.raises(openai.BadRequestError, match="context length is exceeded"):
            await ask(client, user("long " * 200), model="small")
        with pytest.raises(openai.BadRequestError, match="calls no tools"):
            await ask(client, user("hi"), model="small", tools=[FORECAST])
        with pytest.raises(openai.BadRequestError, match="lacks 'seed'"):
            await ask(client, user("hi"), model="small", seed=1)
        with pytest.raises(openai.BadRequestError, match="model 'small' makes no embeddings"):
            await client.embeddings.create(model="small", input="hi")
        called = await ask(client, user("hi"), model=MODEL, tools=[FORECAST], seed=1)
        assert called.choices[0].finish_reason == "tool_calls"


async def test_a_skill_of_a_program_writes_with_its_own_model() -> None:
    models = {"coder": Coder(lambda request: "print()", missing_capabilities=("seed",))}
    bound = {"talker": "coder"}
    async with open_openai_server(named_models=models, models_of_skills=bound) as (_, client):
        answer = await ask(client, user("hi"), model="talker")
        assert (answer.choices[0].message.content, answer.model) == ("print()", "talker")
        with pytest.raises(openai.BadRequestError, match="lacks 'seed'"):
            await ask(client, user("hi"), model="talker", seed=1)


async def test_a_model_that_has_not_started_is_not_available() -> None:
    async with open_openai_server("Hello.", named_models={"coder": Absent()}) as (server, client):
        assert "coder" in [model.id async for model in client.models.list()]
        with pytest.raises(openai.InternalServerError) as caught:
            await ask(client, user("hi"), model="coder")
        assert caught.value.status_code == 503
        assert (await ask(client, user("hi"), model=MODEL)).choices[0].message.content == "Hello."
        async with server.session.get(server.url("/readyz")) as response:
            assert response.status == 200
