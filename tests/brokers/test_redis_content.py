"""Entries of a stream are the records that were published, whatever lies beside them."""

from itertools import cycle

from tidings.broker import Record
from tidings.redis.content import Reading, words
from tidings.redis.part import Entry

SOURCES: list[dict[str, str]] = [
    {"source": "shop"}, {"source": "till", "traceparent": "00-é"}, {}, {"datacontenttype": "text/plain"},
]  # fmt: skip


def entry(number: int, *told: str | bytes) -> Entry:
    return [b"1-%d" % number, [word if isinstance(word, bytes) else word.encode() for word in told]]


def read(*entries: Entry) -> list[Record]:
    return Reading("order").records(entries, b"orders:3")


def sent(number: int, *, time: float = 1.5e9, key: str | None = "k") -> Record:
    return Record("order", b"%d" % number, key, "order.created", f"id{number}", time, {"source": "shop"})


def test_what_was_published_is_read() -> None:
    kinds = cycle(SOURCES)
    keys = cycle(("é", None, "", "k", "k", None, "m"))
    published = [
        Record("order", bytes([n]), next(keys), f"order.{n % 3}", f"id{n}", 1.5e9 + n / 7, next(kinds))
        for n in range(200)
    ]
    found = read(*(entry(number, *words(record)) for number, record in enumerate(published)))
    assert [each.headers for each in found] == [each.headers for each in published]
    assert [(each.id, each.key, each.value, each.type) for each in found] == [
        (each.id, each.key, each.value, each.type) for each in published
    ]
    assert all(abs(one.time - other.time) < 1e-6 for one, other in zip(found, published, strict=True))


def test_what_differs_from_one_to_the_next_is_not_mixed_up() -> None:
    published = [Record("order", b"", "k", "order.created", "id", 1.5e9, {"source": "a", "trace": str(n)})
                 for n in range(9)]  # fmt: skip
    assert read(*(entry(n, *words(record)) for n, record in enumerate(published))) == published


def test_foreign_entries_among_ours_keep_their_place() -> None:
    ours = [sent(number) for number in range(4)]
    short = entry(9, "data", b"\xff")
    odd = entry(8, *words(sent(7)), "shop", "north")
    found = read(entry(0, *words(ours[0])), short, *(entry(n, *words(ours[n])) for n in (1, 2)), odd, short)
    assert [each.id for each in found] == ["id0", "orders:3:1-9", "id1", "id2", "id7", "orders:3:1-9"]
    assert found[0] == ours[0]
    assert found[4].headers == {"source": "shop", "shop": "north"}


def test_one_that_is_no_text_or_has_an_odd_time_spoils_no_other() -> None:
    good, odd, late, bad = sent(0), sent(1), sent(2, time=1.6e9), sent(3)
    told = {each.id: words(each) for each in (good, odd, late, bad)}
    told["id1"][9] = "2017-07-14T04:40:00+02:00"
    told["id3"][3] = b"\xff"
    found = read(*(entry(n, *each) for n, each in enumerate(told.values())))
    assert [(each.id, each.time) for each in found] == [
        ("id0", 1.5e9), ("id1", 1.5e9), ("id2", 1.6e9), ("\ufffd", 1.5e9)
    ]  # fmt: skip


def test_a_time_that_is_none_is_kept_as_a_header() -> None:
    told = words(sent(0))
    told[9] = "2017-07-14T04:40:00.1x2345Z"
    (found,) = read(entry(0, *told))
    assert (found.time, found.headers["time"]) == (0.0, "2017-07-14T04:40:00.1x2345Z")


def test_nothing_is_nothing() -> None:
    assert read() == []
