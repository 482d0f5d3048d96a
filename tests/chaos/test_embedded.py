"""The embedded broker as the site of a run: what it sees from outside is what is there."""

from pathlib import Path

import pytest

from tests.running import settled
from tidings import App, Event, Start
from tidings.chaos.address import find
from tidings.chaos.books import Effect, effects
from tidings.chaos.embedded import Embedded
from tidings.chaos.plan import Plan
from tidings.chaos.service import Sold, build
from tidings.errors import ConfigError


class Other(Event, name="other.thing"):
    pass


@pytest.fixture
def site(tmp_path: Path) -> Embedded:
    return Embedded(f"sqlite:{tmp_path / 'tidings.db'}?durable=no")


async def test_nothing_is_there_at_first(site: Embedded) -> None:
    await site.prepare()
    look = site.look()
    assert (look.pending, look.effects) == (0, 0)
    assert look.database
    assert not list(effects(site.books))
    assert not list(site.dead())
    assert not site.books.damage()
    site.close()
    site.close()


async def test_it_counts_what_is_to_be_done_and_sees_what_was(site: Embedded, tmp_path: Path) -> None:
    await site.prepare()
    app = build(Plan(), tmp_path, site)
    app.settings["broker"] = site.url
    poison = 100  # `book` never succeeds with this one
    async with app:
        await app.publish(*(Sold(number=number, key="key-1") for number in (1, 2, poison)))
        assert site.look().pending == 0  # no group has been there before
    async with app.running():
        await settled(app)
        assert site.look().pending == 0
    booked = [effect[:3] for effect in effects(site.books) if effect.account == "book"]
    assert booked == [("book", 1, "key-1"), ("book", 2, "key-1")]
    assert dict(site.books.rows("chaos.tally")) == {"key-1/0": [1, 2, poison], "shared/0": [poison]}
    assert list(site.dead()) == [("chaos.book", "sale.sold", poison)]
    async with app:
        await app.publish(Sold(number=3, key="key-1"))
        assert site.look().pending == 5  # a group gets all of its topic, also `press` and `hear`
    site.close()


async def test_an_effect_is_written_in_the_transaction_it_is_given(site: Embedded) -> None:
    await site.prepare()
    app = App("shop", site.url)

    def write(other: Other, db: object) -> None:
        site.books.record(db, Effect("book", 7, "key-1", 1, 2.0))

    write.__annotations__["db"] = site.books.connection
    app.on(Other, start=Start.EARLIEST)(write)
    async with app.running():
        await app.publish(Other())
        await settled(app)
    assert list(effects(site.books)) == [Effect("book", 7, "key-1", 1, 2.0)]
    site.close()


async def test_a_file_that_is_there_is_refused(site: Embedded, tmp_path: Path) -> None:
    (tmp_path / "tidings.db").touch()
    with pytest.raises(ConfigError, match="exists already"):
        await site.prepare()


async def test_damage_is_found(site: Embedded, tmp_path: Path) -> None:
    await site.prepare()
    path = tmp_path / "tidings.db"
    pages = bytearray(path.read_bytes())
    for first in range(4096, len(pages), 4096):
        pages[first : first + 100] = b"\xff" * 100
    path.write_bytes(pages)
    assert site.books.damage()
    site.close()


def test_a_url_is_the_same_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find("sqlite:here.db?durable=no").url == f"sqlite:{tmp_path / 'here.db'}?durable=no"
    with pytest.raises(ConfigError, match="unknown option"):
        find("sqlite:here.db?colour=red")
