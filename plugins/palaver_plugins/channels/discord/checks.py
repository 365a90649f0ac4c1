"""What keeps the channel from working, as Discord tells when it is asked."""

import discord

from palaver import ConfigurationError
from palaver.platforms import PostingError
from palaver_plugins.channels.discord.api import Api
from palaver_plugins.channels.discord.connection import check_intents
from palaver_plugins.channels.discord.errors import translated
from palaver_plugins.channels.discord.settings import DiscordSettings
from palaver_plugins.channels.discord.webhook import PATH

_REMOVE_URL = (
    "remove this Interactions Endpoint URL from the page General Information, or set "
    'interactions = "webhook"'
)
_NO_URL = (
    "the application has no Interactions Endpoint URL: set it on the page General Information to "
    f'the address of this server with {PATH}, or set interactions = "gateway"'
)


async def find_problems(settings: DiscordSettings) -> list[str]:
    """Return a sentence for each problem. It opens no connection to the gateway."""
    api = Api(settings)
    try:
        with translated():
            client = await api.client()
    except (ConfigurationError, PostingError) as error:
        return [str(error)]
    finally:
        await api.close()
    return [*_intent_problems(client, settings), *_interaction_problems(client, settings)]


def _intent_problems(client: discord.Client, settings: DiscordSettings) -> list[str]:
    try:
        check_intents(client, settings)
    except ConfigurationError as error:
        return [str(error)]
    return []


def _interaction_problems(client: discord.Client, settings: DiscordSettings) -> list[str]:
    """Return what is wrong with the way in which commands and buttons arrive."""
    application = client.application
    assert application is not None, "known since the login"
    url = application.interactions_endpoint_url
    if settings.interactions == "gateway":
        return [f"Discord sends commands and buttons to {url}: {_REMOVE_URL}"] if url else []
    if application.verify_key.lower() != settings.public_key.lower():
        return ["public_key is not that of the application, on the page General Information"]
    return [] if url else [_NO_URL]
