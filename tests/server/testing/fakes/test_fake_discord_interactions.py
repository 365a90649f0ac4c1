"""Commands, buttons and menus of the fake Discord, used by discord.py."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import discord
import pytest
import pytest_asyncio
from discord import app_commands
from tests.server.testing.fakes.discord_bot import Bot, connected, until

from palaver.testing.fakes.clock import FakeClock
from palaver.testing.fakes.discord import (
    DiscordChannel,
    DiscordFile,
    DiscordLimits,
    DiscordUser,
    FakeDiscord,
    NotShown,
)

pytestmark = pytest.mark.slow

Interaction = discord.Interaction[Any]


@pytest_asyncio.fixture
async def fake() -> AsyncIterator[FakeDiscord]:
    clock, limits = FakeClock(), DiscordLimits.generous()
    async with FakeDiscord(clock=clock, limits=limits) as fake:
        yield fake


@pytest.fixture
def ada(fake: FakeDiscord) -> DiscordUser:
    return fake.add_user("Ada")


@pytest.fixture
def general(fake: FakeDiscord) -> DiscordChannel:
    return fake.add_channel("general")


class Buttons(discord.ui.View):
    """A button that does what the test says, and a menu."""

    def __init__(self, press: Callable[[Interaction], Awaitable[object]]) -> None:
        super().__init__(timeout=None)
        self.do_press = press
        self.chosen: list[str] = []

    @discord.ui.button(label="Stop", custom_id="stop")
    async def stop_button(self, interaction: Interaction, button: object) -> None:
        await self.do_press(interaction)

    @discord.ui.select(
        placeholder="Which?",
        custom_id="which",
        options=[discord.SelectOption(label="First", value="1"), discord.SelectOption(label="2nd")],
    )
    async def menu(self, interaction: Interaction, select: discord.ui.Select[Any]) -> None:
        self.chosen = select.values
        await interaction.response.defer()


async def show(bot: Bot, channel: DiscordChannel, view: discord.ui.View) -> None:
    found = bot.get_channel(channel.id)
    assert isinstance(found, discord.TextChannel)
    await found.send("Look", view=view)


async def register(bot: Bot, command: "app_commands.Command[Any, Any, Any]") -> None:
    tree = app_commands.CommandTree(bot)
    tree.add_command(command)
    await tree.sync()


async def test_a_button_edits_its_message(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    async def press(interaction: Interaction) -> None:
        await interaction.response.edit_message(content="Stopped", view=None)

    async with connected(fake) as bot:
        await show(bot, general, Buttons(press))
        (message,) = fake.conversation(general)
        interaction = await fake.press(message, ada, "Stop")
        await until(interaction.answered.is_set)
    assert interaction.status == "answered"
    assert (message.content, message.components) == ("Stopped", [])


async def test_an_ephemeral_answer_is_seen_by_one_person(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    async def press(interaction: Interaction) -> None:
        await interaction.response.send_message("Only you", ephemeral=True)
        await interaction.followup.send("Everybody")

    bob = fake.add_user("Bob")
    async with connected(fake) as bot:
        await show(bot, general, Buttons(press))
        await fake.press(fake.conversation(general)[0], ada, "stop")
        await until(lambda: len(fake.conversation(general)) == 2)

    def seen(user: DiscordUser | None) -> list[str]:
        return [message.content for message in fake.conversation(general, seen_by=user)]

    assert seen(ada) == ["Look", "Only you", "Everybody"]
    assert seen(bob) == seen(None) == ["Look", "Everybody"]


async def test_a_menu(fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser) -> None:
    view = Buttons(lambda _: asyncio.sleep(0))
    async with connected(fake) as bot:
        await show(bot, general, view)
        (message,) = fake.conversation(general)
        with pytest.raises(NotShown, match="'Third' is not among"):
            await fake.choose(message, ada, "which", "Third")
        interaction = await fake.choose(message, ada, "Which?", "First")
        await until(interaction.answered.is_set)
    assert view.chosen == ["1"]


async def test_people_can_use_only_what_they_see(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    view = Buttons(lambda _: asyncio.sleep(0))
    view.stop_button.disabled = True
    async with connected(fake) as bot:
        await show(bot, general, view)
        (message,) = fake.conversation(general)
        with pytest.raises(NotShown, match="disabled"):
            await fake.press(message, ada, "Stop")
        with pytest.raises(NotShown, match="'Go' is not among"):
            await fake.press(message, ada, "Go")
        await fake.delete(message)
        with pytest.raises(NotShown, match="does not see the message"):
            await fake.press(message, ada, "Stop")


async def test_a_slash_command_with_options(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    @app_commands.command(description="Translate a text")
    async def translate(
        interaction: Interaction, text: str, to: discord.Member, file: discord.Attachment
    ) -> None:
        content = (await file.read()).decode()
        await interaction.response.send_message(f"{text} for {to.display_name}: {content}")

    async with connected(fake) as bot:
        with pytest.raises(NotShown, match="no command 'translate' is registered"):
            await fake.command(general, ada, "translate", text="Hallo")
        await register(bot, translate)
        with pytest.raises(NotShown, match="has the options"):
            await fake.command(general, ada, "translate", text="Hallo")
        file = DiscordFile("a.txt", b"x")
        await fake.command(general, ada, "translate", text="Hallo", to=ada, file=file)
        await until(lambda: fake.conversation(general))
    (message,) = fake.conversation(general)
    assert message.content == "Hallo for Ada: x"
    assert message.author is fake.bot


async def test_commands_of_a_group_and_autocompletion(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    group = app_commands.Group(name="skill", description="Skills")
    used: list[str] = []

    @group.command(description="Use a skill")
    async def use(interaction: Interaction, name: str) -> None:
        used.append(name)
        await interaction.response.send_message("ok")

    @use.autocomplete("name")
    async def complete(interaction: Interaction, current: str) -> list[app_commands.Choice[str]]:
        return [app_commands.Choice(name=current + "t", value="chat")]

    async with connected(fake) as bot:
        tree = app_commands.CommandTree(bot)
        tree.add_command(group)
        await tree.sync()
        completing = await fake.complete(general, ada, "skill use", "name", "cha")
        await until(completing.answered.is_set)
        assert completing.choices == [{"name": "chat", "value": "chat"}]
        await fake.command(general, ada, "skill use", name="chat")
        await until(lambda: used == ["chat"])


async def test_a_deferred_answer_is_thinking_until_it_is_edited(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    go = asyncio.Event()

    @app_commands.command(description="Ask")
    async def ask(interaction: Interaction) -> None:
        await interaction.response.defer(thinking=True)
        await go.wait()
        await interaction.edit_original_response(content="42")

    async with connected(fake) as bot:
        await register(bot, ask)
        interaction = await fake.command(general, ada, "ask")
        await until(interaction.answered.is_set)
        (message,) = fake.conversation(general)
        assert (interaction.status, message.is_loading) == ("thinking", True)
        go.set()
        await until(lambda: message.content == "42")
    assert (interaction.status, message.is_loading) == ("answered", False)


async def test_the_first_followup_fills_the_thinking_message(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    @app_commands.command(description="Ask")
    async def ask(interaction: Interaction) -> None:
        await interaction.response.defer(thinking=True, ephemeral=True)
        await interaction.followup.send("one")
        await interaction.followup.send("two")

    async with connected(fake) as bot:
        await register(bot, ask)
        await fake.command(general, ada, "ask")
        await until(lambda: len(fake.conversation(general, seen_by=ada)) == 2)
    shown = fake.conversation(general, seen_by=ada)
    assert [message.content for message in shown] == ["one", "two"]
    assert [message.visible_to for message in shown] == [ada, None]


async def wait_for_interaction(
    fake: FakeDiscord, bot: Bot, channel: DiscordChannel, user: DiscordUser
) -> Interaction:
    """Press a button whose interaction the test answers itself."""
    await show(bot, channel, Buttons(lambda _: asyncio.sleep(0)))
    await fake.press(fake.conversation(channel)[-1], user, "Stop")
    await until(lambda: bot.interactions)
    return bot.interactions[-1]


async def test_an_answer_after_three_seconds_is_refused(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    async with connected(fake) as bot:
        interaction = await wait_for_interaction(fake, bot, general, ada)
        (opened,) = fake.interactions.by_token.values()
        waiting = opened.status
        fake.clock.advance(3.1)
        assert (waiting, opened.status) == ("waiting", "failed")
        with pytest.raises(discord.NotFound, match="10062"):
            await interaction.response.send_message("too late")
        with pytest.raises(discord.HTTPException, match="50027"):
            await interaction.followup.send("too late as well")


async def test_a_second_answer_is_refused(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    async with connected(fake) as bot:
        interaction = await wait_for_interaction(fake, bot, general, ada)
        with pytest.raises(discord.NotFound, match="10015"):
            await interaction.followup.send("before the answer")
        await interaction.response.send_message("one")
        again = discord.Interaction(data=bot_payload(fake), state=bot._connection)
        with pytest.raises(discord.HTTPException, match="40060"):
            await again.response.send_message("two")


def bot_payload(fake: FakeDiscord) -> Any:
    """Return the interaction as another replica gets it."""
    (interaction,) = fake.interactions.by_token.values()
    return fake.interactions.payload(interaction)


async def test_the_token_expires_after_fifteen_minutes(
    fake: FakeDiscord, general: DiscordChannel, ada: DiscordUser
) -> None:
    async with connected(fake) as bot:
        interaction = await wait_for_interaction(fake, bot, general, ada)
        await interaction.response.send_message("one")
        sent = await interaction.original_response()
        fake.clock.advance(901)
        with pytest.raises(discord.HTTPException, match="50027"):
            await interaction.edit_original_response(content="two")
        channel = bot.get_channel(general.id)
        assert isinstance(channel, discord.TextChannel)
        await channel.get_partial_message(sent.id).edit(content="by the bot's token")
    assert fake.conversation(general)[-1].content == "by the bot's token"


async def test_a_direct_command(fake: FakeDiscord, ada: DiscordUser) -> None:
    @app_commands.command(description="Ask")
    async def ask(interaction: Interaction) -> None:
        assert isinstance(interaction.channel, discord.DMChannel)
        await interaction.response.send_message(f"Hello {interaction.user.display_name}")

    async with connected(fake) as bot:
        await register(bot, ask)
        direct = fake.open_direct(ada)
        await fake.command(direct, ada, "ask")
        await until(lambda: fake.conversation(direct))
    assert fake.conversation(direct)[0].content == "Hello Ada"
