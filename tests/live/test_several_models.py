"""Two models of the embedded engine in one server."""

import json
from pathlib import Path

import aiohttp
import pytest
from tests.plugins.engines.models import write_model

from palaver.app import build_server
from palaver.config.settings import Settings
from palaver.models.registry import ModelRegistry
from palaver.server import Server
from palaver.web.listener import listening

pytestmark = [pytest.mark.live, pytest.mark.openvino]


@pytest.fixture
def server(tmp_path: Path) -> Server:
    pytest.importorskip("openvino_genai")
    data = tmp_path / "data"
    ModelRegistry(data).add_directory(write_model(tmp_path / "walker"))
    engine = {"threads": 1, "kv_cache_mib": 32}
    settings = Settings.model_validate(
        {
            "server": {"data": data, "port": 0},
            "engine": {
                "use": "openvino",
                "openvino": engine,
                "models": {"walker": {"use": "openvino", "model": "walker", **engine}},
            },
            "routing": {"consult_engine": False},
            "embedding": {"use": "none"},
            "channels": {"enabled": ["openai_api"]},
            "skills": {"chat": {"model": "walker", "max_tokens": 8, "temperature": 0.0}},
        }
    )
    return build_server(settings)


async def test_two_embedded_models_write_side_by_side(server: Server) -> None:
    async with server, listening(server) as address, aiohttp.ClientSession(address) as session:

        async def complete(model: str, text: str) -> dict[str, str]:
            request = {
                "model": model,
                "messages": [{"role": "user", "content": text}],
                "max_tokens": 8,
                "temperature": 0,
            }
            async with session.post("/v1/chat/completions", json=request) as response:
                answer = json.loads(await response.text())
                assert response.status == 200, answer
                return {
                    "model": answer["model"],
                    "text": answer["choices"][0]["message"]["content"],
                }

        async with session.get("/v1/models") as response:
            names = [model["id"] for model in (await response.json())["data"]]
        assert names[-2:] == ["starter", "walker"]
        starter = await complete("starter", "hello")
        walker = await complete("walker", "hello")
        chat = await complete("chat", "hello")
        assert (starter["model"], walker["model"], chat["model"]) == ("starter", "walker", "chat")
        assert starter["text"] != walker["text"]
        async with session.get("/metrics") as response:
            metrics = await response.text()
        for model in ("default", "walker"):
            assert f'palaver_engine_up{{model="{model}"}} 1.0' in metrics
            assert f'palaver_tokens_total{{kind="completion",model="{model}"}}' in metrics
