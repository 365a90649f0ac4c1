"""Messages while connections break, answers are lost and servers are replaced: one reply each."""

import random

import pytest
from tests.plugins.channels.discord.support import (
    Does,
    QuickChannel,
    Replicas,
    fake_discord,
    posted,
    repeat,
    serving,
    settings_for,
    texts,
    until,
)
from tests.proof_settings import SEED

pytestmark = [pytest.mark.slow, pytest.mark.proof]

MESSAGES = 150
ROOMS = 5


async def disturb(replicas: Replicas, choice: random.Random) -> None:
    gateway = replicas.fake.gateway
    match choice.randrange(8):
        case 0:
            gateway.drop()
        case 1:
            gateway.request_reconnect()
        case 2:
            gateway.invalidate(resumable=choice.random() < 0.5)
        case 3:
            gateway.close(choice.choice([4000, 4007, 4009]))
        case 4:
            gateway.replay_seen = choice.randrange(5)
        case 5:
            await replicas.start(QuickChannel(settings_for(replicas.fake)))
            await replicas.stop()
        case 6:
            replicas.fake.faults.answer(503, "* */messages*", times=2)
        case _:
            replicas.fake.faults.drop("* */messages*", times=2)


@pytest.mark.parametrize("number", range(2))
async def test_every_message_is_answered_once_and_in_order(number: int) -> None:
    choice = random.Random(f"{SEED} {number}")
    async with fake_discord() as fake:
        ada = fake.add_user("Ada")
        rooms = [fake.add_channel(f"room {each}") for each in range(ROOMS)]
        wanted: dict[int, list[str]] = {room.id: [] for room in rooms}
        async with serving(fake, skill=Does(repeat)) as replicas:
            await replicas.until_marked()
            fake.faults.lose_at_random(0.05, seed=choice.randrange(1 << 30))
            for each in range(MESSAGES):
                room = choice.choice(rooms)
                wanted[room.id].append(f"message {each}")
                await fake.say(room, ada, f"message {each}", mentions_bot=True)
                if choice.random() < 0.2:
                    await disturb(replicas, choice)
            fake.faults.clear()

            def is_answered() -> bool:
                return all(len(posted(fake, room)) >= len(wanted[room.id]) for room in rooms)

            await until(is_answered, seconds=60.0)
            await replicas.until_settled()
            assert {room.id: texts(fake, room) for room in rooms} == wanted
