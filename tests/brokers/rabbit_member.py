"""A member of a group on RabbitMQ in a process of its own: says what it is lent, and acknowledges it.

    python -m tests.brokers.rabbit_member URL [--dies-of ID] [--hold S] [--limit N]

`--dies-of`: the record that kills the process, at once. `--hold`: seconds for one record.
`--limit`: how many are fetched together.
"""

import argparse
import asyncio
import os
import signal

from tidings.brokers.rabbitmq import RabbitLink
from tidings.clock import Clock
from tidings.errors import BrokerError

TOPIC, GROUP = "order", "shop.reserve"


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--dies-of", default="")
    parser.add_argument("--hold", type=float, default=0.0)
    parser.add_argument("--limit", type=int, default=100)
    arguments = parser.parse_args()
    link = RabbitLink(arguments.url, Clock(), lease=3.0)
    await link.open()
    line = await link.join([TOPIC], GROUP)
    while True:
        try:
            for delivery in await line.fetch(arguments.limit, 1.0):
                print("lent", delivery.record.id, delivery.attempt, flush=True)
                if delivery.record.id == arguments.dies_of:
                    os.kill(os.getpid(), signal.SIGKILL)
                await asyncio.sleep(arguments.hold)
                await line.done([delivery])
                print("done", delivery.record.id, flush=True)
        except BrokerError as error:
            print("trouble", type(error).__name__, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
