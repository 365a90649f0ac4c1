"""Commands ``palaver skills list``, ``route`` and ``new``."""

import asyncio
import contextlib
import importlib.metadata
import importlib.util
import keyword
import re
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import click

from palaver.cli.console import Console, echo
from palaver.embedding import Embedder, start_embedder
from palaver.engine import EngineInfo
from palaver.errors import InvalidInput, NotFound
from palaver.knowledge import SearchByMeaning, limit_collections
from palaver.messages import Conversation, Message, new_id
from palaver.plugins import SKILL_NAME_PATTERN, PluginRegistry

if TYPE_CHECKING:
    from palaver.routing import Decision, Router
    from palaver.routing.ranking import Ranking

CLASSES = {"@follow-up": "continues what was said before", "@none": "no skill"}
NO_ENGINE = EngineInfo(model="none", context_window=0, capabilities=frozenset())


@click.group()
def skills() -> None:
    """List skills, make a new one, try the routing."""


@skills.command("list")
@click.pass_obj
def list_skills(console: Console) -> None:
    """List the installed skills, and the plugins that failed to load."""
    registry = console.registry
    for name, skill in sorted(registry.skills.items()):
        echo(f"{name:<16} {skill.description()}")
        echo(f"{'':<16} {registry.owners['skills', name]}", dim=True)
    for failure in registry.failures:
        echo(str(failure), keep_lines=True, err=True, fg="red")


@skills.command()
@click.argument("text")
@click.option("--explain", is_flag=True, help="Show the evidence.")
@click.option("--previous", metavar="SKILL", help="Skill of the reply that TEXT follows.")
@click.option("--tenant", default="default", show_default=True, help="Tenant of the documents.")
@click.pass_obj
def route(console: Console, text: str, explain: bool, previous: str | None, tenant: str) -> None:
    """Show which skill would answer TEXT, and why. The engine is not consulted."""
    from palaver.app import BackendBuilder
    from palaver.routing import Router  # imports numpy

    # Imports and these properties read files, which must not block the event loop.
    embedder = BackendBuilder(console.settings, console.registry).embedder()
    _ = console.build_context
    if previous is not None and previous not in console.registry.skills:
        raise NotFound(f"there is no skill {previous!r}")
    conversation = Conversation(tenant, "terminal", "route")
    message = Message(conversation=conversation, id=new_id(), person="terminal", text=text)
    decision, ranking = asyncio.run(_route(console, Router, embedder, message, previous))
    echo(f"skill      {decision.skill}")
    echo(f"reason     {decision.reason}")
    echo(f"text       {decision.text}")
    if decision.arguments:
        echo(f"arguments  {decision.arguments}")
    if explain:
        _explain(ranking)
    for ranked in ranking.skills:
        echo(f"  {ranked.probability:6.1%}  {ranked.skill}", dim=True)


async def _route(
    console: Console,
    make_router: "type[Router]",
    embedder: Embedder | None,
    message: Message,
    previous: str | None,
) -> "tuple[Decision, Ranking]":
    embeddings = None
    async with contextlib.AsyncExitStack() as stack:
        knowledge = await stack.enter_async_context(console.open_knowledge())
        if embedder is not None:
            stack.push_async_callback(embedder.close)
            is_chosen = bool(console.settings.embedding.use)
            embeddings = await start_embedder(embedder, required=is_chosen)
        if embeddings is not None and isinstance(knowledge, SearchByMeaning):
            knowledge.use_embeddings(embeddings, embeddings.model)
        router = make_router(
            console.registry.skills,
            settings=console.settings.routing,
            engine=None,
            engine_info=NO_ENGINE,
            embeddings=embeddings,
            knowledge=knowledge,
            collections={
                name: limit_collections(skill.collections)
                for name, skill in console.builder.skills().items()
            },
        )
        stack.push_async_callback(router.close)
        decision = await router.route(message, previous)
        return decision, await router.rank(message, previous)


