"""Exports and erasures over HTTP: their quotas, and their stream."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest
from tests.server.web.live_server import LiveServer, open_live_server

from palaver.config.settings import AdmissionSettings, PersonSettings, TenantSettings
from palaver.ledger import EXPORT_BYTES, Export
from palaver.testing import MemoryLedger

MANY = PersonSettings(data_requests_per_minute=1_000)


def admission(**fields: object) -> AdmissionSettings:
    return AdmissionSettings(**{"person": MANY, **fields})


def refused(live: LiveServer, reason: str) -> bool:
    line = f'palaver_refusals_total{{reason="{reason}"}} 1.0'.encode()
    return line in live.server.metrics.exposition()


async def request(live: LiveServer, path: str, person: str) -> tuple[int, str | None]:
    method = live.session.post if path == "/v1/erase" else live.session.get
    async with method(live.url(f"{path}?person={person}")) as response:
        await response.read()
        return response.status, response.headers.get("Retry-After")


@pytest.mark.parametrize("path", ["/v1/export", "/v1/erase"])
async def test_a_person_has_a_quota_of_data_requests(path: str) -> None:
    quotas = admission(person=PersonSettings(data_requests_per_minute=3))
    async with open_live_server(admission=quotas) as live:
        statuses = [await request(live, path, "ada") for _ in range(3)]
        assert [status for status, _ in statuses] == [200] * 3
        status, retry_after = await request(live, path, "ada")
        assert status == 429
        assert 1 <= int(retry_after or 0) <= 20
        assert refused(live, "person_data_requests")
        assert (await request(live, path, "bob"))[0] == 200


@pytest.mark.parametrize("name", ["", "default"])
async def test_a_tenant_has_a_quota_of_data_requests(name: str) -> None:
    quota = TenantSettings(data_requests_per_minute=3)
    quotas = admission(tenants={name: quota}) if name else admission(tenant=quota)
    async with open_live_server(admission=quotas) as live:
        for person in ("ada", "bob", "eve"):
            assert (await request(live, "/v1/export", person))[0] == 200
        status, retry_after = await request(live, "/v1/export", "carl")
        assert status == 429
        assert retry_after is not None
        assert refused(live, "tenant_data_requests")


class WaitingLedger(MemoryLedger):
    """Ledger whose exports wait after their first part."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()

    async def export(self, tenant: str, person: str) -> AsyncGenerator[Export, None]:
        async for part in super().export(tenant, person):
            yield part
            await self.go_on.wait()


@pytest.mark.parametrize("limit", [1, 3])
async def test_no_more_data_requests_run_at_once_than_set(limit: int) -> None:
    ledger = WaitingLedger()
    async with open_live_server(
        admission=admission(max_data_requests=limit), ledger=ledger
    ) as live:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(limit):
                await stack.enter_async_context(live.session.get(live.url("/v1/export?person=ada")))
            assert await request(live, "/v1/export", "bob") == (503, "2")
            assert refused(live, "data_requests")
            assert (await request(live, "/v1/erase", "bob"))[0] == 503
            ledger.go_on.set()
        assert (await request(live, "/v1/export", "bob"))[0] == 200


async def test_a_large_export_arrives_whole() -> None:
    async with open_live_server() as live:
        for number in range(4):
            body = {"text": f"{number}" + "x" * (EXPORT_BYTES - 100_000), "person": "ada"}
            await live.post("/v1/conversations/t/messages?wait=true", body)
        status, export = await live.get("/v1/export?person=ada")
        assert status == 200
        entries = export["conversations"]["default/web/t"]
        assert [entry["text"][0] for entry in entries if entry["person"]] == list("0123")
        assert list(export) == list(Export.__struct_fields__)
