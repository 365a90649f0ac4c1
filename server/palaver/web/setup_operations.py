"""Descriptions of the operations of the model's setup, with an example of each."""

from palaver.models.choices import SetupChoice
from palaver.openapi import Content, Operation
from palaver.web.bodies import (
    ModelListRequest,
    ModelListResponse,
    ModelServersResponse,
    ModelSetupState,
)

_STATE = {
    "instance": "5f0c1e7a9b3d2c48",
    "model": "starter",
    "demonstration": True,
    "settings_file": "/srv/palaver/palaver.toml",
    "added": ["starter"],
    "progress": None,
}
_DOWNLOADING = {
    "step": "downloading", "model": "Qwen3-0.6B", "done": 250_000_000, "total": 1_500_000_000,
    "problem": "",
}  # fmt: skip
_URL = "http://127.0.0.1:11434/v1"
_MODELS = [{"id": "llama3.2:3b", "size": 2_019_393_189}]
_SERVER = {"name": "Ollama", "url": _URL, "models": _MODELS, "needs_key": False}

STATE = Operation(
    summary="Read the model, and where the setup of another one is",
    responses={200: Content(type=ModelSetupState, example=_STATE)},
    errors=(404,),
)
START = Operation(
    summary="Connect a model: it is tried, written into the settings, and the server restarts",
    body=Content(type=SetupChoice, example={"kind": "server", "url": _URL, "model": "llama3.2:3b"}),
    responses={
        202: Content(
            description="The setup runs",
            type=ModelSetupState,
            example={**_STATE, "progress": _DOWNLOADING},
        )
    },
    errors=(404, 409),
)
CANCEL = Operation(
    summary="Cancel the setup that runs; the same choice continues its download",
    responses={200: Content(type=ModelSetupState, example=_STATE)},
    errors=(404,),
)
SERVERS = Operation(
    summary="Look for model servers on the server's machine",
    responses={200: Content(type=ModelServersResponse, example={"servers": [_SERVER]})},
    errors=(404,),
)
MODELS = Operation(
    summary="List the models of a server with the OpenAI API",
    body=Content(type=ModelListRequest, example={"url": "127.0.0.1:11434", "key": ""}),
    responses={200: Content(type=ModelListResponse, example={"url": _URL, "models": _MODELS})},
    errors=(404,),
)
