"""Components of messages as the API of a fake Discord takes them: rows, buttons, select menus, and
those of version 2."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from palaver.testing.fakes.discord.objects import JSON

ROW, BUTTON, STRING_SELECT, SECTION, TEXT_DISPLAY, CONTAINER = 1, 2, 3, 9, 10, 17
VERSION_1 = (ROW,)
LINK = 5


class Form(BaseModel):
    """A part of a request. An unknown field is an error."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Emoji(Form):
    id: str | int | None = None
    name: str | None = None
    animated: bool = False


class Component(Form):
    id: int | None = None


class Button(Component):
    type: Literal[2]
    style: Literal[1, 2, 3, 4, 5]
    label: str | None = Field(None, max_length=80)
    emoji: Emoji | None = None
    custom_id: str | None = Field(None, min_length=1, max_length=100)
    url: str | None = Field(None, max_length=512)
    disabled: bool = False

    @model_validator(mode="after")
    def check_target(self) -> "Button":
        if (self.style == LINK) != bool(self.url) or bool(self.url) == bool(self.custom_id):
            raise ValueError("a button has a custom_id, or a link button a url")
        if not self.label and not self.emoji:
            raise ValueError("a button needs a label or an emoji")
        return self


class SelectOption(Form):
    label: str = Field(min_length=1, max_length=100)
    value: str = Field(min_length=1, max_length=100)
    description: str | None = Field(None, max_length=100)
    emoji: Emoji | None = None
    default: bool = False


class Select(Component):
    custom_id: str = Field(min_length=1, max_length=100)
    placeholder: str | None = Field(None, max_length=150)
    min_values: int = Field(1, ge=0, le=25)
    max_values: int = Field(1, ge=1, le=25)
    disabled: bool = False
    required: bool = True


class StringSelect(Select):
    type: Literal[3]
    options: list[SelectOption] = Field(min_length=1, max_length=25)

    @model_validator(mode="after")
    def check_values(self) -> "StringSelect":
        values = [option.value for option in self.options]
        if len(set(values)) < len(values):
            raise ValueError("values of options must be unique")
        if not self.min_values <= self.max_values <= len(values):
            raise ValueError("more values than options")
        return self


class EntitySelect(Select):
    type: Literal[5, 6, 7, 8]
    channel_types: list[int] | None = None
    default_values: list[JSON] | None = None


class Row(Component):
    type: Literal[1]
    components: list[Annotated[Button | StringSelect | EntitySelect, Field(discriminator="type")]]

    @model_validator(mode="after")
    def check_width(self) -> "Row":
        selects = sum(component.type != BUTTON for component in self.components)
        if not 1 <= len(self.components) <= (1 if selects else 5):
            raise ValueError("a row has one to five buttons or one select menu")
        return self


class TextDisplay(Component):
    type: Literal[10]
    content: str = Field(min_length=1)


class Media(Form):
    url: str = Field(max_length=2048)


class Thumbnail(Component):
    type: Literal[11]
    media: Media
    description: str | None = Field(None, max_length=1024)
    spoiler: bool = False


class GalleryItem(Form):
    media: Media
    description: str | None = Field(None, max_length=1024)
    spoiler: bool = False


class Gallery(Component):
    type: Literal[12]
    items: list[GalleryItem] = Field(min_length=1, max_length=10)


class FileComponent(Component):
    type: Literal[13]
    file: Media
    spoiler: bool = False


class Separator(Component):
    type: Literal[14]
    divider: bool = True
    spacing: Literal[1, 2] = 1


class Section(Component):
    type: Literal[9]
    components: list[TextDisplay] = Field(min_length=1, max_length=3)
    accessory: Annotated[Button | Thumbnail, Field(discriminator="type")]


Part = Annotated[
    Row | TextDisplay | Section | Gallery | FileComponent | Separator, Field(discriminator="type")
]


class Container(Component):
    type: Literal[17]
    components: list[Part] = Field(min_length=1)
    accent_color: int | None = Field(None, ge=0, le=0xFFFFFF)
    spoiler: bool = False


TopLevel = Annotated[
    Row | TextDisplay | Section | Gallery | FileComponent | Separator | Container,
    Field(discriminator="type"),
]


def iterate_components(components: list[Any]) -> Iterator[JSON]:
    """Yield every component, with those inside of others."""
    for component in components:
        yield component
        yield from iterate_components(component.get("components", []))
        if "accessory" in component:
            yield component["accessory"]


def find_displays(components: list[JSON]) -> list[str]:
    """Return the texts of the displays (components of version 2)."""
    return [c["content"] for c in iterate_components(components) if c["type"] == TEXT_DISPLAY]
