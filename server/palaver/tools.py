"""Tool: a typed function that skills and models call by name."""

import asyncio
import dataclasses
import hashlib
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Generic, Protocol, cast, overload

import pydantic
import pydantic_core
from typing_extensions import ParamSpec, TypeVar

from palaver.channels import ToolDescription
from palaver.config.wording import describe_errors, join_problems
from palaver.engine import TOOL_NAME_PATTERN
from palaver.errors import InvalidInput, PluginLoadError
from palaver.knowledge import Document, Passage
from palaver.messages import Attachment, Conversation, encode_sorted

ParametersT = ParamSpec("ParametersT", default=...)
ResultT = TypeVar("ResultT", default=Any)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PastConversation:
    """An earlier conversation of a person, with the text around what was found; the text is empty
    when it is the title. ``active_at`` is the time of the person's last message in it, in seconds
    since the epoch."""

    title: str
    active_at: float
    excerpt: str


class ToolServices(Protocol):
    """What a tool may use of the server, on behalf of the person of its turn.

    Nothing here is journaled: the tool's result is. Each method raises a `PalaverError` whose
    public text is for the model.
    """

    @property
    def files(self) -> tuple[Attachment, ...]:
        """Return the files of the conversation, the newest first."""

    async def read_file(self, file: Attachment) -> Document:
        """Return the text of one of ``files``. Raises as `Turn.read_document`."""

    async def search(self, query: str, limit: int) -> tuple[Passage, ...]:
        """Return the knowledge base's best passages, best first. Raises `TooLarge`."""

    def cite(self, passage: Passage) -> int:
        """Cite a passage in the reply and return its number, which a model writes as ``[n]``. A
        passage that was cited before keeps its number."""

    async def search_conversations(self, query: str, limit: int) -> tuple[PastConversation, ...]:
        """Return the person's own other conversations of the same channel that contain ``query``,
        the newest first.

        Raises `Forbidden` where several people would see them.
        """

    async def fetch(self, url: str) -> Document:
        """Return a page or a file of the web as text. Raises `InvalidInput`, and `Forbidden` for
        what the operator does not allow."""

    @property
    def is_handed_over(self) -> bool:
        """Return whether a call that is cancelled now goes on elsewhere, where an idempotent tool
        runs again; False where nobody wants the result any more."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ToolContext:
    """Where a tool is called from. A tool's parameter of this type gets it; a model does not see
    that parameter.

    ``call`` identifies the call, and is the same when an idempotent tool is run again after a
    takeover: give it to other services as the idempotency key. ``person`` is who the turn is for.
    """

    call: str
    conversation: Conversation
    person: str
    services: ToolServices


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tool(Generic[ParametersT, ResultT]):
    """A typed function that skills and models call by name. The decorator `tool` makes one.

    ``arguments`` is the pydantic model of the function's parameters, one field per parameter with
    its name as alias. ``idempotent``: running it twice has the effect of running it once; only such
    a tool is run again when a turn is taken over in the middle of the call. ``read_only``: it has
    no effect at all. ``parallel``: it may run beside others that a model calls in the same step.
    ``untrusted``: its result may hold text of strangers, such as a web page's. ``needs_approval``:
    the person is asked before each call.
    """

    function: Callable[ParametersT, ResultT]
    name: str
    description: str
    arguments: type[pydantic.BaseModel]
    idempotent: bool = False
    read_only: bool = False
    parallel: bool = False
    untrusted: bool = False
    needs_approval: bool = False
    context_parameter: str = ""
    """The parameter that gets the `ToolContext`, if there is one."""

    def __call__(self, *args: ParametersT.args, **kwargs: ParametersT.kwargs) -> ResultT:
        """Call the function itself: nothing is validated, encoded or moved to a thread."""
        return self.function(*args, **kwargs)

    @property
    def json_schema(self) -> dict[str, Any]:  # Any: a JSON Schema document
        """Return the JSON schema of the arguments, as a model gets it."""
        return self.arguments.model_json_schema()

    @property
    def result_schema(self) -> dict[str, Any] | None:  # Any: a JSON Schema document
        """Return the JSON schema of the result, where the function declares one that is an object,
        such as a dataclass."""
        declared = typing.get_type_hints(self.function).get("return", str)
        try:
            schema = pydantic.TypeAdapter(declared).json_schema(mode="serialization")
        except pydantic.errors.PydanticUserError:
            return None  # a class that pydantic does not know
        return schema if schema.get("type") == "object" else None

    def describe(self) -> ToolDescription:
        return ToolDescription(
            name=self.name,
            description=self.description,
            json_schema=self.json_schema,
            result_schema=self.result_schema,
            idempotent=self.idempotent,
            read_only=self.read_only,
            untrusted=self.untrusted,
        )

    @property
    def digest(self) -> str:
        """Return the SHA-256 (hex) over the definition: what a person approves, beside the
        arguments."""
        properties = (
            *(self.idempotent, self.read_only, self.parallel),
            *(self.untrusted, self.needs_approval),
        )
        definition = (self.name, self.description, self.json_schema, properties)
        return hashlib.sha256(encode_sorted(definition)).hexdigest()

    def read_arguments(self, values: Mapping[str, Any]) -> dict[str, Any]:  # Any: JSON values
        """Return the arguments as the function gets them: with the defaults of those that are not
        given, and as the values that validation makes of them. Raises `InvalidInput`."""
        read: dict[str, Any] = pydantic_core.to_jsonable_python(
            self.validate(values), fallback=repr
        )
        made = {
            field.alias
            for field in self.arguments.model_fields.values()
            if field.default_factory is not None and field.alias not in values
        }  # another value each time
        return {name: value for name, value in read.items() if name not in made}

    def validate(self, values: Mapping[str, Any]) -> dict[str, Any]:  # Any: JSON values, typed ones
        """Return the function's keyword arguments. Raises `InvalidInput` with a sentence."""
        try:
            validated = self.arguments.model_validate(dict(values))
        except pydantic.ValidationError as error:
            problems = join_problems(describe_errors(error, values))
            raise InvalidInput(f"Tool {self.name!r}: {problems}") from error
        fields = self.arguments.model_fields
        return {cast(str, field.alias): getattr(validated, key) for key, field in fields.items()}

    async def run(self, arguments: Mapping[str, Any], context: ToolContext) -> str:
        """Run the function with what `validate` has returned. Return its result: text as it is,
        anything else as JSON."""
        function: Callable[..., Any] = self.function  # Any: checked by `validate`
        if self.context_parameter:
            arguments = {**arguments, self.context_parameter: context}
        if inspect.iscoroutinefunction(function):
            result = await function(**arguments)
        else:
            result = await asyncio.to_thread(function, **arguments)
        return result if isinstance(result, str) else pydantic_core.to_json(result).decode()


