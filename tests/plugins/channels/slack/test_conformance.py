"""The Slack channel does what every channel has to do, as an agent and as another app."""

from collections.abc import AsyncIterator

import pytest
from tests.plugins.channels.slack.posting_bot import fast, plain
from tests.plugins.channels.slack.slack_server import QuickChannel, slack_settings

from palaver.channels import Channel
from palaver.platforms import Times
from palaver.testing.channels import ChannelConformance, ChannelUnderTest, Fault, ShownMessage
from palaver.testing.fakes.slack import FakeSlack
from palaver.testing.fakes.slack.view import VisibleMessage
from palaver_plugins.channels.slack.manifest import EVENTS_PATH
from palaver_plugins.channels.slack.platform import SlackPlatform

pytestmark = pytest.mark.slow
POSTS = ("chat.postMessage", "chat.startStream")


class SlackUnderTest(ChannelUnderTest):
    name = "slack"

    def __init__(self, slack: FakeSlack, *, is_agent: bool) -> None:
        self.slack = slack
        self.people = {"ada": slack.ada}
        self.threads: dict[str, str] = {}
        """The ts of each thread's first message."""
        self._is_agent = is_agent

    def build(self, **changes: object) -> Channel:
        settings = slack_settings(
            self.slack, direct_messages="pairing", agent=self._is_agent, **changes
        )
        channel = QuickChannel(
            settings,
            lambda installations: SlackPlatform(
                installations, is_agent=self._is_agent, edit_interval=0.02, pace=fast()
            ),
        )
        channel.times = Times(poll=0.02, progress=0.05, retries=(0.02,) * 5)
        return channel

    def build_broken(self) -> Channel | None:
        self.slack.world.tokens[self.slack.bot_token].error = "invalid_auth"
        return self.build()

    async def connect(self, address: str) -> None:
        self.slack.request_urls = [f"{address.rstrip('/')}{EVENTS_PATH}"]

    async def disconnect(self) -> None:
        self.slack.request_urls = []

    async def say(
        self,
        text: str,
        *,
        person: str = "ada",
        thread: str = "t1",
        is_direct: bool = False,
        is_bot: bool = False,
        file: tuple[str, bytes] | None = None,
    ) -> None:
        slack, user = self.slack, self._person(person, is_bot=is_bot)
        files = [slack.file(user, *file)] if file else []
        if is_direct:
            await slack.say(slack.direct(user), user, text, files=files)
            return
        mention, root = f"<@{slack.bot_user}> {text}", self.threads.get(thread, "")
        ts = await slack.say(slack.general, user, mention, thread=root, files=files)
        self.threads.setdefault(thread, ts)

    def _person(self, name: str, *, is_bot: bool) -> str:
        if name not in self.people:
            user = self.slack.add_bot(name).user if is_bot else self.slack.add_user(name)
            self.slack.world.channels[self.slack.general].members.add(user)
            self.people[name] = user
        return self.people[name]

    async def redeliver(self) -> None:
        event = [each for each in self.slack.deliveries if each.event.get("type") == "message"][-1]
        await self.slack.send_forged(self.slack.request_urls[0], event.payload)

    def shown(self, thread: str = "t1", *, is_direct: bool = False) -> list[ShownMessage]:
        messages = [
            ShownMessage(plain(each.text), tuple(b.label for b in each.buttons), each.files)
            for each in self._messages(thread, is_direct=is_direct)
        ]
        if messages and not is_direct and self._has_native_stop(thread):
            last = messages.pop()
            messages.append(ShownMessage(last.text, ("Stop", *last.buttons), last.files))
        return messages

    def _has_native_stop(self, thread: str) -> bool:
        return self.slack.can_stop(self.slack.general, self.threads[thread])

    def _messages(self, thread: str, *, is_direct: bool) -> list[VisibleMessage]:
        slack = self.slack
        if is_direct:
            found = slack.conversation(slack.direct(slack.ada))
        else:
            root = self.threads.get(thread)
            found = slack.conversation(slack.general, root) if root else []
        return [each for each in found if each.user == slack.bot_user]

    async def press(self, label: str, *, person: str = "ada", thread: str = "t1") -> None:
        user = self.people[person]
        if label == "Stop" and self._has_native_stop(thread):
            await self.slack.stop(self.slack.general, self.threads[thread], user)
            return
        for message in reversed(self._messages(thread, is_direct=False)):
            for button in message.buttons:
                if button.label == label:
                    where = self.slack.general, message.ts, user, button.action_id
                    await self.slack.press(*where, value=button.value)
                    return
        raise LookupError(f"no button {label!r} is shown")

    def fail(self, fault: Fault, calls: int = 1) -> None:
        self.slack.faults.clear()
        self.slack.world.channels[self.slack.general].refusal = (
            "restricted_action" if fault == "refused" and calls else ""
        )
        for method in POSTS:
            for nth in range(1, calls + 1):
                if fault == "lost":
                    self.slack.faults.lose_response(method, nth=nth)
                elif fault == "down":
                    self.slack.faults.lose_request(method, nth=nth)
                elif fault == "limited":
                    self.slack.faults.rate_limit(method, nth=nth, retry_after=0)

    def mentions(self) -> int:
        return sum(len(each.mentions) for each in self._messages("t1", is_direct=False))


@pytest.fixture(params=[True, False], ids=["agent", "app"])
async def slack_channel(request: pytest.FixtureRequest) -> AsyncIterator[ChannelUnderTest]:
    async with FakeSlack() as slack:
        slack.rules.rate_limits = False
        slack.rules.file_seconds = 0.0
        slack.app.is_agent = request.param
        yield SlackUnderTest(slack, is_agent=request.param)


class TestSlack(ChannelConformance):
    @pytest.fixture
    async def channel(self, slack_channel: ChannelUnderTest) -> ChannelUnderTest:
        return slack_channel
