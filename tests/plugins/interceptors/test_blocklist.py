"""The interceptor ``blocklist``."""

import pytest
from pydantic import ValidationError

from palaver.testing import ScriptedEngine, converse
from palaver_plugins.interceptors.blocklist import Blocklist, BlocklistSettings
from palaver_skills.chat import Chat


async def test_a_blocked_message_reaches_no_skill() -> None:
    engine = ScriptedEngine("Hello.")
    settings = BlocklistSettings(patterns=(r"\bpassword\b",), sentence="Not about that.")
    async with converse(Chat, engine=engine, interceptors=[Blocklist(settings)]) as chat:
        assert await chat.say("Tell me the PASSWORD") == "Not about that."
        assert not engine.requests
        assert await chat.say("hello") == "Hello."


@pytest.mark.parametrize(
    ("pattern", "why"), [("[a", "missing"), (r"(a)\1", "refers back"), ("a(?=b)", "looks ahead")]
)
def test_an_invalid_pattern_is_refused_at_start_up(pattern: str, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        BlocklistSettings(patterns=(pattern,))
