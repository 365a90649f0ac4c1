"""The starter model's generations are recorded once and replayed without it."""

from pathlib import Path

import pytest

from palaver.config.settings import EngineSettings, ServerSettings, Settings
from palaver.testing import RecordedEngine, converse, installed_engine
from palaver.testing.harness import Reply
from palaver_skills.chat import Chat

RECORDING = Path(__file__).with_name("recordings") / "starter.json"
"""Made by this test: PALAVER_RECORD=1 pytest tests/live/test_recorded_starter.py"""


def with_starter_model(engine: str, folder: Path) -> Settings:
    return Settings(
        server=ServerSettings(data=folder / "data"),
        engine=EngineSettings.model_validate({"use": engine, engine: {"threads": 1}}),
    )


async def talk(engine: RecordedEngine) -> list[Reply]:
    settings = {"temperature": 0.0, "max_tokens": 24}
    async with converse(Chat, engine=engine, skill_settings=settings) as chat:
        return [await chat.say("hello"), await chat.say("who are you?")]


async def test_the_recording_is_replayed(tmp_path: Path) -> None:
    settings = with_starter_model("transformers", tmp_path)
    engine = RecordedEngine(RECORDING, lambda: installed_engine(settings))
    replies = await talk(engine)
    assert all(replies)
    assert [reply.outcome for reply in replies] == ["done", "done"]
    assert len(engine.requests) == 2


@pytest.mark.live
@pytest.mark.parametrize(
    ("name", "package"),
    [
        pytest.param("openvino", "openvino_genai", marks=pytest.mark.openvino),
        pytest.param("transformers", "transformers", marks=pytest.mark.transformers),
    ],
)
async def test_what_is_recorded_now_is_replayed(tmp_path: Path, name: str, package: str) -> None:
    pytest.importorskip(package)
    settings = with_starter_model(name, tmp_path)
    path = tmp_path / "starter.json"
    said = await talk(RecordedEngine(path, lambda: installed_engine(settings), record=True))
    assert all(said)
    assert await talk(RecordedEngine(path, record=False)) == said
