"""All methods of the Web API that the fake knows; others are a violation."""

from palaver.testing.fakes.slack import (
    assistant,
    chat,
    conversations,
    files,
    oauth,
    reactions,
    sockets,
    streams,
)

METHODS = (
    *assistant.METHODS,
    *chat.METHODS,
    *conversations.METHODS,
    *files.METHODS,
    *oauth.METHODS,
    *reactions.METHODS,
    *sockets.METHODS,
    *streams.METHODS,
)
