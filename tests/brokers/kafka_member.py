"""A member of a group on Kafka in a process of its own: says on its output what it is lent, and of what it was fenced.

    python -m tests.brokers.kafka_member URL [--lease S] [--dies-of ID] [--keeps]

`--dies-of`: the record that kills the process before anything of its batch is settled. `--keeps`: settles nothing.
"""

import argparse
import asyncio
import os

from tidings.brokers.kafka import KafkaLink
from tidings.clock import Clock
from tidings.errors import BrokerError, Fenced

TOPIC, GROUP = "order", "shop.reserve"


def tell(*words: object) -> None:
    print(*words, flush=True)


async def work(url: str, lease: float, dies_of: str | None, *, keeps: bool) -> None:
    link = KafkaLink(url, Clock(), lease=lease)
    await link.open()
    line = await link.join([TOPIC], GROUP)
    tell("joined")
    while True:
        try:
            lent = await line.fetch(20, 1.0)
        except Fenced:
            tell("fenced")
            continue
        for each in lent:
            tell("lent", each.record.id, each.attempt)
        if any(each.record.id == dies_of for each in lent):
            os._exit(9)
        if not keeps:
            try:
                await line.done(lent)
            except BrokerError as error:
                tell("refused", type(error).__name__)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--lease", type=float, default=2.0)
    parser.add_argument("--dies-of")
    parser.add_argument("--keeps", action="store_true")
    given = parser.parse_args()
    asyncio.run(work(given.url, given.lease, given.dies_of, keeps=given.keeps))
