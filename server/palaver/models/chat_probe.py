"""Program of the process that tries a model's tokenizer and chat template: `chat_check` runs it.

Both come from strangers, and may compute without end or take all memory: the process has limits.
It gets the directory and the seconds that it may compute, and writes a line for each stage that it
begins, then a `ChatProbe` as JSON.
"""

import os
import resource
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import msgspec

MEMORY_BYTES = 4 << 30
"""Address space: the tokenizers of large models take about one GiB."""
MAX_ERROR_CHARACTERS = 200
TEXTS = ("What is a walrus?", "A large seal with tusks.", "And where does it live?")
SYSTEM = "Answer in one sentence, please."
TOOL = "look_up_animal"

Json = dict[str, Any]  # messages and tools, as chat templates take them
Render = Callable[..., str]


class ChatProbe(msgspec.Struct, frozen=True, kw_only=True):
    """What was found. ``problem``: why the model cannot chat. ``has_system_role``: the template
    shows a system message; ``shows_tools``: it shows tools. ``highest``: the highest token of a
    conversation, ``vocabulary``: the tokens that the tokenizer has; 0 without ``tokenizer.json``.
    """

    problem: str = ""
    has_system_role: bool = False
    shows_tools: bool = False
    highest: int = 0
    vocabulary: int = 0


def probe(directory: Path, begin: Callable[[str], None]) -> ChatProbe:
    """Try the tokenizer and the template; ``begin`` gets the name of each stage."""
    # Not at the top: the parent needs neither, and starts without them.
    from tokenizers import Tokenizer

    from palaver.models.chat_template import compile_chat_template, read_chat_template

    begin("chat template")
    source, variables = read_chat_template(directory)
    try:
        template = compile_chat_template(source)
    except jinja2.TemplateError as error:
        return ChatProbe(problem=f"its chat template is not valid: {_shorten(error)}")

    def render(messages: Sequence[Json], **more: object) -> str:
        given = {"messages": messages, "add_generation_prompt": True, **variables, **more}
        return template.render(given)

    try:
        text = _render_conversation(render)
    except Exception as error:  # noqa: BLE001  templates raise any exception
        return ChatProbe(problem=f"its chat template refuses a conversation: {_shorten(error)}")
    if not _says_all(text):
        return ChatProbe(problem="its chat template leaves out what people say")
    found = ChatProbe(
        has_system_role=SYSTEM in _try(render, [_message("system", SYSTEM), *_conversation()[:1]]),
        shows_tools=TOOL in _try(render, _conversation()[:1], tools=[_tool()]),
    )
    if not (directory / "tokenizer.json").is_file():
        return found
    begin("tokenizer.json")
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    return msgspec.structs.replace(
        found,
        highest=max(ids, default=0),
        vocabulary=1 + max(tokenizer.get_vocab().values(), default=-1),
    )


def _render_conversation(render: Render) -> str:
    """Render a conversation, with contents as texts, else as lists of parts."""
    conversation = _conversation()
    parts = [{**it, "content": [{"type": "text", "text": it["content"]}]} for it in conversation]
    text = _try(render, conversation)
    if _says_all(text):
        return text
    as_parts = _try(render, parts)
    return as_parts if _says_all(as_parts) else render(conversation)


def _says_all(text: str) -> bool:
    return all(each in text for each in TEXTS)


def _try(render: Render, messages: Sequence[Json], **more: object) -> str:
    try:
        return render(messages, **more)
    except Exception:  # noqa: BLE001  templates raise any exception
        return ""


def _conversation() -> list[Json]:
    roles = ("user", "assistant", "user")
    return [_message(role, text) for role, text in zip(roles, TEXTS, strict=True)]


def _message(role: str, text: str) -> Json:
    return {"role": role, "content": text}


def _tool() -> Json:
    parameters = {"type": "object", "properties": {"name": {"type": "string"}}}
    function = {"name": TOOL, "description": "Describe an animal.", "parameters": parameters}
    return {"type": "function", "function": function}


def _shorten(error: BaseException) -> str:
    return " ".join(str(error).split())[:MAX_ERROR_CHARACTERS] or type(error).__name__


def limit_resources(cpu_seconds: int) -> None:
    for kind, limit in (
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        least = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (least, least))


def main(directory: str, cpu_seconds: str) -> None:
    limit_resources(int(cpu_seconds))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    stage = ""

    def begin(name: str) -> None:
        nonlocal stage
        stage = name
        print(name, flush=True)  # noqa: T201  the parent reads it

    try:
        found = probe(Path(directory), begin)
    except BaseException as error:  # noqa: BLE001  a tokenizer in Rust raises what is no Exception
        found = ChatProbe(problem=f"its {stage} cannot be read: {_shorten(error)}")
    sys.stdout.buffer.write(msgspec.json.encode(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
