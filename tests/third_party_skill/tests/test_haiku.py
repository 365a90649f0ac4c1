from typing import Any

from palaver_haiku import Haiku

from palaver.testing import ScriptedEngine


async def test_it_writes_what_the_engine_composes(begin: Any) -> None:  # Any: the kit's fixture
    engine = ScriptedEngine("Rain on the old roof")
    chat = await begin(Haiku, engine=engine)
    reply = await chat.say("write a haiku about rain")
    assert reply == "Rain on the old roof"
    assert reply.skill == "haiku"
    assert "about: write a haiku about rain" in engine.requests[0].messages[-1].content
