"""Suites: what is measured, and on which rows of data. docs/evaluation.md describes the files."""

import re
import tomllib
from pathlib import Path
from typing import Literal

import pydantic

from palaver.config.settings import Origin
from palaver.config.validation import validate
from palaver.errors import ConfigurationError, InvalidInput

_CHOICE = re.compile("accuracy|macro_f1|auroc|calibration_error|recall:")
"""Metrics of the choice of the skill."""
BUILT_IN = Path(__file__).with_name("suites")
Target = Literal["router", "retriever", "skill", "server"]
"""What is measured: the choice of the skill, the search, one skill, or the server as it is."""


class Table(pydantic.BaseModel):
    """A table of a suite. Unknown keys are refused, values are frozen."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class ProgramTable(Table):
    """How code in a reply is run; templates."""

    prelude: str = ""
    function: str
    test: str
    timeout: float = pydantic.Field(default=10.0, gt=0)


class FilesTable(Table):
    files: tuple[str, ...] = pydantic.Field(min_length=1)
    where: dict[str, str | int | float | bool] = {}
    """Only rows whose fields have these values."""


class RowsTable(FilesTable):
    """The rows. Values are templates: ``{name}`` is the field ``name`` of the row."""

    split: str
    """Part of the data set, as the report names it: ``test``, ``validation``."""
    id: str = ""
    text: str = "{text}"
    arguments: dict[str, str] = {}
    expected: str = ""
    history: str = ""
    relevant: str = ""
    rating: str = ""
    note: str = ""


class ExamplesTable(Table):
    """Examples of the skills of a router, which are the labels of these rows."""

    files: tuple[str, ...] = ()
    """None: they are taken out of the suite's own rows."""
    text: str = "{text}"
    label: str = "{label}"
    per_label: int = pydantic.Field(default=20, ge=1)
    drop_near_duplicates: bool = False
    """Leave out near duplicates of test rows. Otherwise they are an error."""


class DocumentsTable(FilesTable):
    """Documents of the knowledge base, of rows and of ``paths``. Those of rows with equal key and
    text are one."""

    files: tuple[str, ...] = ()
    """None: made of the suite's own rows."""
    text: str = ""
    """Empty: no documents are made of rows."""
    title: str = ""
    key: str = ""
    """What ``rows.relevant`` names; of a file in ``paths``, its path below the data directory."""
    paths: tuple[str, ...] = ()
    """Files and folders, read as ``palaver knowledge add`` reads them."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> "DocumentsTable":
        if bool(self.text) != bool(self.key) or not (self.text or self.paths):
            raise ValueError("documents need a text and a key, or paths, or all of them")
        return self


class ReplyTable(Table):
    """How a reply is read."""

    remove: re.Pattern[str] | None = None
    """Regular expression of what is no part of the text that is measured."""
    no_answer: tuple[str, ...] = ()
    """Sentences that say that there is no answer."""


class SamplingTable(Table):
    """Parameters of the generations; those of the skill where they are not given."""

    samples: int = pydantic.Field(default=1, ge=1)
    temperature: float | None = pydantic.Field(default=None, ge=0, le=2)
    max_tokens: int | None = pydantic.Field(default=None, ge=1)


class Suite(Table):
    """What is measured, and how."""

    description: str
    target: Target
    skill: str = ""
    """The skill that answers, with the target ``skill``."""
    metrics: tuple[str, ...] = pydantic.Field(min_length=1)
    """The first one orders the cases, worst first."""
    passages: int = pydantic.Field(default=50, ge=1)
    """Passages that one search returns, with the target ``retriever``."""
    rows: RowsTable
    examples: ExamplesTable | None = None
    documents: DocumentsTable | None = None
    reply: ReplyTable = ReplyTable()
    sampling: SamplingTable = SamplingTable()
    program: ProgramTable | None = None
    settings: dict[str, str | int | float | bool] = {}
    """Settings of the server, ``section.key``; those of the command line replace them."""

    @property
    def measures_choice(self) -> bool:
        """Return whether the choice of the skill is measured."""
        return self.target == "router" or any(map(_CHOICE.match, self.metrics))

    @pydantic.model_validator(mode="after")
    def _check(self) -> "Suite":
        if (self.target == "skill") != bool(self.skill):
            raise ValueError("the target 'skill' needs a skill, and no other target has one")
        if self.examples and self.target != "router":
            raise ValueError("only the target 'router' has examples")
        return self


def built_in_suites() -> dict[str, Path]:
    """Return the suites of the package by name."""
    return {path.stem: path for path in sorted(BUILT_IN.glob("*.toml"))}


def find_suite(name: str) -> Path:
    """Return the file of a suite by its path, or by its name. Raises `InvalidInput`."""
    if name.endswith(".toml"):
        if not Path(name).is_file():
            raise InvalidInput(f"there is no suite {name!r}")
        return Path(name)
    try:
        return built_in_suites()[name]
    except KeyError:
        known = ", ".join(built_in_suites())
        raise InvalidInput(f"there is no suite {name!r}; there are: {known}") from None


def load_suite(path: Path) -> Suite:
    """Read a suite. Raises `ConfigurationError` with one line for each wrong value."""
    try:
        tree = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"the suite {str(path)!r} cannot be read: {error}") from error
    origin = Origin(str(path))
    return validate(Suite, tree, lambda keys: origin)
