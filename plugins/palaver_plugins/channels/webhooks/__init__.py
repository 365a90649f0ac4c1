"""A channel for other programs by signed webhooks, as Standard Webhooks 1.0.0 describes them.

``POST /webhooks/NAME`` takes messages; the replies are posted to the endpoint's callback, signed
too, for days until it takes them. docs/channels/webhooks.md shows both sides.
"""

from collections.abc import Iterable

from palaver import Backend, BuildContext, Channel, hookimpl
from palaver_plugins.channels.webhooks.channel import WebhookChannel
from palaver_plugins.channels.webhooks.endpoint import CHANNEL
from palaver_plugins.channels.webhooks.settings import Settings


def _build(settings: Settings, build_context: BuildContext) -> Channel:
    return WebhookChannel(settings)


@hookimpl
def palaver_register_channels() -> Iterable[Backend[Channel]]:
    return [Backend(name=CHANNEL, settings=Settings, build=_build)]
