"""Bodies of requests that a fake Discord takes, and how it refuses others."""

import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from palaver.testing.fakes.discord.components import Form, TopLevel
from palaver.testing.fakes.discord.errors import Refusal
from palaver.testing.fakes.discord.objects import JSON

FormType = TypeVar("FormType", bound=Form)


def parse_snowflake(value: Any) -> int:
    """Return an id; Discord takes it as a number or as a text of digits."""
    if isinstance(value, int) or (isinstance(value, str) and re.fullmatch(r"[0-9]{1,20}", value)):
        return int(value)
    raise ValueError("is not a snowflake")


Snowflake = Annotated[int, BeforeValidator(parse_snowflake)]


class AllowedMentions(Form):
    parse: list[Literal["users", "roles", "everyone"]] | None = None
    users: list[Snowflake] = Field([], max_length=100)
    roles: list[Snowflake] = Field([], max_length=100)
    replied_user: bool = False

    @model_validator(mode="after")
    def check_exclusion(self) -> "AllowedMentions":
        parsed = self.parse or []
        if (self.users and "users" in parsed) or (self.roles and "roles" in parsed):
            raise ValueError("parse and a list of ids exclude each other")
        return self


class AttachmentForm(Form):
    id: Snowflake
    filename: str | None = None
    description: str | None = Field(None, max_length=1024)
    title: str | None = None
    duration_secs: float | None = None
    waveform: str | None = None
    spoiler: bool | None = None
    # What a library sends back of an attachment that an edit keeps.
    size: int | None = None
    url: str | None = None
    proxy_url: str | None = None
    content_type: str | None = None
    height: int | None = None
    width: int | None = None
    flags: int | None = None


class ReferenceForm(Form):
    type: Literal[0, 1] = 0
    message_id: Snowflake
    channel_id: Snowflake | None = None
    guild_id: Snowflake | None = None
    fail_if_not_exists: bool = True


class EmbedFooter(Form):
    text: str = Field(max_length=2048)
    icon_url: str | None = None


class EmbedMedia(Form):
    url: str


class EmbedAuthor(Form):
    name: str = Field(max_length=256)
    url: str | None = None
    icon_url: str | None = None


class EmbedField(Form):
    name: str = Field(min_length=1, max_length=256)
    value: str = Field(min_length=1, max_length=1024)
    inline: bool = False


class Embed(Form):
    type: str = "rich"
    title: str | None = Field(None, max_length=256)
    description: str | None = Field(None, max_length=4096)
    url: str | None = None
    timestamp: str | None = None
    color: int | None = None
    footer: EmbedFooter | None = None
    image: EmbedMedia | None = None
    thumbnail: EmbedMedia | None = None
    author: EmbedAuthor | None = None
    fields: list[EmbedField] = Field([], max_length=25)
    flags: int | None = None


class MessageForm(Form):
    """What every way to write a message takes."""

    content: str | None = None
    embeds: list[Embed] | None = Field(None, max_length=10)
    components: list[TopLevel] | None = None
    attachments: list[AttachmentForm] | None = Field(None, max_length=10)
    allowed_mentions: AllowedMentions | None = None
    flags: int | None = None
    tts: bool = False


class CreateMessage(MessageForm):
    nonce: Annotated[str, Field(max_length=25)] | int | None = None
    enforce_nonce: bool = False
    message_reference: ReferenceForm | None = None


class EditMessage(MessageForm):
    pass


class WebhookMessage(MessageForm):
    """A message by a webhook. It knows no nonce."""

    username: str | None = Field(None, max_length=80)
    avatar_url: str | None = None


class StartThread(Form):
    name: str = Field(min_length=1, max_length=100)
    auto_archive_duration: Literal[60, 1440, 4320, 10080] = 1440
    rate_limit_per_user: int | None = Field(None, ge=0, le=21600)
    type: Literal[10, 11, 12] = 12
    invitable: bool = True


class EditChannel(Form):
    name: str | None = Field(None, min_length=1, max_length=100)
    archived: bool | None = None
    locked: bool | None = None
    auto_archive_duration: Literal[60, 1440, 4320, 10080] | None = None
    invitable: bool | None = None


class OpenDirect(Form):
    recipient_id: Snowflake


class Choice(Form):
    name: str = Field(min_length=1, max_length=100)
    name_localizations: dict[str, str] | None = None
    value: str | int | float


class CommandOption(Form):
    type: int = Field(ge=1, le=11)
    name: str = Field(pattern=r"^[-_\w]{1,32}$")
    name_localizations: dict[str, str] | None = None
    description: str = Field(min_length=1, max_length=100)
    description_localizations: dict[str, str] | None = None
    required: bool = False
    choices: list[Choice] | None = Field(None, max_length=25)
    options: list["CommandOption"] | None = Field(None, max_length=25)
    channel_types: list[int] | None = None
    min_value: int | float | None = None
    max_value: int | float | None = None
    min_length: int | None = Field(None, ge=0, le=6000)
    max_length: int | None = Field(None, ge=1, le=6000)
    autocomplete: bool = False


class Command(Form):
    """An application command: a slash command (type 1), or one of a menu of people or messages."""

    id: Snowflake | None = None
    name: str = Field(min_length=1, max_length=32)
    name_localizations: dict[str, str] | None = None
    description: str = Field("", max_length=100)
    description_localizations: dict[str, str] | None = None
    options: list[CommandOption] = Field([], max_length=25)
    type: Literal[1, 2, 3] = 1
    nsfw: bool = False
    dm_permission: bool | None = None
    default_permission: bool | None = None
    default_member_permissions: str | int | None = None
    contexts: list[int] | None = None
    integration_types: list[int] | None = None

    @model_validator(mode="after")
    def check_name(self) -> "Command":
        if self.type == 1 and (
            not re.fullmatch(r"[-_\w]{1,32}", self.name) or self.name != self.name.lower()
        ):
            raise ValueError("name of a slash command: 1-32 letters, digits, - or _, lower case")
        if (self.type == 1) != bool(self.description):
            raise ValueError("slash commands alone have a description")
        return self


class CallbackData(MessageForm):
    choices: list[Choice] | None = Field(None, max_length=25)


class Callback(Form):
    type: Literal[4, 5, 6, 7, 8]
    data: CallbackData | None = None


class UnknownFields(Exception):
    """A body has fields that the fake does not know."""

    def __init__(self, fields: list[str]) -> None:
        super().__init__(", ".join(fields))
        self.fields = fields


def parse_form(form: type[FormType], body: Any) -> FormType:
    """Return the body as a form, or raise `UnknownFields` or a refusal that names each field."""
    try:
        return form.model_validate(body)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
    unknown = [format_path(p["loc"]) for p in problems if p["type"] == "extra_forbidden"]
    if unknown:
        raise UnknownFields(unknown)
    errors: JSON = {}
    for problem in problems:
        place = errors
        for part in problem["loc"]:
            place = place.setdefault(str(part), {})
        entry = {"code": problem["type"].upper(), "message": problem["msg"]}
        place.setdefault("_errors", []).append(entry)
    raise Refusal(50035, errors=errors)


def format_path(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location)
