"""What passes between the server and an engine's plugin."""

import dataclasses
from collections.abc import Sequence

import pytest
from tests.plugins.engines.vision_models import draw_png
from tests.server.skills_under_test import Parrot

from palaver.engine import (
    ChatMessage,
    Generation,
    GenerationRequest,
    Image,
    OnText,
    Sampling,
    ToolDefinition,
)
from palaver.engines.boundary import EngineBoundary
from palaver.errors import (
    EngineRefused,
    EngineUnavailable,
    Forbidden,
    InvalidInput,
    NotFound,
    PalaverError,
    PromptTooLong,
    Unsupported,
    UnusableImage,
    describe_error,
)
from palaver.testing import ScriptedEngine, converse

SECRET = "http://10.0.0.5:8000/v1 sk-12345 {body}"


class RefusingEngine(ScriptedEngine):
    """An engine each call of which raises ``error``; it counts until ``is_started`` is set."""

    def __init__(self, error: PalaverError) -> None:
        super().__init__()
        self._error = error
        self.is_started = False

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        raise self._error

    async def count_tokens(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition] = ()
    ) -> int:
        if not self.is_started:
            return await super().count_tokens(messages, tools)
        raise self._error

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        raise self._error

    async def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        raise self._error


def make_request(**sampling: object) -> GenerationRequest:
    return GenerationRequest(
        id="r",
        messages=(ChatMessage("user", "Hi"),),
        tenant="t",
        sampling=Sampling(**sampling),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("kind", [InvalidInput, NotFound, Forbidden])
async def test_no_error_of_an_engine_shows_its_detail(kind: type[PalaverError]) -> None:
    plugin = RefusingEngine(kind(SECRET))
    engine = EngineBoundary(plugin)
    await engine.start()
    plugin.is_started = True
    for call in (
        engine.generate(make_request(), lambda _: None),
        engine.count_tokens([ChatMessage("user", "Hi")]),
        engine.embed(["x"]),
        engine.classify(["x"]),
    ):
        with pytest.raises(EngineRefused) as caught:
            await call
        assert caught.value.public == "The language model refused the request."
        assert SECRET in str(caught.value), "the operator sees it at the command line"
        assert SECRET not in describe_error(caught.value)


@pytest.mark.parametrize("kind", [EngineUnavailable, PromptTooLong])
async def test_an_error_that_hides_its_detail_keeps_its_kind(kind: type[PalaverError]) -> None:
    engine = EngineBoundary(RefusingEngine(kind(SECRET)))
    await engine.start()
    with pytest.raises(kind) as caught:
        await engine.generate(make_request(), lambda _: None)
    assert caught.value.public == kind.public_message


async def test_what_is_wrong_with_a_request_is_told() -> None:
    engine = EngineBoundary(ScriptedEngine("Yes."))
    await engine.start()
    with pytest.raises(InvalidInput, match="temperature=11: expected 0 to 10") as caught:
        await engine.generate(make_request(temperature=11), lambda _: None)
    assert "temperature=11" in caught.value.public


@pytest.mark.parametrize("kind", [InvalidInput, NotFound])
async def test_a_reply_that_fails_shows_no_detail_of_the_engine(kind: type[PalaverError]) -> None:
    async with converse(Parrot, engine=RefusingEngine(kind(SECRET))) as chat:
        reply = await chat.say("hello")
    assert reply.problem is not None
    assert reply.problem.code == "engine_refused"
    assert reply.problem.message == "The language model refused the request."


def test_what_another_program_says_is_not_public() -> None:
    error = InvalidInput("the value is wrong", quoted=SECRET)
    assert error.public == "the value is wrong"
    assert SECRET in str(error)


async def test_an_engine_that_cannot_count_at_the_start_keeps_its_system_message() -> None:
    plugin = RefusingEngine(EngineUnavailable("not yet"))
    plugin.is_started = True
    engine = EngineBoundary(plugin)
    await engine.start()
    assert engine.has_system_role


IMAGE = Image("image/png", draw_png(1))


async def test_images_are_checked_before_the_plugin_gets_them() -> None:
    plugin = ScriptedEngine("I see.", missing_capabilities=("vision",))
    engine = EngineBoundary(plugin)
    await engine.start()
    message = ChatMessage("user", "Look", (IMAGE,))
    with pytest.raises(Unsupported, match="vision"):
        await engine.generate(dataclasses.replace(make_request(), messages=(message,)), print)
    with pytest.raises(Unsupported, match="vision"):
        await engine.count_tokens([message])


async def test_the_problem_of_an_image_is_told_but_nothing_of_what_the_engine_says() -> None:
    refusing = RefusingEngine(UnusableImage(SECRET))
    engine = EngineBoundary(refusing)
    await engine.start()
    wrong = dataclasses.replace(IMAGE, media_type="image/gif")
    for image, code, sentence in (
        (IMAGE, "unusable_image", UnusableImage.public_message),
        (wrong, "invalid_input", "image 1 is of the type image/png, not 'image/gif'"),
    ):
        messages = (ChatMessage("user", "Look", (image,)),)
        with pytest.raises(InvalidInput) as caught:
            await engine.generate(dataclasses.replace(make_request(), messages=messages), print)
        assert (caught.value.code, caught.value.public) == (code, sentence)
