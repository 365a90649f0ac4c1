"""Consent of people to the use of what they say as training data. Without it, nothing is used."""

import time

from palaver.platforms.pairing import ApprovedPerson, Pairings
from palaver.records import RecordStore

EVERYONE = "*"
"""In place of a person: all people of a tenant. No person has this id."""
GIVEN, WITHDRAWN = "training-data", "no-training-data"
"""What the records of consents are under, as if each was a channel."""


class Consents:
    """Who has consented. What one person has said goes before what holds for everyone."""

    def __init__(self, records: RecordStore) -> None:
        self._given = Pairings(records, GIVEN)
        self._withdrawn = Pairings(records, WITHDRAWN)

    async def give(self, tenant: str, person: str) -> None:
        await self._withdrawn.forget(tenant, person)
        await self._given.allow(_named(tenant, person))

    async def withdraw(self, tenant: str, person: str) -> None:
        await self._given.forget(tenant, person)
        if person != EVERYONE:
            await self._withdrawn.allow(_named(tenant, person))

    async def has_consented(self, tenant: str, person: str) -> bool:
        if await self._withdrawn.find(tenant, person):
            return False
        own = await self._given.find(tenant, person)
        return bool(own or await self._given.find(tenant, EVERYONE))

    async def given(self, tenant: str) -> list[ApprovedPerson]:
        """Return who has consented in a tenant, with `EVERYONE` if that holds."""
        return [each for each in await self._given.people() if each.tenant == tenant]

    async def withdrawn(self, tenant: str) -> list[ApprovedPerson]:
        return [each for each in await self._withdrawn.people() if each.tenant == tenant]


def _named(tenant: str, person: str) -> ApprovedPerson:
    return ApprovedPerson(tenant=tenant, person=person, at=time.time())
