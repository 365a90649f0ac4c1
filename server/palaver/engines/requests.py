"""Helpers for the authors of engines: checks and time limit of a generation request."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from palaver.engine import (
    MAX_ASPECT_RATIO,
    MAX_IMAGE_BYTES,
    MAX_IMAGE_PIXELS,
    MAX_IMAGES,
    MAX_TOOLS,
    TOOL_NAME_PATTERN,
    Capability,
    ChatMessage,
    Choice,
    GenerationRequest,
    Image,
    JsonSchema,
    NamedTool,
    Regex,
    Sampling,
    ToolDefinition,
)
from palaver.errors import EngineTimeout, InvalidInput, PromptTooLong, Unsupported
from palaver.images import IMAGE_TYPES, read_image_header
from palaver.schemas import validator_of


def check_request(request: GenerationRequest, capabilities: frozenset[Capability]) -> None:
    """Raise `Unsupported` when ``request`` needs a capability outside ``capabilities``, and
    `InvalidInput` for a value out of range."""
    sampling = request.sampling
    structure = sampling.structure
    needs: dict[Capability, bool] = {
        "json_schema": isinstance(structure, JsonSchema),
        "choice": isinstance(structure, Choice),
        "regex": isinstance(structure, Regex),
        "logprobs": sampling.logprobs is not None,
        "alternatives": bool(sampling.logprobs),
        "penalties": bool(sampling.presence_penalty or sampling.frequency_penalty),
        "seed": sampling.seed is not None,
        "continuation": bool(request.partial),
        "adapter": request.adapter is not None,
        "priority": request.priority != 0,
    }
    for capability, needed in needs.items():
        if needed:
            _require(capability, capabilities)
    check_images(request.messages, capabilities)
    check_tools(request.tools, capabilities)
    _check_tool_choice(request)
    _check_sampling(sampling)
    if request.timeout <= 0:
        raise InvalidInput(f"timeout={request.timeout!r}: expected seconds above 0")


def _require(capability: Capability, capabilities: frozenset[Capability]) -> None:
    if capability not in capabilities:
        raise Unsupported(
            f"this engine lacks the capability {capability!r}; it has: {sorted(capabilities)}"
        )


def check_tools(tools: Sequence[ToolDefinition], capabilities: frozenset[Capability]) -> None:
    """Raise `Unsupported` when there are ``tools`` and the engine calls none, and `InvalidInput`
    for a definition that it must not get."""
    if not tools:
        return
    _require("tools", capabilities)
    if len(tools) > MAX_TOOLS:
        raise InvalidInput(f"there are {len(tools)} tools; the limit is {MAX_TOOLS}")
    names: set[str] = set()
    for tool in tools:
        if not TOOL_NAME_PATTERN.fullmatch(tool.name):
            raise InvalidInput(f"tool {tool.name!r}: a name is 1 to 64 letters, digits, _ and -")
        if tool.name in names:
            raise InvalidInput(f"two tools have the name {tool.name!r}")
        names.add(tool.name)
        if tool.parameters.get("type") != "object":
            raise InvalidInput(f"tool {tool.name!r}: its parameters are no schema of an object")
        try:
            validator_of(tool.parameters)
        except ValueError as error:
            raise InvalidInput(
                f"tool {tool.name!r}: its parameters are no schema: {error}"
            ) from None


def _check_tool_choice(request: GenerationRequest) -> None:
    """Raise `InvalidInput` for a choice that the tools of ``request`` do not allow."""
    choice = request.tool_choice
    names = [tool.name for tool in request.tools]
    if isinstance(choice, NamedTool) and choice.name not in names:
        raise InvalidInput(f"tool_choice: there is no tool {choice.name!r}; there are {names}")
    if choice == "required" and not names:
        raise InvalidInput("tool_choice='required': there are no tools")
    if names and request.sampling.structure is not None:
        raise InvalidInput("a reply has a structure or tools, not both")
    for message in request.messages:
        if message.tool_calls and message.role != "assistant":
            raise InvalidInput(
                f"a message of role {message.role!r} has calls: only the assistant's may"
            )


def check_images(messages: Sequence[ChatMessage], capabilities: frozenset[Capability]) -> None:
    """Raise `Unsupported` when ``messages`` have images and the engine sees none, and
    `InvalidInput` for an image that it must not get.

    The files are not decoded: an engine that does so raises `InvalidInput` for a damaged one.
    """
    images = [image for message in messages for image in message.images]
    if not images:
        return
    _require("vision", capabilities)
    for message in messages:
        if message.images and message.role not in ("user", "tool"):
            raise InvalidInput(f"a message of role {message.role!r} has images: only users' may")
    if len(images) > MAX_IMAGES:
        raise InvalidInput(f"there are {len(images)} images; the limit is {MAX_IMAGES}")
    size = sum(len(image.data) for image in images)
    if size > MAX_IMAGE_BYTES:
        raise InvalidInput(f"the images have {size} bytes; the limit is {MAX_IMAGE_BYTES}")
    pixels = sum(check_image(image, f"image {number}") for number, image in enumerate(images, 1))
    if pixels > MAX_IMAGE_PIXELS:
        raise InvalidInput(f"the images have {pixels} pixels; the limit is {MAX_IMAGE_PIXELS}")


def check_image(image: Image, name: str = "the image") -> int:
    """Return the number of pixels. Raises `InvalidInput` for an image that no engine gets."""
    header = read_image_header(image.data)
    if header is None:
        types = ", ".join(IMAGE_TYPES)
        raise InvalidInput(f"{name} is not an image of one of the types {types}")
    if header.media_type != image.media_type:
        raise InvalidInput(f"{name} is of the type {header.media_type}, not {image.media_type!r}")
    shortest, longest = sorted((header.width, header.height))
    if longest > MAX_ASPECT_RATIO * shortest:
        raise InvalidInput(
            f"{name} has {header.width} × {header.height} pixels: "
            f"one side may be at most {MAX_ASPECT_RATIO} times as long as the other"
        )
    return header.pixels


def _check_sampling(sampling: Sampling) -> None:
    for name, valid, expected in (
        ("max_tokens", sampling.max_tokens >= 1, "at least 1"),
        ("temperature", 0 <= sampling.temperature <= 10, "0 to 10"),
        ("top_p", 0 < sampling.top_p <= 1, "above 0, up to 1"),
        ("top_k", sampling.top_k >= 0, "0 (all tokens) or more"),
        ("repetition_penalty", 0 < sampling.repetition_penalty <= 10, "above 0, up to 10"),
        ("presence_penalty", -2 <= sampling.presence_penalty <= 2, "-2 to 2"),
        ("frequency_penalty", -2 <= sampling.frequency_penalty <= 2, "-2 to 2"),
        ("stop", all(sampling.stop), "no empty string"),
    ):
        if not valid:
            raise InvalidInput(f"{name}={getattr(sampling, name)!r}: expected {expected}")
    structure = sampling.structure
    if isinstance(structure, Choice) and not (structure.options and all(structure.options)):
        raise InvalidInput("choice: expected at least one option, and no empty one")


def remaining_tokens(
    sampling: Sampling, *, prompt_tokens: int, partial_tokens: int, context_window: int
) -> int:
    """Return the number of tokens that the reply may still get: 0 at its ``max_tokens`` or at the
    end of the context. ``partial_tokens`` of the reply exist already.

    Raises `PromptTooLong` when the prompt fills the context window.
    """
    if prompt_tokens >= context_window:
        raise PromptTooLong(
            f"the prompt has {prompt_tokens} tokens, the context window {context_window}"
        )
    return max(0, min(sampling.max_tokens, context_window - prompt_tokens) - partial_tokens)


@asynccontextmanager
async def generation_timeout(seconds: float) -> AsyncIterator[None]:
    """Raise `EngineTimeout` when the block takes longer than ``seconds``."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise EngineTimeout(f"the generation took longer than {seconds:g} s") from error
