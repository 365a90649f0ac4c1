"""Palaver, a conversation server. What an author of skills and plugins imports."""

from palaver.engine import Sampling
from palaver.errors import (
    ConfigurationError,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    PalaverError,
    SkillError,
)
from palaver.hooks import Backend, Interceptor, PluginSettings, Site, Tool, hookimpl
from palaver.knowledge import Document, Passage
from palaver.ledger import Exchange
from palaver.messages import Attachment, Citation, Conversation, Message
from palaver.skills import Skill
from palaver.turns import Turn

__version__ = "0.1.0"

__all__ = [
    "Attachment",
    "Backend",
    "Citation",
    "ConfigurationError",
    "Conversation",
    "Document",
    "Exchange",
    "Interceptor",
    "InvalidInput",
    "Message",
    "NotFound",
    "OutcomeUnknown",
    "PalaverError",
    "Passage",
    "PluginSettings",
    "Sampling",
    "Site",
    "Skill",
    "SkillError",
    "Tool",
    "Turn",
    "__version__",
    "hookimpl",
]
