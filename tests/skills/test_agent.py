"""Conversations with the skill that acts, and with chat when it may call tools."""

from palaver import GenerationRequest, Skill, tool
from palaver.config.settings import (
    AgentSettings,
    RoutingSettings,
    Settings,
    SiteSettings,
    WidgetSettings,
)
from palaver.testing import ScriptedEngine, ScriptedReply, converse, tool_call
from palaver.testing.engine import Scripted
from palaver.visitors import visitor_person
from palaver_plugins.tools.arithmetic import calculate
from palaver_skills import prompts
from palaver_skills.agent import CANNOT_ACT, Agent
from palaver_skills.chat import Chat
from palaver_skills.qa import QA
from palaver_skills.summarization import Summarization
from palaver_skills.translation import Translation


@tool
async def send(to: str) -> str:
    """Send a letter."""
    return f"sent to {to}"


def settings(*tools: str) -> Settings:
    return Settings(agents=AgentSettings(tools=tools), routing=RoutingSettings(default="agent"))


async def test_it_uses_the_tools_of_the_settings() -> None:
    engine = ScriptedEngine(tool_call("send", to="Ada"), "Sent.")
    async with converse(
        Agent, engine=engine, tools=[send, calculate], settings=settings("send")
    ) as chat:
        reply = await chat.say("send it to Ada")
    assert reply == "Sent."
    assert [(use.name, use.result) for use in reply.tools] == [("send", "sent to Ada")]
    assert [definition.name for definition in engine.requests[0].tools] == ["send"]


async def test_without_a_setting_it_has_tools_that_only_read_and_the_other_skills() -> None:
    engine = ScriptedEngine("Hello.")
    async with converse(Agent, Translation, engine=engine, tools=[send, calculate]) as chat:
        await chat.say("hello", skill="agent")
    names = {definition.name for definition in engine.requests[0].tools}
    assert names == {"calculate", "translation"}


async def test_its_own_setting_goes_before_that_of_all_agents() -> None:
    engine = ScriptedEngine("Hello.")
    async with converse(
        Agent,
        engine=engine,
        tools=[send, calculate],
        settings=settings("send"),
        skill_settings={"tools": ["calculate"], "system": "Act.", "temperature": 0.5},
    ) as chat:
        await chat.say("hello")
    request = engine.requests[0]
    assert [definition.name for definition in request.tools] == ["calculate"]
    assert request.messages[0].content.startswith("Act.\n\n")
    assert request.sampling.temperature == 0.5


async def test_the_longest_text_of_a_step_is_a_setting() -> None:
    engine = ScriptedEngine("one two three four")
    skill_settings = {"max_tokens": 2, "tools": []}
    async with converse(Agent, engine=engine, skill_settings=skill_settings) as chat:
        assert await chat.say("count") == "one two"


async def test_an_engine_without_tools_is_explained() -> None:
    engine = ScriptedEngine(missing_capabilities=["tools", "json_schema"])
    async with converse(Agent, engine=engine) as chat:
        assert await chat.say("act") == CANNOT_ACT


async def test_chat_calls_the_enabled_tools_where_the_engine_can() -> None:
    engine = ScriptedEngine(tool_call("send", to="Ada"), "Sent.")
    enabled = Settings(
        agents=AgentSettings(tools=("send", "chat")), routing=RoutingSettings(default="chat")
    )
    async with converse(Chat, engine=engine, tools=[send], settings=enabled) as chat:
        reply = await chat.say("tell Ada that I am well")
    assert reply == "Sent."
    assert [definition.name for definition in engine.requests[0].tools] == ["send"]
    unable = ScriptedEngine("I cannot.", missing_capabilities=["tools", "json_schema"])
    async with converse(Chat, engine=unable, tools=[send], settings=enabled) as chat:
        assert await chat.say("tell Ada that I am well") == "I cannot."


TEXT = "The ship left the harbour at dawn. It carried tea. A storm came, and it turned back."
SUMMARY = "A ship with tea turned back in a storm."
FRENCH = "Un navire chargé de thé a fait demi-tour."


def plan(request: GenerationRequest) -> Scripted:
    """Answer as a model that summarizes, then translates the summary, then answers."""
    system = request.messages[0].content
    if system.startswith("Summarize"):
        return SUMMARY
    if system.startswith("Translate"):
        assert request.messages[-1].content == SUMMARY
        return FRENCH
    assert system.startswith(prompts.AGENT)
    done = [message.content for message in request.messages if message.role == "tool"]
    if not done:
        return ScriptedReply(
            text="First I summarize.", tool_calls=(tool_call("summarization", text=TEXT),)
        )
    if len(done) == 1:
        assert SUMMARY in done[0]
        return tool_call("translation", text=SUMMARY, target="French")
    return done[1].removeprefix("<result>\n").removesuffix("\n</result>")


async def test_summarize_this_and_translate_it_into_french_is_planned_visible_and_right() -> None:
    skills: tuple[type[Skill], ...] = (Agent, Summarization, Translation)
    async with converse(*skills, engine=ScriptedEngine(plan)) as chat:
        reply = await chat.say(
            f"Summarize this and translate it into French: {TEXT}", skill="agent"
        )
    assert reply == f"First I summarize.\n\n{FRENCH}"
    assert [(use.name, use.state, use.result) for use in reply.tools] == [
        ("summarization", "done", SUMMARY),
        ("translation", "done", FRENCH),
    ]


async def test_a_translation_without_a_language_asks_and_goes_on() -> None:
    def script(request: GenerationRequest) -> Scripted:
        if request.messages[0].content.startswith("Translate"):
            return FRENCH
        done = [message.content for message in request.messages if message.role == "tool"]
        return "Voilà." if done else tool_call("translation", text=SUMMARY)

    async with converse(Agent, Translation, engine=ScriptedEngine(script)) as chat:
        asked = await chat.say("translate my summary", skill="agent")
        assert asked.outcome == "asked"
        assert asked == "Into which language?"
        reply = await chat.say("French")
    assert reply == "Voilà."
    assert [(use.name, use.result) for use in reply.tools] == [("translation", FRENCH)]


async def test_a_visitor_of_a_site_reaches_no_skill_that_the_site_lacks() -> None:
    site = SiteSettings(
        key="pk_shop_1234567890",
        tenant="default",
        origins=("https://shop.example",),
        skills=("agent", "qa"),
    )
    for person, expected in (
        (visitor_person("default", "shop", "v"), {"calculate", "qa"}),
        ("alice", {"calculate", "qa", "translation"}),
    ):
        for names in ((), ("calculate", "qa", "translation")):
            engine = ScriptedEngine("Hello.")
            enabled = Settings(
                agents=AgentSettings(tools=names or None),
                routing=RoutingSettings(default="agent"),
                widget=WidgetSettings(sites={"shop": site}),
            )
            async with converse(
                *(Agent, QA, Translation),
                engine=engine,
                tools=[calculate],
                settings=enabled,
                person=person,
            ) as chat:
                assert await chat.say("hello", skill="agent") == "Hello."
            assert {tool.name for tool in engine.requests[0].tools} == expected
