"""What channels keep about a person beside the conversations."""

from collections.abc import Iterable

from palaver.platforms.consents import GIVEN, WITHDRAWN
from palaver.platforms.pairing import Pairings
from palaver.platforms.parking import ParkedConversations
from palaver.records import RecordStore


async def find_approvals(
    records: RecordStore, channels: Iterable[str], tenant: str, person: str
) -> dict[str, float]:
    """Return when a person was approved, in seconds since the epoch, by channel; when they have
    consented to the use as training data, or withdrawn that, in place of a channel."""
    found = {}
    for channel in (*channels, GIVEN, WITHDRAWN):
        if approved := await Pairings(records, channel).find(tenant, person):
            found[channel] = approved.at
    return found


async def forget_person(
    records: RecordStore, channels: Iterable[str], tenant: str, person: str
) -> None:
    """Delete what channels keep about a person whose conversations are erased."""
    for channel in (GIVEN, WITHDRAWN):
        await Pairings(records, channel).forget(tenant, person)
    for channel in channels:
        await Pairings(records, channel).forget(tenant, person)
        await ParkedConversations(records, channel).list()  # deletes what is erased