def _explain(ranking: "Ranking") -> None:
    """Print what each source of evidence says."""
    compared = "words and vectors" if ranking.embedded else "words alone"
    echo(f"examples   compared by {compared}")
    for name, chance in sorted(ranking.examples.items(), key=lambda item: -item[1]):
        echo(f"  {chance:6.1%}  {CLASSES.get(name, name)}", dim=True)
    if ranking.match is None:
        echo("documents  not searched")
    elif not ranking.match.document:
        echo("documents  have nothing about it")
    else:
        section = f", {ranking.match.section}" if ranking.match.section else ""
        echo(f"documents  answer it with {ranking.match.probability:.0%}")
        echo(f"  {ranking.match.document}{section}", dim=True)
    if ranking.previous is not None:
        echo(f"follows    a reply of {ranking.previous}")
    echo("together")


@skills.command()
@click.argument("name")
@click.option(
    "--into",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Directory in which the package is made.",
)
@click.pass_obj
def new(console: Console, name: str, into: Path) -> None:
    """Make a package with a skill called NAME.

    It has a test, and the one line that registers the skill.
    """
    part = re.sub(r"\W", "_", name)
    if not SKILL_NAME_PATTERN.fullmatch(name) or not part.isidentifier() or keyword.iskeyword(part):
        raise InvalidInput(f"{name!r} is not usable as a name: letters a-z, digits, - and _")
    project, module = f"palaver-{name.replace('_', '-')}", f"palaver_{part}"
    folder = into / project
    _refuse_existing(console.registry, name, project, module, folder)
    words = {
        "name": name,
        "module": module,
        "project": project,
        "title": "".join(word.capitalize() for word in part.split("_")),
    }
    for path, template in TEMPLATES.items():
        file = folder / Template(path).substitute(words)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as stream:
            stream.write(Template(template).substitute(words))
    echo(f"Made {folder}. Next:")
    echo(f"  pip install -e '{folder}[test]'")
    echo(f"  pytest {folder}")


def _refuse_existing(
    registry: PluginRegistry, name: str, project: str, module: str, folder: Path
) -> None:
    """Raise `InvalidInput` when a skill, directory, distribution or module has the name."""
    for skill in registry.skills.values():
        if name in (skill.name, *skill.aliases):
            owner = registry.owners["skills", skill.name]
            raise InvalidInput(f"{name!r} is the name of an installed skill, from {owner}")
    if folder.exists():
        raise InvalidInput(f"{str(folder)!r} exists already")
    installed = {distribution.name for distribution in importlib.metadata.distributions()}
    if project in {re.sub(r"[-_.]+", "-", found).lower() for found in installed}:
        raise InvalidInput(f"the distribution {project!r} is installed already")
    if importlib.util.find_spec(module) is not None:
        raise InvalidInput(f"the Python module {module!r} exists already")


TEMPLATES = {
    "pyproject.toml": """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "$project"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["palaver-server"]

[project.optional-dependencies]
test = ["palaver-server[testing]"]

[project.entry-points.palaver]
$name = "$module"

[tool.hatch.build.targets.wheel]
packages = ["$module"]

[tool.pytest.ini_options]
asyncio_mode = "auto"
""",
    "$module/__init__.py": '''\
from palaver import Skill, Turn


class $title(Skill):
    """Say in one line what this skill does: people and the router read it."""

    name = "$name"
    examples = (
        "write here how people would ask for it",
        "and here another way to say it",
    )

    async def answer(self, turn: Turn) -> None:
        await turn.stream(turn.message.text, system="Answer in one short sentence.")
''',
    "tests/test_$module.py": """\
from palaver.testing import ScriptedEngine
from palaver.testing.pytest_plugin import Begin

from $module import $title


async def test_it_answers(begin: Begin) -> None:
    chat = await begin($title, engine=ScriptedEngine("Certainly."))
    reply = await chat.say("write here how people would ask for it")
    assert reply == "Certainly."
    assert reply.skill == "$name"
""",
    "README.md": """\
# $project

The skill `$name` for Palaver. `pip install -e .`, then talk to it.
""",
}
