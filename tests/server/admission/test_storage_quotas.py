"""Storage quotas over HTTP: what a client that has used them up sees."""

import pytest
from tests.server.web.live_server import LiveServer, open_live_server

from palaver.config.settings import AdmissionSettings, PersonSettings, TenantSettings

LIMITS = [("stored_bytes", 2_000), ("conversations", 2)]


async def send(live: LiveServer, thread: str, person: str, text: str = "hi") -> tuple[int, str]:
    body = {"text": text, "person": person}
    status, answer = await live.post(f"/v1/conversations/{thread}/messages?wait=true", body)
    return status, answer["error"]["message"] if status != 200 else ""


async def fill(live: LiveServer, limit: str, person: str) -> None:
    """Use up a quota."""
    if limit == "stored_bytes":
        assert (await send(live, person, person, "x" * 1_700))[0] == 200
    else:
        for number in range(2):
            assert (await send(live, f"{person}-{number}", person))[0] == 200


def refused(live: LiveServer, reason: str) -> bool:
    line = f'palaver_refusals_total{{reason="{reason}"}} 1.0'.encode()
    return line in live.server.metrics.exposition()


@pytest.mark.parametrize(("limit", "value"), LIMITS)
async def test_a_person_has_a_quota(limit: str, value: int) -> None:
    admission = AdmissionSettings(person=PersonSettings(**{limit: value}))
    async with open_live_server(admission=admission) as live:
        await fill(live, limit, "ada")
        status, message = await send(live, "new", "ada", "x" * 200)
        assert status == 429
        assert f"admission.person.{limit}" in message
        assert refused(live, f"person_{limit}")
        assert (await send(live, "other", "bob"))[0] == 200
        await live.post("/v1/erase?person=ada")
        assert (await send(live, "newer", "ada"))[0] == 200


@pytest.mark.parametrize("name", ["", "default"])
@pytest.mark.parametrize(("limit", "value"), LIMITS)
async def test_a_tenant_has_a_quota(limit: str, value: int, name: str) -> None:
    quota = TenantSettings(**{limit: value})
    admission = (
        AdmissionSettings(tenants={name: quota}) if name else AdmissionSettings(tenant=quota)
    )
    async with open_live_server(admission=admission) as live:
        await fill(live, limit, "ada")
        status, message = await send(live, "new", "bob", "x" * 200)
        assert status == 429
        assert f"admission.tenant.{limit}" in message
        assert refused(live, f"tenant_{limit}")
