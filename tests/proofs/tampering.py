"""Rules of the Redis ledger, broken: each twin runs with one of them."""

from palaver_plugins.ledgers.redis.client import RedisClient
from palaver_plugins.ledgers.redis.scripts import Script, load_scripts, make_script

Change = tuple[str, str]

NO_FENCE: tuple[Change, ...] = (
    ("local is_owner = running == turn and newest_fence == fence", "local is_owner = true"),
)
NO_DEDUPE: tuple[Change, ...] = (("if record then\n", "if false then\n"),)
NO_COMPARE: tuple[Change, ...] = (
    ("if index ~= expect then\n", "if false then\n"),
    ("if entry[3] ~= length then return nil end\n", "\n"),
)

RULES: dict[str, tuple[Change, ...]] = {
    "dedupe": NO_DEDUPE,
    "compare": NO_COMPARE,
    "fence and compare": NO_FENCE + NO_COMPARE,
}


def break_rule(name: str) -> None:
    """Let the ledgers that this process opens run tampered scripts."""
    changes = RULES[name]

    def load() -> dict[str, Script]:
        scripts = {kind: _tampered(script, changes) for kind, script in load_scripts().items()}
        whole = "".join(script.source for script in load_scripts().values())
        assert all(line in whole for line, _ in changes), f"the rule {name!r} is not where it was"
        return scripts

    RedisClient.load_scripts = staticmethod(load)


def _tampered(script: Script, changes: tuple[Change, ...]) -> Script:
    source = script.source
    for line, instead in changes:
        source = source.replace(line, instead)
    return make_script(script.name, source)
