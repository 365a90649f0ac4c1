"""The kit for channels on chat platforms: receiving with a access policy, and posting replies.

`PlatformChannel` is where to begin; docs/write-a-channel.md shows a complete channel.
"""

from palaver.platforms.calls import Times
from palaver.platforms.channel import PlatformChannel
from palaver.platforms.connection import ConnectionTimes
from palaver.platforms.controls import Button, parse_button, reply_buttons
from palaver.platforms.html_dialect import HtmlDialect
from palaver.platforms.incoming import IncomingFile, IncomingMessage, Source
from palaver.platforms.keyed_locks import KeyedLocks
from palaver.platforms.leases import Lease
from palaver.platforms.pairing import ApprovedPerson, PairingRequest, Pairings
from palaver.platforms.parking import ParkedConversation, ParkedConversations
from palaver.platforms.platform import (
    AlreadyPosted,
    MessageGone,
    NotEditable,
    OutgoingPost,
    Platform,
    PostFull,
    PostingError,
    PostTooLong,
    RateLimited,
    Refused,
    Unreachable,
    closing_text,
)
from palaver.platforms.policy import AccessPolicy, ChannelSettings
from palaver.platforms.poster import Poster
from palaver.platforms.rate_limits import RateLimits
from palaver.platforms.rendering import WORD_BREAK, Dialect, escape, plain_text, render
from palaver.platforms.splitting import Part, split
from palaver.replies import TurnReply

__all__ = [
    "WORD_BREAK",
    "AccessPolicy",
    "AlreadyPosted",
    "ApprovedPerson",
    "Button",
    "ChannelSettings",
    "ConnectionTimes",
    "Dialect",
    "HtmlDialect",
    "IncomingFile",
    "IncomingMessage",
    "KeyedLocks",
    "Lease",
    "MessageGone",
    "NotEditable",
    "OutgoingPost",
    "PairingRequest",
    "Pairings",
    "ParkedConversation",
    "ParkedConversations",
    "Part",
    "Platform",
    "PlatformChannel",
    "PostFull",
    "PostTooLong",
    "Poster",
    "PostingError",
    "RateLimited",
    "RateLimits",
    "Refused",
    "Source",
    "Times",
    "TurnReply",
    "Unreachable",
    "closing_text",
    "escape",
    "parse_button",
    "plain_text",
    "render",
    "reply_buttons",
    "split",
]
