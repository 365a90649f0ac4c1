"""Native tool calling: the chat template shows the tools, and the model writes calls in its format.

For engines that render prompts themselves: ``vllm``, ``openvino`` and ``transformers``.
"""

import dataclasses
from collections.abc import Sequence
from uuid import uuid4

from palaver import (
    FinishReason,
    Generation,
    GenerationRequest,
    JsonSchema,
    NamedTool,
    OnText,
    StopStringFilter,
    ToolCall,
    call_schema,
)
from palaver_plugins.engines.token_healing import Generate, generate_healed
from palaver_plugins.engines.tool_formats import ToolFormat, WrittenCall, read_call


async def generate_with_tools(
    request: GenerationRequest,
    on_text: OnText,
    generate: Generate,
    *,
    tool_format: ToolFormat | None,
    has_schemas: bool,
) -> Generation:
    """Generate with ``generate``, healing tokens, and find the calls in the text.

    A call that is required is forced: its beginning is given, and with ``has_schemas`` also the
    schema of the rest.
    """
    if tool_format is None or not request.tools:
        return await generate_healed(request, on_text, generate)
    if request.tool_choice == "none":
        without = dataclasses.replace(request, tools=(), tool_choice="auto")
        return await generate_healed(without, on_text, generate)
    if request.tool_choice != "auto":
        return await _generate_call(request, generate, tool_format, has_schemas=has_schemas)
    reader = CallReader(tool_format, on_text)
    generation = await generate_healed(request, reader.push, generate)
    return reader.end(generation, parallel=request.parallel_tool_calls)


class CallReader:
    """An ``on_text`` that passes on the text before the first call.

    White space is withheld until other text follows: there is some before most calls.
    """

    def __init__(self, tool_format: ToolFormat, on_text: OnText) -> None:
        self._format = tool_format
        self._on_text = on_text
        self._before_call = StopStringFilter((tool_format.start,))
        self._pieces: list[str] = []
        self._white_space = ""
        self._delivered: list[str] = []

    def push(self, piece: str) -> None:
        self._pieces.append(piece)
        text = self._white_space + self._before_call.push(piece)
        said = text.rstrip()
        self._white_space = text[len(said) :]
        self._deliver(said)

    def _deliver(self, text: str) -> None:
        if text:
            self._delivered.append(text)
            self._on_text(text)

    def end(self, generation: Generation, *, parallel: bool) -> Generation:
        """Return the result: the text before the calls, and the calls."""
        calls: Sequence[WrittenCall] = ()
        if self._before_call.found:
            calls = self._format.parse("".join(self._pieces))
        else:
            self._deliver(self._white_space + self._before_call.flush())
        calls = calls if parallel else calls[:1]
        reason = generation.finish_reason
        if calls and reason != "length":
            reason = "tool_calls"
        return _with_calls(generation, "".join(self._delivered), calls, reason)


async def _generate_call(
    request: GenerationRequest, generate: Generate, tool_format: ToolFormat, *, has_schemas: bool
) -> Generation:
    """Let the model write one call of the tools that it may choose from."""
    choice = request.tool_choice
    tools = [
        it for it in request.tools if not isinstance(choice, NamedTool) or it.name == choice.name
    ]
    beginning = ""
    sampling = dataclasses.replace(request.sampling, stop=())
    if has_schemas:
        schema = call_schema(tools, name_key="name")
        sampling = dataclasses.replace(sampling, structure=JsonSchema(schema))
    elif isinstance(choice, NamedTool):
        beginning = f'{{"name": "{choice.name}", "arguments": '
    forced = dataclasses.replace(
        request,
        sampling=sampling,
        partial=request.partial + tool_format.prefix + beginning,
    )
    generation = await generate(forced, lambda _: None)
    written = beginning + generation.text
    if (call := read_call(written)) is not None:
        return _with_calls(generation, "", [call], "tool_calls")
    calls = tool_format.parse(tool_format.prefix + written)
    if generation.finish_reason != "length" and not calls:
        name = choice.name if isinstance(choice, NamedTool) else ""
        calls = [(name, written.removeprefix(beginning))]
    reason: FinishReason = "length" if generation.finish_reason == "length" else "tool_calls"
    return _with_calls(generation, "", calls[:1], reason)


def _with_calls(
    generation: Generation, text: str, calls: Sequence[WrittenCall], reason: FinishReason
) -> Generation:
    return dataclasses.replace(
        generation,
        text=text,
        finish_reason=reason,
        tool_calls=tuple(
            [ToolCall(f"call_{uuid4().hex}", name, arguments) for name, arguments in calls]
        ),
    )
