"""Mutants: the Redis ledger with one of its rules removed, which a proof must detect."""

from palaver_plugins.ledgers.redis.client import RedisClient
from palaver_plugins.ledgers.redis.scripts import Script, load_scripts, make_script

Replacement = tuple[str, str]
"""A line of a Lua script, and the line in its place."""

WITHOUT_FENCE: tuple[Replacement, ...] = (
    ("local is_owner = running == turn and newest_fence == fence", "local is_owner = true"),
)
WITHOUT_DEDUPLICATION: tuple[Replacement, ...] = (("if record then\n", "if false then\n"),)
WITHOUT_COMPARE: tuple[Replacement, ...] = (
    ("if index ~= expect then\n", "if false then\n"),
    ("if entry[3] ~= length then return nil end\n", "\n"),
)

MUTATIONS: dict[str, tuple[Replacement, ...]] = {
    "deduplication": WITHOUT_DEDUPLICATION,
    "compare": WITHOUT_COMPARE,
    "fence and compare": WITHOUT_FENCE + WITHOUT_COMPARE,
}


def install_mutant(name: str) -> None:
    """Make every Redis ledger that this process opens run mutated scripts."""
    replacements = MUTATIONS[name]

    def load() -> dict[str, Script]:
        originals = load_scripts()
        sources = "".join(script.source for script in originals.values())
        for line, _ in replacements:
            assert line in sources, f"mutant {name!r}: no script has the line {line!r}"
        return {kind: _mutate(script, replacements) for kind, script in originals.items()}

    RedisClient.load_scripts = staticmethod(load)


def _mutate(script: Script, replacements: tuple[Replacement, ...]) -> Script:
    source = script.source
    for line, replacement in replacements:
        source = source.replace(line, replacement)
    return make_script(script.name, source)
