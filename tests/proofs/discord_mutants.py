"""Mutants: the Discord channel, or what it stores, with one safeguard removed."""

import dataclasses
import itertools
from typing import Any

from tests.proofs.discord_replicas import ProofChannel, ReplicaLedger

from palaver.ledger import Receipt
from palaver.platforms import IncomingMessage, OutgoingPost
from palaver_plugins.channels.discord.platform import DiscordPlatform


class WithoutMarks(ReplicaLedger):
    """Mutant that does not know what it has seen, so that it reads nothing of what was missed."""

    async def _call(self, name: str, *args: Any, **options: Any) -> Any:
        if name == "read_record" and args[1].startswith("seen:"):
            return None
        if name == "list_records" and args[1] == "seen:":
            return ()
        return await super()._call(name, *args, **options)


class AnswersRepetitions(ProofChannel):
    """Mutant for which each delivery is another message."""

    _deliveries = itertools.count()

    async def receive(self, message: IncomingMessage) -> Receipt | None:
        self._recent.clear()
        id = f"{message.id}.{next(self._deliveries)}"
        return await super().receive(dataclasses.replace(message, id=id))


class BlindPlatform(DiscordPlatform):
    """Mutant that never finds what it has posted."""

    async def find(self, post: OutgoingPost) -> str:
        return ""


class PostsBlindly(ProofChannel):
    platform_class = BlindPlatform


class ForgetfulPlatform(DiscordPlatform):
    """Mutant that drops every edit that Discord does not take at once."""

    async def edit(self, post: OutgoingPost) -> None:
        try:
            await super().edit(post)
        except Exception:  # noqa: BLE001  that is its mistake
            pass


class DropsEdits(ProofChannel):
    platform_class = ForgetfulPlatform


class WithoutLeases(ReplicaLedger):
    """Mutant that writes to the outboxes of others."""

    async def _call(self, name: str, *args: Any, **options: Any) -> Any:
        if name == "write_record" and args[1].startswith("outbox:"):
            record = await self._ledger.read_record(args[0], args[1])
            options["expect"] = record.version if record else 0
        return await super()._call(name, *args, **options)
