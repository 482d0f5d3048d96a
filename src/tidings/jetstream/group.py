"""Who is in a group on a topic, and whose each part is: one look at the bucket."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from tidings import binding
from tidings.jetstream.cursor import State, decode
from tidings.jetstream.naming import Place
from tidings.jetstream.server import DEADLINE, fields
from tidings.jetstream.wire import Question, Wire
from tidings.roster import Sign


class Seen(NamedTuple):
    """The state of a part and its revision."""

    state: State
    revision: int


class Sight(NamedTuple):
    """A group on a topic at one moment."""

    parts: dict[int, Seen]
    members: dict[str, Sign]


async def look(wire: Wire, bucket: str, place: Place) -> Sight:
    """See who is there and whose each part is. A server that lags behind may show what was true a moment ago."""
    body = msgspec.json.encode({"multi_last": [place.all], "batch": 1024})
    answers = await wire.ask_many(Question(f"$JS.API.DIRECT.GET.{bucket}".encode(), body), DEADLINE)
    sight = Sight({}, {})
    for answer in answers:
        told = fields(answer.headers)
        name = told[b"Nats-Subject"].decode()[len(place.root) + 1 :]
        revision = int(told[b"Nats-Sequence"])
        if b"KV-Operation" in told:
            continue
        if name.startswith("member."):
            sight.members[name[7:]] = Sign(revision, binding.seconds(told[b"Nats-Time-Stamp"].decode()))
        else:
            sight.parts[int(name)] = Seen(decode(answer.data), revision)
    return sight
