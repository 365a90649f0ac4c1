"""A stranger gets a code, and an operator approves it."""

import asyncio
import re

import pytest
from tests.server.platforms.stores import SteppedRecords

from palaver.errors import NotFound
from palaver.platforms.pairing import CODE_LIFETIME, MAX_OPEN_CODES, ApprovedPerson, Pairings
from palaver.records import MAX_RECORDS
from palaver.testing import MemoryLedger


class Clock:
    """Clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def servers(count: int) -> tuple[Clock, SteppedRecords, list[Pairings]]:
    """Return the pairings of some servers on one ledger."""
    clock, records = Clock(), SteppedRecords(MemoryLedger())
    return clock, records, [Pairings(records, "board", clock=clock) for _ in range(count)]


async def test_a_person_with_a_code_is_approved() -> None:
    _, _, (here, there) = servers(2)
    code = await here.request("acme", "board.ada")
    assert re.fullmatch("[A-Z2-9]{8}", code)
    assert [(each.tenant, each.person) for each in await there.requests()] == [
        ("acme", "board.ada")
    ]
    approved = await there.approve(f" {code.lower()}\n")
    assert (approved.tenant, approved.person) == ("acme", "board.ada")
    assert await here.find("acme", "board.ada") == approved
    assert await here.people() == [approved]
    assert await here.requests() == []
    with pytest.raises(NotFound):
        await here.approve(code)


async def test_other_tenants_and_channels_are_others() -> None:
    _, records, (here,) = servers(1)
    await here.approve(await here.request("acme", "board.ada"))
    assert await here.find("other", "board.ada") is None
    assert await Pairings(records, "wall").find("acme", "board.ada") is None
    with pytest.raises(NotFound):
        await here.revoke("other", "board.ada")


async def test_who_asks_again_has_the_same_code() -> None:
    clock, _, (here, there) = servers(2)
    code = await here.request("acme", "board.ada")
    clock.now += CODE_LIFETIME - 1
    assert await there.request("acme", "board.ada") == code
    assert len(await here.requests()) == 1


async def test_servers_agree_on_one_code() -> None:
    _, _, pairings = servers(8)
    codes = await asyncio.gather(*[each.request("acme", "board.ada") for each in pairings])
    assert len(set(codes)) == 1
    assert len(await pairings[0].requests()) == 1


async def test_a_code_that_is_too_old_is_nothing() -> None:
    clock, _, (here,) = servers(1)
    code = await here.request("acme", "board.ada")
    clock.now += CODE_LIFETIME
    assert await here.requests() == []
    with pytest.raises(NotFound):
        await here.approve(code)
    assert await here.request("acme", "board.ada") not in ("", code)


async def test_the_list_is_never_longer_than_allowed() -> None:
    clock, _, pairings = servers(4)
    people = [f"board.{number}" for number in range(3 * MAX_OPEN_CODES)]
    codes = await asyncio.gather(
        *[pairings[number % 4].request("acme", person) for number, person in enumerate(people)]
    )
    here = pairings[0]
    assert len(list(filter(None, codes))) == len(await here.requests()) == MAX_OPEN_CODES
    assert await here.request("other", "board.ada")  # a tenant fills only its own list
    refused = people[codes.index("")]
    assert await here.request("acme", refused) == ""
    await here.approve(next(filter(None, codes)))
    assert await here.request("acme", refused)
    clock.now += CODE_LIFETIME
    assert await here.request("acme", "board.last")
    assert len(await here.requests()) == 1


async def test_those_who_wait_are_listed_in_their_order() -> None:
    clock, _, (here,) = servers(1)
    for number in range(5):
        clock.now += 1
        await here.request(f"tenant-{number % 2}", f"board.{number}")
    assert [each.person for each in await here.requests()] == [f"board.{n}" for n in range(5)]


async def test_all_people_are_listed_the_newest_first() -> None:
    _, _, (here,) = servers(1)
    count = MAX_RECORDS * 2 + 1
    for number in range(count):
        await here.allow(ApprovedPerson(tenant="acme", person=f"board.{number}", at=number))
    people = await here.people()
    assert [each.at for each in people] == sorted(range(count), reverse=True)


async def test_an_approval_is_given_once() -> None:
    clock, _, pairings = servers(4)
    code = await pairings[0].request("acme", "board.ada")
    approved = await asyncio.gather(
        *[each.approve(code) for each in pairings], return_exceptions=True
    )
    assert any(isinstance(each, ApprovedPerson) for each in approved)
    assert all(isinstance(each, ApprovedPerson | NotFound) for each in approved)
    assert len(await pairings[0].people()) == 1
    clock.now += 1
    await pairings[0].allow(ApprovedPerson(tenant="acme", person="board.ada", at=clock.now))
    assert (await pairings[0].people())[0].at < clock.now


async def test_an_approval_is_withdrawn_once() -> None:
    _, _, (here, there) = servers(2)
    await here.allow(ApprovedPerson(tenant="acme", person="board.ada", at=1.0))
    results = await asyncio.gather(
        here.revoke("acme", "board.ada"), there.revoke("acme", "board.ada"), return_exceptions=True
    )
    assert any(isinstance(each, ApprovedPerson) for each in results)
    assert await here.find("acme", "board.ada") is None
    with pytest.raises(NotFound, match=r"'board\.ada' of the tenant 'acme' is not approved"):
        await here.revoke("acme", "board.ada")


async def test_a_person_is_forgotten() -> None:
    _, records, (here,) = servers(1)
    await here.allow(ApprovedPerson(tenant="acme", person="board.ada", at=1.0))
    await here.request("acme", "board.ada")
    code = await here.request("acme", "board.bob")
    await here.forget("acme", "board.ada")
    await here.forget("acme", "board.nobody")
    assert [each.code for each in await here.requests()] == [code]
    await here.forget("acme", "board.bob")
    assert await records.list_records("board") == ()
