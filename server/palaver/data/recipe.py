"""Recipes: which rows become training data, and how. docs/data.md describes the files."""

import tomllib
from pathlib import Path
from typing import Annotated, Literal

import pydantic

from palaver.config.settings import Origin
from palaver.config.validation import validate
from palaver.data.kinds import KindName
from palaver.data.languages import LANGUAGES
from palaver.data.redaction import REDACTION_KINDS, RedactionKind
from palaver.errors import ConfigurationError
from palaver.feedback import Rating
from palaver.patterns import compile_pattern

SourceOrigin = Literal["files", "sql", "documents", "conversations", "feedback"]


def _check_file_name(name: str) -> str:
    if "\0" in name:
        raise ValueError(f"{name!r} is no name of a file")
    return name


FileName = Annotated[str, pydantic.AfterValidator(_check_file_name)]


class Table(pydantic.BaseModel):
    """A table of a recipe. Unknown keys are refused, values are frozen."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class SourceTable(Table):
    """Where rows come from. ``row``, ``group`` and ``person`` are templates: ``{name}`` is the
    field ``name`` of the raw row."""

    name: str = pydantic.Field(pattern=r"^[\w-]{1,40}$")
    files: tuple[FileName, ...] = ()
    """CSV, JSON Lines or Parquet files, beside the recipe."""
    sql: FileName = ""
    """Name of a SQLite file, with ``query``."""
    query: str = ""
    ledger: Literal["", "conversations", "feedback"] = ""
    """What people have said who have consented."""
    documents: bool = False
    """The documents of the knowledge base."""
    tenant: str = "default"
    skill: str = ""
    rating: Rating | None = None
    """With ``ledger``: only replies of this skill, with this rating."""
    where: dict[str, str | int | float | bool] = {}
    """Only raw rows whose fields have these values."""
    row: dict[str, str] = {}
    """Fields of the kind. Empty: those of the raw row with the same names."""
    group: str = ""
    """What must stay in one part of the split, such as ``{article}``."""
    person: str = ""
    """Whose words the row has, so that an erasure of that person in ``tenant`` removes it."""

    @property
    def origin(self) -> SourceOrigin:
        if self.ledger:
            return self.ledger
        return "documents" if self.documents else "sql" if self.sql else "files"

    @pydantic.model_validator(mode="after")
    def _check(self) -> "SourceTable":
        given = [bool(self.files), bool(self.sql), bool(self.ledger), self.documents]
        if sum(given) != 1:
            raise ValueError("a source has files, sql, ledger or documents, and one of them")
        if bool(self.sql) != bool(self.query):
            raise ValueError("sql needs a query, and a query sql")
        if (self.skill or self.rating) and not self.ledger:
            raise ValueError("skill and rating select rows of the ledger")
        if self.ledger and self.person:
            raise ValueError("the people of the ledger's rows are known; leave person out")
        return self


class CleanTable(Table):
    """Which rows are dropped."""

    languages: tuple[str, ...] = ()
    """The only languages that stay, such as ``en``. Empty: all."""
    min_characters: int = pydantic.Field(default=2, ge=0)
    max_characters: int = pydantic.Field(default=100_000, ge=1)
    max_repetition: float = pydantic.Field(default=0.5, ge=0, le=1)
    """Share of a text that repeats what it has said before."""
    max_symbols: float = pydantic.Field(default=0.5, ge=0, le=1)
    """Share of characters that are neither letters, digits nor spaces."""
    boilerplate: tuple[str, ...] = ()
    """Regular expressions of texts that no row should have."""

    @pydantic.field_validator("languages")
    @classmethod
    def _are_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for language in value:
            if language not in LANGUAGES:
                raise ValueError(f"{language!r} is none of {', '.join(sorted(LANGUAGES))}")
        return value

    @pydantic.field_validator("boilerplate")
    @classmethod
    def _are_patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            compile_pattern(pattern)
        return value


class RedactTable(Table):
    """Which personal data is replaced by a mark such as ``[EMAIL]``."""

    kinds: tuple[RedactionKind, ...] = REDACTION_KINDS
    regions: tuple[str, ...] = ("US", "GB", "DE", "FR", "ES")
    """Countries whose telephone numbers are known without ``+``."""


class DuplicatesTable(Table):
    """Near-duplicates: two texts whose runs of 5 characters have at least this share in common."""

    similarity: float = pydantic.Field(default=0.8, ge=0.5, le=1)
    keep: bool = False
    """Keep near-duplicates, all in the same part of the split."""


class SplitTable(Table):
    """Shares of the parts. What belongs together stays together."""

    validation: float = pydantic.Field(default=0.1, ge=0, lt=1)
    test: float = pydantic.Field(default=0.1, ge=0, lt=1)
    seed: int = 0
    by_person: bool = False
    """All rows of one person are in one part."""
    exclude_suites: tuple[FileName, ...] = ()
    """Suites of ``palaver evaluate`` whose rows, and what is nearly the same, are left out."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> "SplitTable":
        if self.validation + self.test >= 1:
            raise ValueError("validation and test leave nothing to train on")
        return self


class Recipe(Table):
    """What is prepared, and how."""

    description: str = ""
    kind: KindName
    sources: tuple[SourceTable, ...] = pydantic.Field(min_length=1)
    clean: CleanTable = CleanTable()
    redact: RedactTable = RedactTable()
    duplicates: DuplicatesTable = DuplicatesTable()
    split: SplitTable = SplitTable()

    @pydantic.model_validator(mode="after")
    def _check(self) -> "Recipe":
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError("each source needs a name of its own")
        return self


def load_recipe(path: Path) -> Recipe:
    """Read a recipe. Raises `ConfigurationError` with one line for each wrong value."""
    try:
        tree = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"the recipe {str(path)!r} cannot be read: {error}") from error
    origin = Origin(str(path))
    return validate(Recipe, tree, lambda keys: origin)
