"""A lease has one owner among all servers."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from tests.proofs.virtual_time import run_in_virtual_time
from tests.server.platforms.stores import SteppedRecords, ledger_in_loop_time

from palaver.platforms.leases import Lease

SECONDS = 15.0


def now() -> float:
    return asyncio.get_running_loop().time()


def lease_on(records: Any) -> Lease:  # Any: a ledger or records
    return Lease(records, "board", "updates", seconds=SECONDS)


def in_virtual_time(main: Coroutine[Any, Any, None]) -> None:
    run_in_virtual_time(main)


def test_one_of_many_servers_gets_it() -> None:
    async def run() -> None:
        records = SteppedRecords()
        leases = [lease_on(records) for _ in range(5)]
        assert sum(await asyncio.gather(*[lease.try_acquire() for lease in leases])) == 1

    in_virtual_time(run())


def test_leases_of_other_names_and_channels_are_others() -> None:
    async def run() -> None:
        ledger = ledger_in_loop_time()
        for channel, name in (("board", "a"), ("board", "b"), ("wall", "a")):
            assert await Lease(ledger, channel, name).try_acquire()
        assert not await Lease(ledger, "wall", "a").try_acquire()

    in_virtual_time(run())


def test_a_lease_that_is_kept_is_nobody_elses() -> None:
    async def run() -> None:
        ledger = ledger_in_loop_time()
        owner, other = lease_on(ledger), lease_on(ledger)
        await owner.acquire()
        keeping = asyncio.create_task(owner.keep())
        waiting = asyncio.create_task(other.acquire())
        await asyncio.sleep(100 * SECONDS)
        assert not keeping.done()
        assert not waiting.done()
        keeping.cancel()
        await owner.release()
        released_at = now()
        await waiting
        assert now() <= released_at + SECONDS / 5

    in_virtual_time(run())


def test_the_lease_of_a_dead_server_ends() -> None:
    async def run() -> None:
        ledger = ledger_in_loop_time()
        await lease_on(ledger).acquire()
        await lease_on(ledger).acquire()
        assert SECONDS <= now() <= SECONDS * 1.2

    in_virtual_time(run())


@pytest.mark.parametrize("fault", ["is_away", "is_hanging"])
@pytest.mark.parametrize("since", [0.0, 1.0, 7.4, 100.0])
def test_an_owner_that_cannot_renew_stops_before_the_lease_ends(fault: str, since: float) -> None:
    async def run() -> None:
        ledger = ledger_in_loop_time()
        records = SteppedRecords(ledger)
        owner, other = lease_on(records), lease_on(ledger)
        await owner.acquire()
        keeping = asyncio.create_task(owner.keep())
        await asyncio.sleep(since)
        setattr(records, fault, True)
        waiting = asyncio.create_task(other.acquire())
        await keeping
        stopped_at = now()
        await waiting
        assert now() >= stopped_at + SECONDS / 5 - 0.001
        assert now() <= since + 1.4 * SECONDS

    in_virtual_time(run())


def test_an_owner_renews_again_when_the_ledger_is_back() -> None:
    async def run() -> None:
        records = SteppedRecords()
        owner = lease_on(records)
        await owner.acquire()
        keeping = asyncio.create_task(owner.keep())
        for _ in range(20):
            records.is_away = True
            await asyncio.sleep(SECONDS * 0.5)
            records.is_away = False
            await asyncio.sleep(SECONDS * 0.5)
        assert not keeping.done()
        keeping.cancel()

    in_virtual_time(run())


def test_an_owner_that_keeps_it_late_knows_when_it_ends() -> None:
    async def run() -> None:
        ledger = ledger_in_loop_time()
        records = SteppedRecords(ledger)
        owner = lease_on(records)
        await owner.acquire()
        records.is_away = True
        await asyncio.sleep(SECONDS * 0.75)
        await owner.keep()
        assert now() <= SECONDS * 0.8

    in_virtual_time(run())


def test_work_ends_when_the_lease_is_lost_and_the_next_owner_works() -> None:
    async def run() -> None:
        ledger = ledger_in_loop_time()
        records = SteppedRecords(ledger)
        log: list[str] = []

        async def work(name: str) -> None:
            log.append(f"{name} begins")
            try:
                await asyncio.Event().wait()
            finally:
                log.append(f"{name} ends")

        first = asyncio.create_task(lease_on(records).run(lambda: work("first")))
        await asyncio.sleep(1)
        second = asyncio.create_task(lease_on(ledger).run(lambda: work("second")))
        await asyncio.sleep(SECONDS)
        records.is_away = True
        await first
        assert log == ["first begins", "first ends"]
        await asyncio.sleep(SECONDS)
        assert log[2:] == ["second begins"]
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        assert log[3:] == ["second ends"]
        assert await lease_on(ledger).try_acquire()

    in_virtual_time(run())


def test_what_goes_wrong_in_the_work_is_raised_and_the_lease_released() -> None:
    async def run() -> None:
        ledger = ledger_in_loop_time()

        async def work() -> None:
            raise ValueError("broken")

        with pytest.raises(ValueError, match="broken"):
            await lease_on(ledger).run(work)
        assert await lease_on(ledger).try_acquire()

    in_virtual_time(run())
