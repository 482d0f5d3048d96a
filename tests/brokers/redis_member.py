"""A member of a group on Redis in a process of its own: says on its output what it is lent, and settles it.

    python -m tests.brokers.redis_member URL [--lease S] [--dies-of ID] [--hold S]

`--dies-of`: the record that ends the process, as a kill does. `--hold`: seconds for one record.
"""

import argparse
import asyncio
import os

from tests.brokers.links import GROUP
from tidings.brokers.redis import RedisLink
from tidings.clock import Clock
from tidings.errors import BrokerError


def tell(*words: object) -> None:
    print(*words, flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--lease", type=float, default=1.0)
    parser.add_argument("--dies-of")
    parser.add_argument("--hold", type=float, default=0.0)
    options = parser.parse_args()
    link = RedisLink(options.url, Clock(), lease=options.lease)
    await link.open()
    line = await link.join(["order"], GROUP)
    tell("joined")
    while True:
        try:
            lent = await line.fetch(20, 1.0)
            for each in lent:
                tell("lent", each.record.id, each.record.key, each.attempt)
                if each.record.id == options.dies_of:
                    os._exit(9)
                await asyncio.sleep(options.hold)
                await line.done([each])
                tell("done", each.record.id)
        except BrokerError as error:
            tell("trouble", type(error).__name__)
            await asyncio.sleep(0.2)


if __name__ == "__main__":
    asyncio.run(main())
