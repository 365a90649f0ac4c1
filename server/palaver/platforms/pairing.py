"""Pairing: a stranger gets a code, and an operator who knows the person approves it.

The code proves nothing by itself: who approves it should have got it from the person. A code holds
for an hour, and few are open at once, so that nobody can fill the list.
"""

import contextlib
import hashlib
import secrets
import time
from collections.abc import Callable

import msgspec

from palaver.errors import Conflict, NotFound
from palaver.records import Record, RecordStore, all_records

CODE_LIFETIME = 3600.0
"""Seconds for which a code can be approved."""
MAX_OPEN_CODES = 20
"""Codes of a channel that wait for approval, in each tenant."""
_CODE_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
_CODE_LENGTH = 8
_REQUESTS, _PEOPLE = "pairing:", "person:"


class PairingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A person who waits for approval. ``at`` is in seconds since the epoch."""

    code: str
    tenant: str
    person: str
    at: float


class ApprovedPerson(msgspec.Struct, frozen=True, kw_only=True):
    """A person who may write direct messages. ``at`` is in seconds since the epoch."""

    tenant: str
    person: str
    at: float


Requests = list[PairingRequest]
_decode_requests = msgspec.json.Decoder(Requests).decode
_decode_person = msgspec.json.Decoder(ApprovedPerson).decode
_encode = msgspec.json.Encoder().encode


class Pairings:
    """The people of a channel who are approved or wait for it. Raises `LedgerUnavailable`.

    The requests of a tenant are one record, so that servers which change it at once agree; each
    approval is a record.
    """

    def __init__(
        self, records: RecordStore, channel: str, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._records = records
        self._channel = channel
        self._clock = clock

    async def request(self, tenant: str, person: str) -> str:
        """Return the person's code; empty while too many other people wait."""
        letters = [secrets.choice(_CODE_LETTERS) for _ in range(_CODE_LENGTH)]
        new = PairingRequest(code="".join(letters), tenant=tenant, person=person, at=self._clock())

        def add(requests: Requests) -> Requests:
            is_known = any(request.person == person for request in requests)
            return requests if is_known or len(requests) >= MAX_OPEN_CODES else [*requests, new]

        requests = await self._change(tenant, add)
        return next((request.code for request in requests if request.person == person), "")

    async def requests(self) -> Requests:
        """Return the people of all tenants who wait, the oldest first."""
        found: Requests = []
        async for record in all_records(self._records, self._channel, _REQUESTS):
            found += self._open(record)
        return sorted(found, key=lambda request: request.at)

    async def approve(self, code: str) -> ApprovedPerson:
        """Approve the person with a code. Raises `NotFound`."""
        code = code.strip().upper()
        request = next((each for each in await self.requests() if each.code == code), None)
        if request is None:
            raise NotFound(f"nobody waits for approval with the code {code[:20]!r}")
        approved = ApprovedPerson(tenant=request.tenant, person=request.person, at=self._clock())
        await self.allow(approved)
        await self._withdraw(request.tenant, request.person)
        return approved

    async def allow(self, person: ApprovedPerson) -> None:
        """Approve a person without a code."""
        key = _person_key(person.tenant, person.person)
        try:
            await self._records.write_record(self._channel, key, _encode(person), expect=0)
        except Conflict:
            pass  # approved already

    async def find(self, tenant: str, person: str) -> ApprovedPerson | None:
        """Return a person's approval, None when there is none."""
        record = await self._read(_person_key(tenant, person))
        return None if record is None else _decode_person(record.value)

    async def people(self) -> list[ApprovedPerson]:
        """Return the people of all tenants who are approved, the newest first."""
        found = all_records(self._records, self._channel, _PEOPLE)
        people = [_decode_person(record.value) async for record in found]
        return sorted(people, key=lambda person: -person.at)

    async def revoke(self, tenant: str, person: str) -> ApprovedPerson:
        """Withdraw an approval and return it. Raises `NotFound`."""
        record = await self._read(_person_key(tenant, person))
        if record is None:
            raise NotFound(f"the person {person[:100]!r} of the tenant {tenant!r} is not approved")
        try:
            await self._records.delete_record(self._channel, record.key, expect=record.version)
        except Conflict:
            pass  # another server has deleted it
        return _decode_person(record.value)

    async def forget(self, tenant: str, person: str) -> None:
        """Delete everything about a person."""
        with contextlib.suppress(NotFound):
            await self.revoke(tenant, person)
        await self._withdraw(tenant, person)

    async def _withdraw(self, tenant: str, person: str) -> None:
        """Delete a person's request."""

        def remove(requests: Requests) -> Requests:
            return [request for request in requests if request.person != person]

        await self._change(tenant, remove)

    async def _change(self, tenant: str, change: Callable[[Requests], Requests]) -> Requests:
        """Change the open requests of a tenant and return them; those that are too old go."""
        key = _REQUESTS + key_digest(tenant)
        while True:
            record = await self._read(key)
            before = _decode_requests(record.value) if record else []
            requests = change(self._open(record) if record else [])
            if requests == before:
                return requests
            expect = record.version if record else 0
            try:
                if requests:
                    value = _encode(requests)
                    await self._records.write_record(self._channel, key, value, expect=expect)
                else:
                    await self._records.delete_record(self._channel, key, expect=expect)
            except Conflict:
                continue  # another server has changed it
            return requests

    def _open(self, record: Record) -> Requests:
        """Return the requests of a record that are not too old."""
        since = self._clock() - CODE_LIFETIME
        return [request for request in _decode_requests(record.value) if request.at > since]

    async def _read(self, key: str) -> Record | None:
        return await self._records.read_record(self._channel, key)


def _person_key(tenant: str, person: str) -> str:
    return _PEOPLE + key_digest(f"{tenant}/{person}")


def key_digest(text: str) -> str:
    """Return a digest of a text for the key of a record, which takes few characters."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]
