"""No log record contains what a person or the engine wrote."""

import ast
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from pydantic import BaseModel

import palaver
from palaver import Document, Interceptor, Skill, Turn, describe_error, tool
from palaver.errors import (
    EngineError,
    EngineUnavailable,
    InvalidInput,
    LedgerUnavailable,
    PalaverError,
    SkillError,
)
from palaver.testing import ScriptedEngine, ScriptedReply, converse
from palaver_plugins.engines.openai_wire import UpstreamFailed, response_error
from palaver_skills import chat, codegen, qa, summarization, translation

pytestmark = pytest.mark.slow

WORD = "qxjzvikku"


class RecordingHandler(logging.Handler):
    """A handler that keeps all records."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture(autouse=True)
def records() -> Iterator[list[logging.LogRecord]]:
    """Collect all records of a test, and check at its end that none contains the word."""
    handler = RecordingHandler()
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler.records
    root.setLevel(level)
    root.removeHandler(handler)
    for record in handler.records:
        written = f"{vars(record)!r} {logging.Formatter().format(record)}"
        assert WORD not in written.lower()


class Fill(BaseModel):
    number: int


@tool
async def look_up(word: str) -> str:
    """Look a word up."""
    raise ValueError(f"no entry for {word}")


async def raise_chain(turn: Turn) -> None:
    try:
        raise ValueError(turn.message.text)
    except ValueError as error:
        raise RuntimeError(turn.message.text) from error


async def raise_with_note(turn: Turn) -> None:
    error = ValueError("x")
    error.add_note(turn.message.text)
    raise error


def raising(kind: Callable[[str], Exception]) -> Callable[[Turn], Awaitable[None]]:
    async def fail(turn: Turn) -> None:
        raise kind(turn.message.text)

    return fail


WAYS: Mapping[str, Callable[[Turn], Awaitable[object]]] = {
    "bug": raising(KeyError),
    "chain": raise_chain,
    "note": raise_with_note,
    "group": raising(lambda text: ExceptionGroup(text, [ValueError(text)])),
    "skill": raising(lambda text: SkillError(f"cannot do {text}")),
    "input": raising(lambda text: InvalidInput(f"{text!r} is wrong")),
    "extract": lambda turn: turn.extract(Fill, turn.message.text),
    "tool": lambda turn: turn.call_tool("look_up", word=turn.message.text),
    "arguments": lambda turn: turn.call_tool("look_up", words=turn.message.text),
    "unknown-tool": lambda turn: turn.call_tool(turn.message.text),
}


class Careless(Skill):
    """Fail in the way that the message names."""

    name = "careless"
    examples = ("fail",)

    async def answer(self, turn: Turn) -> None:
        await WAYS[turn.message.text.split()[1]](turn)


@pytest.mark.parametrize("way", WAYS)
async def test_an_error_of_a_skill_is_logged_without_its_text(
    way: str, records: list[logging.LogRecord]
) -> None:
    engine = ScriptedEngine(f'{{"number": "{WORD}"}}')
    async with converse(Careless, engine=engine, tools=[look_up]) as client:
        reply = await client.say(f"{WORD} {way} {WORD}")
        assert reply.outcome == "failed"
    record = vars(next(each for each in records if each.name == "palaver.turns.dispatcher"))
    conversation = client.conversation
    assert {name: record[name] for name in ("turn", "conversation", "tenant", "skill")} == {
        "turn": reply.turn,
        "conversation": str(conversation),
        "tenant": conversation.tenant,
        "skill": "careless",
    }


ENGINE_ERRORS: tuple[PalaverError | Exception, ...] = (
    EngineError(f"it said {WORD}"),
    EngineError("it said", quoted=WORD),
    InvalidInput(f"the chat template refuses {WORD}"),
    ValueError(WORD),
)


@pytest.mark.parametrize("error", ENGINE_ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    "skill",
    [chat.Chat, qa.QA, translation.Translation, summarization.Summarization, codegen.Codegen],
)
async def test_a_failing_engine_is_logged_without_the_texts(
    skill: type[Skill], error: Exception
) -> None:
    engine = ScriptedEngine(
        lambda request: ScriptedReply(text=f"{WORD} ", error=error)  # type: ignore[arg-type]
    )
    documents = [Document(id=WORD, title=WORD, text=f"All about {WORD}.")]
    async with converse(skill, engine=engine, knowledge=documents) as client:
        for text in (
            f"Translate into German: {WORD} sleeps.",
            f"Summarize: {WORD} was here. " * 20,
            f"What is {WORD}?",
            f"Translate {WORD} into {WORD}",
            f"Write a function in {WORD}",
        ):
            await client.say(f"/{skill.name} {text}")


@pytest.mark.parametrize("output", [WORD, f'{{"{WORD}": 1}}', "", "\x00" + WORD])
async def test_unusable_output_of_the_engine_is_not_logged(output: str) -> None:
    skills: Sequence[type[Skill]] = (chat.Chat, qa.QA, translation.Translation)
    async with converse(*skills, engine=ScriptedEngine(lambda request: output)) as client:
        for text in (f"Translate {WORD}", f"/qa {WORD}", f"/translation {WORD}"):
            await client.say(text)


class Wrapper(Interceptor):
    """An interceptor that fails with what was written."""

    async def intercept(self, turn: Turn, call_next: Callable[[], Awaitable[None]]) -> None:
        raise RuntimeError(turn.message.text)


async def test_an_error_of_an_interceptor_is_logged_without_its_text() -> None:
    async with converse(chat.Chat, interceptors=[Wrapper()]) as client:
        assert (await client.say(WORD)).outcome == "failed"


def test_a_described_error_names_kinds_and_places_but_no_text() -> None:
    try:
        try:
            int(WORD)
        except ValueError as error:
            raise LookupError(WORD) from error
    except LookupError as error:
        described = describe_error(error)
    assert described.startswith("LookupError (test_log_contents.py:")
    assert "caused by ValueError (test_log_contents.py:" in described
    assert "test_a_described_error_names_kinds_and_places_but_no_text" in described
    assert WORD not in described


def test_details_of_the_operators_own_things_are_logged() -> None:
    assert describe_error(LedgerUnavailable("disk full")) == "disk full"
    assert describe_error(EngineUnavailable("at 10.0.0.1", quoted=WORD)) == "at 10.0.0.1"
    assert str(EngineUnavailable("at 10.0.0.1", quoted="busy")) == "at 10.0.0.1: busy"


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 501, 503])
@pytest.mark.parametrize("body", [f'{{"error": {{"message": "{WORD}"}}}}', f"<p>{WORD}</p>"])
def test_what_an_engine_server_says_stays_out_of_the_log(status: int, body: str) -> None:
    failure = response_error("http://127.0.0.1:1/v1", status, body.encode(), {})
    error = failure.error if isinstance(failure, UpstreamFailed) else failure
    assert WORD in str(error), "the operator needs it, where it is not logged"
    assert WORD not in describe_error(error)


def test_every_error_decides_whether_its_detail_may_be_logged() -> None:
    kinds = [each for each in vars(palaver).values() if isinstance(each, type)]
    errors = [each for each in kinds if issubclass(each, PalaverError)]
    quoting = {each.__name__ for each in errors if each.detail_may_quote}
    assert {"PalaverError", "InvalidInput", "SkillError", "EngineError"} <= quoting
    assert not quoting & {"LedgerUnavailable", "ConfigurationError", "EngineUnavailable"}


ROOT = Path(__file__).parents[3]
LOGGED_WHOLE = {
    "server/palaver/engines/supervised.py": "the start of the engine, before any message",
    "server/palaver/platforms/connection.py": "the settings are wrong, before any message",
    "server/palaver/platforms/delivery.py": "why a platform failed, see `PostingError`",
    "server/palaver/platforms/calls.py": "why a platform failed, see `PostingError`",
    "server/palaver/platforms/reply_posts.py": "why a platform failed, see `PostingError`",
    "server/palaver/routing/trials.py": "a file that the server has written",
    "server/palaver/turns/dispatcher.py": "the ledger is unavailable",
    "server/palaver/streams/subscriptions.py": "the ledger is unavailable",
    "plugins/palaver_plugins/channels/slack/channel.py": "why Slack failed, see `PostingError`",
    "plugins/palaver_plugins/channels/slack/dispatch.py": "an id that Slack has not given",
    "plugins/palaver_plugins/channels/slack/files.py": "why Slack failed, see `PostingError`",
    "plugins/palaver_plugins/channels/slack/oauth.py": "why Slack failed, see `PostingError`",
    "plugins/palaver_plugins/ledgers/sqlite/database_thread.py": "an error of SQLite",
}
"""Files in which a caught error is logged as it is, and why it quotes nobody."""


def logged_errors(tree: ast.AST) -> Iterator[ast.Call]:
    """Yield the log calls that pass a caught error without `describe_error`."""
    handlers = [node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)]
    for handler in handlers:
        for call in (node for node in ast.walk(handler) if isinstance(node, ast.Call)):
            if ast.unparse(call.func).startswith("log."):
                given = [*call.args, *(word.value for word in call.keywords)]
                names = [each.id for each in given if isinstance(each, ast.Name)]
                if handler.name in names or ast.unparse(call.func) == "log.exception":
                    yield call


def test_a_caught_error_is_described_before_it_is_logged() -> None:
    found = set()
    for folder in ("server", "plugins", "skills"):
        for path in (ROOT / folder).rglob("*.py"):
            if any(logged_errors(ast.parse(path.read_text(encoding="utf-8")))):
                found.add(str(path.relative_to(ROOT)))
    assert found == set(LOGGED_WHOLE)
