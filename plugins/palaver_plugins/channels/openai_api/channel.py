"""The channel: its routes. Turns are those of any other channel."""

from collections.abc import Iterable

from aiohttp import web

from palaver import ConversationService
from palaver_plugins.channels.openai_api.chat import ChatHandler
from palaver_plugins.channels.openai_api.conversations import ConversationsHandler
from palaver_plugins.channels.openai_api.embeddings import EmbeddingsHandler
from palaver_plugins.channels.openai_api.models import Models, ModelsHandler
from palaver_plugins.channels.openai_api.responses import ResponsesHandler

NAME = "openai_api"


class OpenAIChannel:
    """The routes of OpenAI's API."""

    def __init__(self) -> None:
        self._models = Models()
        self._handlers = (
            ModelsHandler(self._models),
            ChatHandler(self._models, NAME),
            EmbeddingsHandler(self._models),
            ResponsesHandler(self._models, NAME),
            ConversationsHandler(self._models, NAME),
        )

    async def start(self, service: ConversationService) -> None:
        self._models.service = service

    async def close(self) -> None: ...

    def routes(self) -> Iterable[web.RouteDef]:
        return [route for handler in self._handlers for route in handler.routes()]
