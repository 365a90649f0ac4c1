"""A channel for programs that use OpenAI's API: skills and the engine appear as models.

Chat Completions, Responses, Conversations, Embeddings and Models, below ``/v1`` at the server's own
address; enable it with ``channels.enabled = ["openai_api"]``. Clients use the server's own keys.

- ``model`` is a skill's name, ``auto`` for the router's choice, or the name of the engine's own
  model, which answers the messages as they are, with the request's own sampling parameters.
- Chat Completions: the request's ``messages`` are the conversation, which is stored until its reply
  can no longer be asked for again. ``X-Palaver-Thread`` names one that the server keeps instead.
- Responses: each is a turn of a conversation that the server keeps, and is read, continued and
  streamed again from any server.
- ``Idempotency-Key``: a repeated request of the same key and ``user`` gets the reply of the first.
"""

from collections.abc import Iterable

from palaver import Backend, BuildContext, Channel, PluginSettings, hookimpl
from palaver_plugins.channels.openai_api.channel import NAME
from palaver_plugins.channels.openai_api.channel import OpenAIChannel as OpenAIChannel


class Settings(PluginSettings):
    """No settings."""


def _build(settings: Settings, build_context: BuildContext) -> Channel:
    return OpenAIChannel()


@hookimpl
def palaver_register_channels() -> Iterable[Backend[Channel]]:
    return [Backend(name=NAME, settings=Settings, build=_build)]
