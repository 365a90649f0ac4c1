"""Commands of the pages on deployment, which the tests run."""

import re
from pathlib import Path

PAGES = Path(__file__).parents[3] / "docs" / "deploy"


def documented_commands(page: str) -> list[str]:
    """Return the commands in the console blocks of a page, with their continuation lines."""
    text = (PAGES / page).read_text("utf-8")
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    joined = "".join(blocks).replace("\\\n", "")
    lines = [line.removeprefix("$ ") for line in joined.splitlines() if line.startswith("$ ")]
    return [" ".join(re.sub(r"\s#.*", "", line).split()) for line in lines]
