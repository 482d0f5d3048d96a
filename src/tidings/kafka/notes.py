"""Notes to members of groups: where to go on. Only a member may move its group, so who is none leaves it a note.

A note lies in the metadata of a partition, under a group that nobody is a member of. A member looks for notes once a
second, goes where they say, and says so in the metadata of its own group.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from confluent_kafka import Consumer, TopicPartition

from tidings.kafka.ledger import ROOM
from tidings.kafka.offsets import ANSWER, Topic, checked
from tidings.kafka.pump import Place
from tidings.kafka.spare import Spare

GROUP = "tidings.seek"
FORM = re.compile(r"(\S+) (\d+) (.+)")


class Note(NamedTuple):
    """Go on at `offset`. Its name is said by who has gone."""

    name: str
    offset: int


Said = dict[Place, dict[str, Note]]
"""By partition and group."""


class Notes:
    """What lies on a cluster. Blocking, for a thread. Raises KafkaException."""

    def __init__(self, consumer: Spare[Consumer]) -> None:
        self._consumer = consumer

    def read(self, places: Sequence[Place]) -> Said:
        """The notes on these partitions."""
        found = self._consumer.get().committed([TopicPartition(*place) for place in places], timeout=ANSWER)
        return {(each.topic, each.partition): parsed(checked(each).metadata or "") for each in found}

    def begin(self, groups: Iterable[str], topic: str, made: Topic) -> None:
        """Tell groups that a topic was made again, those that nobody has told of it."""
        said = self.read([(topic, number) for number in made.partitions])
        for group in groups:
            if not all(group in notes for notes in said.values()):
                self.leave(group, topic, made.id, dict.fromkeys(made.partitions, 0))

    def leave(self, group: str, topic: str, name: str, to: Mapping[int, int]) -> None:
        """Tell a group where to go on. The oldest notes of others go where there is no room."""
        said = self.read([(topic, number) for number in to])
        places: list[TopicPartition] = []
        for (_, number), notes in said.items():
            notes.pop(group, None)
            notes[group] = Note(name, to[number])
            while len(told(notes)) > ROOM:
                del notes[next(iter(notes))]
            places.append(TopicPartition(topic, number, 0, told(notes)))
        for each in self._consumer.get().commit(offsets=places, asynchronous=False) or ():
            checked(each)


def parsed(text: str) -> dict[str, Note]:
    """Notes by their group, the oldest first."""
    lines = (FORM.fullmatch(line) for line in text.split("\n"))
    return {line[3]: Note(line[1], int(line[2])) for line in lines if line}


def told(notes: Mapping[str, Note]) -> str:
    """What `parsed` reads."""
    return "\n".join(f"{note.name} {note.offset} {group}" for group, note in notes.items())
