"""A member of a group on NATS in a process of its own: says on its output what it is lent, and what came of settling.

    python -m tests.brokers.nats_member URL [--lease S] [--dies-of ID] [--keeps N]

`--dies-of`: the record that kills the process. `--keeps`: after so many records it settles nothing until a line comes
on its input, then all it has.
"""

import argparse
import asyncio
import os
import sys

from tidings.broker import Delivery
from tidings.brokers.nats import NatsLink
from tidings.clock import Clock
from tidings.errors import Fenced
from tidings.link import Line

TOPIC, GROUP = "order", "shop.reserve"


def tell(*words: object) -> None:
    print(*words, flush=True)


async def settle(line: Line, deliveries: list[Delivery]) -> None:
    try:
        await line.done(deliveries)
    except Fenced:
        tell("fenced")
    else:
        tell("settled", len(deliveries))


async def run(line: Line, options: argparse.Namespace) -> None:
    kept: list[Delivery] = []
    while True:
        try:
            lent = list(await line.fetch(1 if options.dies_of else 20, 1.0))
        except Fenced:
            tell("fenced")
            continue
        for each in lent:
            tell("lent", each.record.id, each.attempt)
            if each.record.id == options.dies_of:
                os._exit(9)
        kept += lent
        if options.keeps is None or len(kept) >= options.keeps:
            if options.keeps is not None:
                tell("kept", len(kept))
                await asyncio.to_thread(sys.stdin.readline)
            options.keeps = None
            await settle(line, kept)
            kept = []


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--lease", type=float, default=2.0)
    parser.add_argument("--dies-of")
    parser.add_argument("--keeps", type=int)
    options = parser.parse_args()
    link = NatsLink(options.url, Clock(), lease=options.lease)
    await link.open()
    line = await link.join([TOPIC], GROUP)
    tell("joined")
    try:
        await run(line, options)
    finally:
        await link.close()


if __name__ == "__main__":
    asyncio.run(main())
