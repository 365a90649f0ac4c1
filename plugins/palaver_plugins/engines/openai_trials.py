"""Trials at the start of engine ``openai``: what a server can do that it does not tell."""

import asyncio
import base64
import logging

from palaver import (
    ChatMessage,
    GenerationRequest,
    Image,
    NamedTool,
    PalaverError,
    Sampling,
    ToolDefinition,
    describe_error,
)
from palaver_plugins.engines import openai_wire as wire
from palaver_plugins.engines.openai_stream import CompletionStream
from palaver_plugins.engines.openai_tools import tool_definitions
from palaver_plugins.engines.openai_upstream import Upstream
from palaver_plugins.engines.openai_wire import UpstreamFailed

log = logging.getLogger(__name__)

PROBE_IMAGE = Image(
    "image/png",
    base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAADgAAAA4CAIAAAAn5KxJAAAARklEQVR42u3OMQ0AMAgAMJhMNCEMWVPBQdIqaFZP"
        "XPDiCFFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVHRbR9UGAIeveZnkgAAAABJRU5ErkJggg=="
    ),
)
"""An image of 56 × 56 pixels, to find out whether a server takes images."""
PROBE_TOOL = ToolDefinition(
    "ping", "Do nothing.", {"type": "object", "properties": {}, "additionalProperties": False}
)
"""A tool to find out whether a server takes tools."""
MAX_TRIAL_TOKENS = 200  # some models think before they call
TRIAL_TIMEOUT = 30.0  # seconds
TRIAL = GenerationRequest(
    id="tool-trial",
    messages=(ChatMessage("user", "Call the tool."),),
    tenant="palaver-tool-trial",
    sampling=Sampling(max_tokens=MAX_TRIAL_TOKENS),
    tools=(PROBE_TOOL,),
    tool_choice=NamedTool(PROBE_TOOL.name),
)


async def counts_images(upstream: Upstream, model: str) -> bool:
    """Return whether vLLM counts the tokens of an image, which needs no generation."""
    body = wire.prompt_body([ChatMessage("user", "Hi", (PROBE_IMAGE,))]) | {"model": model}
    try:
        return await upstream.count(body) > 0
    except (UpstreamFailed, PalaverError) as error:
        log.info("%s takes no images: %s", upstream.url, describe_error(error))
        return False


async def calls_tools(upstream: Upstream, model: str) -> bool:
    """Return whether a server takes tools.

    vLLM refuses them where it has no parser for calls, and the chat template must show them to
    the model. Other servers may leave them out, so that the model must call one in the trial.
    """
    try:
        async with asyncio.timeout(TRIAL_TIMEOUT):
            if upstream.flavor == "vllm":
                return await _is_set_up(upstream, model)
            return await _calls_one(upstream, model)
    except (UpstreamFailed, PalaverError, TimeoutError) as error:
        log.info("%s takes no tools: %s", upstream.url, describe_error(error))
        return False


async def _is_set_up(upstream: Upstream, model: str) -> bool:
    body = wire.prompt_body(TRIAL.messages) | {"model": model}
    tools = {"tools": tool_definitions(TRIAL.tools, strict=True)}
    if await upstream.count(body | tools) <= await upstream.count(body):
        log.info("%s takes no tools: they are not in its chat template", upstream.url)
        return False
    sent = wire.chat_body(TRIAL, model, upstream.flavor, 1) | {"tool_choice": "auto"}
    await upstream.chat(wire.encode(sent), CompletionStream(TRIAL, lambda _: None, 0))
    return True


async def _calls_one(upstream: Upstream, model: str) -> bool:
    completion = CompletionStream(TRIAL, lambda _: None, 0)
    body = wire.chat_body(TRIAL, model, upstream.flavor, TRIAL.sampling.max_tokens)
    await upstream.chat(wire.encode(body), completion)
    return bool(completion.generation().tool_calls)
