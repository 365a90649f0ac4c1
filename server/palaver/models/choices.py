"""Choices of a model by a person, and the steps until it answers."""

from typing import Annotated, Literal

import msgspec

from palaver.models.servers import MAX_KEY, MAX_URL

Text = Annotated[str, msgspec.Meta(max_length=MAX_URL)]


class ServerChoice(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="server"):
    """A model of a server with the OpenAI API. Without ``model``, the only one that it lists."""

    url: Text
    model: Text = ""
    key: Annotated[str, msgspec.Meta(max_length=MAX_KEY)] = ""

    def __repr__(self) -> str:  # a key must not reach a log
        return f"ServerChoice(url={self.url!r}, model={self.model!r})"


class HubChoice(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="hub"):
    """A model of the hub, ``owner/model``, which is downloaded unless it is here already."""

    repository: Text
    revision: Text = ""


class PathChoice(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="path"):
    """A directory or file on the server's machine, which is used in place."""

    path: Text


class AddedChoice(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="added"):
    """A model that was added before, or is part of the installation, by its name."""

    name: Text


SetupChoice = ServerChoice | HubChoice | PathChoice | AddedChoice

SetupStep = Literal["looking", "downloading", "checking", "done", "restarting", "failed"]


class SetupProgress(msgspec.Struct, frozen=True, kw_only=True):
    """Where the connection of a chosen model is. ``done`` and ``total`` are bytes of a download.
    ``problem``: why it has failed, as a sentence."""

    step: SetupStep
    model: str = ""
    done: int = 0
    total: int = 0
    problem: str = ""


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """How a server was started: the settings file that it reads, and its ``--set`` flags."""

    settings_file: str
    overrides: tuple[str, ...] = ()


class SetupRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What the process gets that connects a model."""

    launch: Launch
    choice: SetupChoice
