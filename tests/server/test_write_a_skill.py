"""The example of a skill that acts, in docs/write-a-skill.md, works as the page says."""

import importlib
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "write-a-skill.md"
SECTION = PAGE.read_text("utf-8").split("## A skill that acts\n", 1)[1].split("\n## ", 1)[0]
EXAMPLES = re.findall(r"^```python\n(.*?)^```", SECTION, re.M | re.S)


async def test_the_skill_that_acts_passes_its_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skill, test = EXAMPLES
    (tmp_path / "librarian_of_the_page.py").write_text(f"{skill}\n\n{test}", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("librarian_of_the_page")
    await module.test_it_reserves_what_it_has_found()
