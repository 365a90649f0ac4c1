"""Models of OpenAI's API: the router, the skills and the engine's own model."""

from collections.abc import Iterable

from aiohttp import web

from palaver import ConversationService, EngineSkill, described, requires
from palaver_plugins.channels.openai_api.errors import (
    Json,
    NoSuchModel,
    error_response,
    json_response,
)
from palaver_plugins.channels.openai_api.operations import MODEL, MODELS
from palaver_plugins.channels.openai_api.tools import OfferedTools, check_tools

AUTO = "auto"


class Models:
    """The models of a server, whose ``service`` is set when the channel starts."""

    def __init__(self) -> None:
        self.service: ConversationService

    def names(self) -> list[str]:
        names = [AUTO, *sorted(self.service.skills())]
        engine = self.service.engine_info.model
        return names if engine in names else [*names, engine]

    def check(self, model: str) -> None:
        """Raise `NoSuchModel`."""
        if model not in self.names():
            raise NoSuchModel(model)

    def is_engine(self, model: str) -> bool:
        """Return whether the model is the engine's own; a skill of the same name comes first."""
        return model != AUTO and model not in self.service.skills()

    def skill_of(self, model: str) -> str | None:
        """Return the skill that answers; None: the router chooses."""
        if model == AUTO:
            return None
        return EngineSkill.name if self.is_engine(model) else model

    def name_of(self, skill: str, asked: str) -> str:
        """Return the name of the model that answers; that which was asked while none is chosen."""
        return self.service.engine_info.model if skill == EngineSkill.name else skill or asked

    def blindness(self, model: str) -> str:
        """Return the reason why a model sees no images; empty when it does."""
        engine = self.service.engine_info
        if "vision" not in engine.capabilities:
            return f"the engine's model {engine.model!r} sees no images; send text"
        seeing = sorted(self.service.image_skills())
        if self.is_engine(model) or model in seeing or (model == AUTO and seeing):
            return ""
        return f"the model {model[:60]!r} sees no images; {', '.join([engine.model, *seeing])} do"

    def file_refusal(self, model: str) -> str:
        """Return the reason why a model reads no files; empty when it does."""
        if not self.is_engine(model):
            return ""
        return f"the model {model[:60]!r} reads no files; skills do, such as {AUTO!r} chooses"

    def check_tools(self, model: str, offered: OfferedTools) -> None:
        """Refuse tools that the model cannot call. Raises `InvalidParameter`."""
        takers = self.service.client_tool_skills()
        check_tools(
            offered,
            model,
            engine=self.service.engine_info,
            is_engine=self.is_engine(model),
            takes_tools=model in takers or (model == AUTO and bool(takers)),
        )


class ModelsHandler:
    """The routes of models."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def routes(self) -> Iterable[web.RouteDef]:
        return (
            web.get("/v1/models", self._list, allow_head=False),
            web.get("/v1/models/{model:.+}", self._retrieve, allow_head=False),
        )

    @requires("talk", error_response=error_response)
    @described(MODELS)
    async def _list(self, request: web.Request) -> web.StreamResponse:
        data = [model_card(name) for name in self._models.names()]
        return json_response({"object": "list", "data": data})

    @requires("talk", error_response=error_response)
    @described(MODEL)
    async def _retrieve(self, request: web.Request) -> web.StreamResponse:
        model = request.match_info["model"]
        self._models.check(model)
        return json_response(model_card(model))


def model_card(name: str) -> Json:
    return {"id": name, "object": "model", "created": 0, "owned_by": "palaver"}
