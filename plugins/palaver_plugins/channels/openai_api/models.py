"""Models of OpenAI's API: the router, the skills, and the models of the server's engines."""

from collections.abc import Iterable

from aiohttp import web

from palaver import (
    ConversationService,
    EngineInfo,
    EngineSkill,
    EngineUnavailable,
    described,
    requires,
)
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
        return list(dict.fromkeys((AUTO, *sorted(self.service.skills()), *self.service.models())))

    def check(self, model: str) -> None:
        """Raise `NoSuchModel`."""
        if model not in self.names():
            raise NoSuchModel(model)

    def is_engine(self, model: str) -> bool:
        """Return whether the model is an engine's; a skill of the same name comes first."""
        return model != AUTO and model not in self.service.skills()

    def engine_of(self, model: str) -> EngineInfo:
        """Return the engine that writes for a model. Raises `EngineUnavailable`."""
        if not self.is_engine(model):
            return self.service.engine_of_skill("" if model == AUTO else model)
        engine = self.service.models().get(model)
        if engine is None:
            raise EngineUnavailable(f"the model {model!r} has not started", retry_after=5.0)
        return engine

    def chosen(self, model: str) -> str:
        """Return `ProgramRequest.model`: the name of a model other than the default one."""
        default = self.service.engine_info.model
        return model if self.is_engine(model) and model != default else ""

    def skill_of(self, model: str) -> str | None:
        """Return the skill that answers; None: the router chooses."""
        if model == AUTO:
            return None
        return EngineSkill.name if self.is_engine(model) else model

    def name_of(self, skill: str, asked: str) -> str:
        """Return the name of the model that answers; that which was asked while none is chosen."""
        if skill != EngineSkill.name:
            return skill or asked
        return asked if asked in self.service.models() else self.service.engine_info.model

    def blindness(self, model: str) -> str:
        """Return the reason why a model sees no images; empty when it does."""
        skills = sorted(self.service.image_skills())
        engines = [
            name
            for name, engine in self.service.models().items()
            if engine is not None and "vision" in engine.capabilities and self.is_engine(name)
        ]
        if model in engines or model in skills or (model == AUTO and skills):
            return ""
        if not engines:
            engine = self.service.engine_info.model
            return f"the engine's model {engine!r} sees no images; send text"
        return f"the model {model[:60]!r} sees no images; {', '.join([*engines, *skills])} do"

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
            engine=self.engine_of(model),
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
