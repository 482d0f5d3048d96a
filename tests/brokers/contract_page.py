"""The tables of docs/guide/contract.md, from the checks themselves and from what each broker's test runs.

python -m tests.brokers.contract_page > docs/guide/contract.md
"""

from __future__ import annotations

import types

from tests.brokers import (
    test_contract_kafka,
    test_contract_nats,
    test_contract_postgres,
    test_contract_rabbitmq,
    test_contract_redis,
    test_contract_sqlite,
)
from tidings.testing import contract
from tidings.testing.checks.server import Check

BROKERS = {
    "embedded": [*test_contract_sqlite.CHECKS, *test_contract_sqlite.ACROSS_PROCESSES],
    "PostgreSQL": test_contract_postgres.CHECKS,
    "Kafka": test_contract_kafka.CHECKS,
    "NATS": test_contract_nats.CHECKS,
    "RabbitMQ": test_contract_rabbitmq.CHECKS,
    "Redis": test_contract_redis.CHECKS,
}
"""What is checked on a real server or file of each, Kafka, NATS, RabbitMQ and Redis with a store beside them."""
WATERMILL = {
    "PublishSubscribe": ["bodies_arrive_as_they_were", "headers_arrive_as_they_were", "groups_do_not_share"],
    "ConcurrentSubscribe": ["many_members_join_at_once"],
    "ConcurrentSubscribeMultipleTopics": ["a_key_has_its_order_on_each_topic"],
    "ResendOnError": ["what_is_handed_back_comes_again"],
    "NoAck": ["later_ones_of_the_key_wait_for_what_is_handed_back", "members_share_by_key"],
    "ContinueAfterSubscribeClose": ["a_group_goes_on_where_it_was_closed"],
    "ContinueAfterErrors": ["many_failures_lose_nothing"],
    "ConcurrentClose": ["many_connections_close_at_once"],
    "PublishSubscribeInOrder": ["many_at_once_arrive_in_order", "members_share_by_key"],
    "PublisherClose": ["closing_beside_publishers_keeps_what_was_acknowledged"],
    "Topic": ["a_subscription_hears_its_topics_and_no_others"],
    "MessageCtx": ["a_publish_may_be_cancelled"],
    "SubscribeCtx": ["a_fetch_may_be_cancelled", "joining_and_leaving_may_be_cancelled"],
    "NewSubscriberReceivesOldMessages": ["a_new_group_begins_where_it_says"],
    "Reconnect": ["a_restart_of_the_server_loses_nothing", "fifty_cuts_in_three_seconds_lose_nothing"],
    "ConsumerGroups": ["groups_do_not_share", "processes_share_by_key"],
}
"""The behaviours that Watermill's suite asks of every Pub/Sub, and the checks that ask for them here."""
HEAD = """\
# The contract of brokers

`tidings.testing.contract` is one suite for all brokers: what the engine relies on, each promise checked on a real
server. An adapter of your own passes it too:

```py
import contextlib

from tidings.testing import contract
from tidings.testing.contract import Server


async def kept(my_broker, clock) -> None:
    @contextlib.asynccontextmanager
    async def make():  # a new, empty place for each check
        yield Server(connect=my_broker.connection, clock=clock)

    report = await contract.run(make, my_broker.features)
    assert report.kept, str(report)
```

A check is left out where it needs a feature that the adapter does not claim, or wants done what its `Server` does not
offer: `silence` for a member that stops without a word, `config` for members in other processes, `restart`, `kill`,
`cut` and `remove` for what befalls the server, its connections and what it holds. `many` records go through a restart,
10,000 where nothing is said; the tests of this project take 2,000.

In the tables: **·** the check runs in the tests of this broker, with a store beside those that have none of their own;
**-** the broker does not claim the feature, or there is nothing of the kind to do to it.
"""
TAIL = """\
## Behaviours that others ask for

The suite of [Watermill](https://github.com/ThreeDotsLabs/watermill) for its Pub/Subs, and the checks that ask for the
same here:

| Watermill | here |
| --- | --- |
"""


def page() -> str:
    """All of it."""
    sections = [section(subject) for subject in contract.SUBJECTS]
    rows = [f"| {name} | {', '.join(f'`{each}`' for each in checks)} |" for name, checks in WATERMILL.items()]
    return "\n".join([HEAD, *sections, TAIL + "\n".join(rows) + "\n"])


def section(subject: types.ModuleType) -> str:
    """The checks of one subject."""
    title = (subject.__doc__ or "").partition("\n")[0].rstrip(".")
    checks = [value for value in vars(subject).values() if isinstance(value, Check)]
    head = [
        f"## {title}",
        "",
        f"| check | promise | {' | '.join(BROKERS)} |",
        f"| --- | --- |{' :-: |' * len(BROKERS)}",
    ]
    return "\n".join([*head, *map(row, checks)]) + "\n"


def row(check: Check) -> str:
    """Who keeps it."""
    marks = ["·" if check in checks else "-" for checks in BROKERS.values()]
    promise = check.promise.replace("|", "\\|")
    return f"| `{check.name}` | {promise} | {' | '.join(marks)} |"


if __name__ == "__main__":
    print(page(), end="")
