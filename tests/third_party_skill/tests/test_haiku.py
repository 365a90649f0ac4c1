from palaver_haiku import Haiku

from palaver.testing import ScriptedEngine, converse


async def test_it_writes_what_the_engine_composes() -> None:
    engine = ScriptedEngine("Rain on the old roof")
    async with converse(Haiku, engine=engine) as chat:
        reply = await chat.say("write a haiku about rain")
    assert reply == "Rain on the old roof"
    assert reply.skill == "haiku"
    assert "about: write a haiku about rain" in engine.requests[0].messages[-1].content
