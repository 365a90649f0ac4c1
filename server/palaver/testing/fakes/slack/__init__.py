"""A fake Slack: a server on the loopback interface that follows Slack's rules and limits.

::

    async with FakeSlack() as slack:
        slack.request_urls = ["http://127.0.0.1:8080/slack/events"]
        thread = await slack.mention(slack.general, slack.ada, "hello")
        await slack.wait_until(lambda: len(slack.conversation(slack.general, thread)) == 2)

The app calls ``slack.api_url`` with ``slack.bot_token``, and checks requests with
``slack.signing_secret``. Leaving the block raises `AssertionError` when the app has called an
unknown method, or sent an unknown field.
"""

from palaver.testing.fakes.slack.api import ApiRequest
from palaver.testing.fakes.slack.deliveries import Attempt, Delivery
from palaver.testing.fakes.slack.fake import FakeSlack
from palaver.testing.fakes.slack.limits import SlackRules
from palaver.testing.fakes.slack.oauth import Consent
from palaver.testing.fakes.slack.objects import App, Channel, Message, SharedFile, Token
from palaver.testing.fakes.slack.sockets import Socket
from palaver.testing.fakes.slack.view import Button, VisibleMessage

__all__ = [
    "ApiRequest",
    "App",
    "Attempt",
    "Button",
    "Channel",
    "Consent",
    "Delivery",
    "FakeSlack",
    "Message",
    "SharedFile",
    "SlackRules",
    "Socket",
    "Token",
    "VisibleMessage",
]