@overload
def tool(function: Callable[ParametersT, ResultT], /) -> Tool[ParametersT, ResultT]: ...


@overload
def tool(
    *,
    name: str | None = None,
    idempotent: bool = False,
    read_only: bool = False,
    parallel: bool = False,
    untrusted: bool = False,
    needs_approval: bool = False,
) -> Callable[[Callable[ParametersT, ResultT]], Tool[ParametersT, ResultT]]: ...


def tool(
    function: Callable[..., Any] | None = None, *, name: str | None = None, **properties: bool
) -> Any:  # Any: the overloads say
    """Make a tool of a function::

        @tool
        def roll(sides: Annotated[int, Field(ge=2, description="Sides of the die")] = 6) -> int:
            \"""Roll a die.\"""
            return random.randint(1, sides)

    The tool has the function's name, the first paragraph of its docstring as description, and its
    parameters as arguments, validated by their types; one of type `ToolContext` tells where the
    call comes from. A plain function runs in a thread, which a stopped turn does not interrupt; a
    coroutine function is awaited. A result that is no text becomes JSON. The other properties are
    those of `Tool`; a tool that is ``read_only`` is idempotent.

    Raises `PluginLoadError` for a function that cannot be a tool.
    """
    if function is None:
        return lambda function: _make_tool(function, name or function.__name__, **properties)
    return _make_tool(function, function.__name__)


def _make_tool(function: Callable[..., Any], name: str, **properties: bool) -> Tool:
    if not TOOL_NAME_PATTERN.fullmatch(name):
        raise PluginLoadError(f"tool {name!r}: a name is 1 to 64 letters, digits, _ and -")
    description = " ".join((inspect.getdoc(function) or "").partition("\n\n")[0].split())
    if not description:
        raise PluginLoadError(f"tool {name!r}: it needs a docstring, which describes it")
    if properties.get("read_only"):
        properties["idempotent"] = True
    parameters, context_parameter = _read_parameters(name, function)
    return Tool(
        function=function,
        name=name,
        description=description,
        arguments=_make_arguments(name, parameters),
        context_parameter=context_parameter,
        **properties,
    )


def _read_parameters(
    name: str, function: Callable[..., Any]
) -> tuple[list[tuple[inspect.Parameter, Any]], str]:
    """Return the parameters with their types, and the name of the one for the `ToolContext`."""
    hints = typing.get_type_hints(function, include_extras=True)
    parameters: list[tuple[inspect.Parameter, Any]] = []  # Any: a type
    context_parameter = ""
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise PluginLoadError(
                f"tool {name!r}: parameter {str(parameter)!r} cannot be given by name"
            )
        if parameter.name not in hints:
            raise PluginLoadError(f"tool {name!r}: parameter {parameter.name!r} needs a type")
        if hints[parameter.name] is ToolContext:
            context_parameter = parameter.name
        else:
            parameters.append((parameter, hints[parameter.name]))
    return parameters, context_parameter


def _make_arguments(
    name: str, parameters: Sequence[tuple[inspect.Parameter, Any]]
) -> type[pydantic.BaseModel]:
    """Make a model with a field per parameter. Its alias is the parameter's name, which may be one
    that a pydantic field cannot have, such as ``copy``."""
    fields: dict[str, Any] = {}  # Any: (type, default), as create_model takes them
    for number, (parameter, hint) in enumerate(parameters):
        field = pydantic.Field(alias=parameter.name)
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[f"argument_{number}"] = (Annotated[hint, field], default)
    return pydantic.create_model(name, __config__=pydantic.ConfigDict(extra="forbid"), **fields)
