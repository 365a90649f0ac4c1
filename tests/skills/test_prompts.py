"""The messages that the page offers to begin with."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from palaver.skills import Skill
from palaver_skills.chat import Chat
from palaver_skills.codegen import Codegen
from palaver_skills.summarization import Summarization
from palaver_skills.translation import Translation

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.parametrize("skill", [Chat, Codegen, Summarization, Translation])
def test_every_prompt_is_one_that_the_readme_shows_with_its_reply(skill: type[Skill]) -> None:
    prompts: Sequence[str] = skill.prompts
    assert prompts
    questions = README.read_text().splitlines()
    assert [prompt for prompt in prompts if f"**{prompt}**" not in questions] == []
