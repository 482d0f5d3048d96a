"""Past orders out of a file, to be replayed through the shop.

Two forms are understood and told apart by their headers: the CDNOW purchases (one line, one order) and the
UCI Online Retail invoices (all lines of an invoice number, one order). The README says what is real in them.
"""

import csv
import gzip
import io
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import NamedTuple, TextIO

from msgspec import Struct

SAMPLE = Path(__file__).with_name("data") / "purchases.csv"
"""The packaged orders: the first 2,357 customers of the CDNOW data set."""

SHELVES = 20
TITLES_PER_SHELF = 25
TITLES = tuple(f"cd-{number:04}" for number in range(1, SHELVES * TITLES_PER_SHELF + 1))
"""The invented catalogue, shelf after shelf."""

_CENT = Decimal("0.01")


class PastOrder(Struct, frozen=True, kw_only=True):
    """An order that a customer once placed.

    `order_id` is unique within the file and the same in every reading of it. `customer` is empty where the file
    names none. `placed` is taken as UTC, for no file tells its zone, and is midnight where only the day is known.
    """

    order_id: str
    customer: str
    placed: datetime
    items: dict[str, int]
    total: Decimal


class PastCancellation(Struct, frozen=True, kw_only=True):
    """Goods that a customer once gave back; quantities and total are positive.

    `cancellation_id` is unique within the file. `order_id` is the latest earlier order of the same customer that
    holds all that is given back; where the file has none it is the `cancellation_id` itself.
    """

    cancellation_id: str
    order_id: str
    customer: str
    placed: datetime
    items: dict[str, int]
    total: Decimal


class BadOrders(ValueError):
    """A file of orders cannot be read. Says where (file, line, column) and what to do about it."""


def read_orders(path: Path | None = None) -> Iterator[PastOrder | PastCancellation]:
    """The orders of a file, plain or gzipped, earliest first; of the packaged sample without a path.

    Orders of the same moment keep the order of the file. The whole file is checked before this returns, so that
    a bad one replays nothing; the orders themselves are made one by one as they are asked for.
    Lines of an invoice form that are bookkeeping (corrections of debts, stock written off) are left out.
    Raises BadOrders, and OSError where the file cannot be opened.
    """
    path = path or SAMPLE
    with path.open("rb") as raw:
        zipped = raw.peek(2).startswith(b"\x1f\x8b")
        content = gzip.GzipFile(fileobj=raw) if zipped else raw
        # Descriptions, which nobody reads here, come in any encoding; all that is read is ASCII.
        with io.TextIOWrapper(content, encoding="utf-8-sig", errors="backslashreplace", newline="") as text:
            table = _Table(path, text)
            return _purchases(table) if table.form is _PURCHASES else _invoices(table)


# --- A file: which form it has, and where its bad cells are


class _Column(NamedTuple):
    pattern: str
    wanted: str


_Form = dict[str, _Column]

_PURCHASES: _Form = {
    "customer_id": _Column(r"\S{1,64}", "a customer number such as 00017"),
    "date": _Column(r"\d{4}-\d\d-\d\d", "a day such as 1997-01-31"),
    "cds": _Column(r"[1-9]\d{0,3}", "a whole number from 1 to 9999"),
    "dollars": _Column(r"\d{1,9}(\.\d{1,2})?", "an amount such as 11.77"),
}
_INVOICES: _Form = {
    "InvoiceNo": _Column(r"[AC]?\d{1,12}", "an invoice number such as 536365, or C536379 for a cancellation"),
    "StockCode": _Column(r"\S(.{0,62}\S)?", "a stock code such as 85123A"),
    "Quantity": _Column(r"-?[1-9]\d{0,6}", "a whole number other than 0, below 0 only in a cancellation"),
    "InvoiceDate": _Column(r"\d{1,2}/\d{1,2}/\d{2,4} \d{1,2}:\d\d", "month, day and time such as 12/31/10 8:26"),
    "UnitPrice": _Column(r"-?\d{1,9}(\.\d{1,4})?", "a price of 0 or more such as 2.55"),
    "CustomerID": _Column(r"\S{0,64}", "a customer number such as 17850, or empty"),
}
_FORMS = {"CDNOW": _PURCHASES, "Online Retail": _INVOICES}


class _Table:
    """The rows of a file of a known form, once: the cells of its columns, each of which fits."""

    def __init__(self, path: Path, text: TextIO) -> None:
        self._path = path
        self._reader = csv.reader(text, strict=True)
        self._header = next(self._rows(), [])
        self._moments: dict[str, datetime] = {}
        self.form = self._recognise()

    def __iter__(self) -> Iterator[list[str]]:
        where = [self._header.index(name) for name in self.form]
        # One match a line is six times as fast as one a cell; no cell that fits holds a line end.
        all_fit = re.compile("\n".join(f"(?:{column.pattern})" for column in self.form.values()), re.ASCII).fullmatch
        for row in self._rows():
            if len(row) != len(self._header):
                raise self._bad(f"{len(row)} cells under a header of {len(self._header)}. Correct or remove the line.")
            cells = [row[index] for index in where]
            if not all_fit("\n".join(cells)):
                raise self._misfit(cells)
            yield cells

    def moment(self, name: str, cell: str, *formats: str) -> datetime:
        """The time in a cell, by the first of the formats that fits."""
        known = self._moments.get(cell)
        if known is None:
            known = self._moments[cell] = self._parsed(name, cell, formats)
        return known

    def refusal(self, name: str, cell: str) -> BadOrders:
        """What to raise for the cell of this column in the present line."""
        wanted = self.form[name].wanted
        return self._bad(f"column {name}: {cell[:40]!r} is not {wanted}. Correct the cell or remove the line.")

    def _misfit(self, cells: Iterable[str]) -> BadOrders:
        return next(
            self.refusal(name, cell)
            for (name, column), cell in zip(self.form.items(), cells, strict=True)
            if not re.fullmatch(column.pattern, cell, re.ASCII)
        )

    def _rows(self) -> Iterator[list[str]]:
        try:
            for row in self._reader:
                if row:
                    yield row
        except (csv.Error, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise self._bad(f"the file is damaged ({error}). Get a whole copy of it.") from error

    def _recognise(self) -> _Form:
        shared = {name: form.keys() & self._header for name, form in _FORMS.items()}
        name = max(shared, key=lambda name: len(shared[name]))
        form, found = _FORMS[name], shared[name]
        if not found:
            forms = "; or ".join(",".join(form) for form in _FORMS.values())
            raise self._bad(f"the header {','.join(self._header)[:80]!r} is unknown. Give a CSV file with {forms}.")
        for column in form:
            if column not in found:
                raise self._bad(f"column {column} is missing. The {name} form needs {','.join(form)}.")
        return form

    def _parsed(self, name: str, cell: str, formats: Iterable[str]) -> datetime:
        for style in formats:
            try:
                return datetime.strptime(cell, style).replace(tzinfo=UTC)
            except ValueError:
                continue
        raise self.refusal(name, cell)

    def _bad(self, what: str) -> BadOrders:
        return BadOrders(f"{self._path}, line {max(self._reader.line_num, 1)}, {what}")


# --- The CDNOW form


_Line = tuple[str, int, int, Decimal]  # customer, its running number with that customer, CDs, dollars


def _purchases(table: _Table) -> Iterator[PastOrder]:
    days: dict[datetime, list[_Line]] = defaultdict(list)
    numbers: dict[str, int] = defaultdict(int)
    for customer, day, cds, dollars in table:
        numbers[customer] += 1
        placed = table.moment("date", day, "%Y-%m-%d")
        days[placed].append((customer, numbers[customer], int(cds), Decimal(dollars)))
    return (_purchase(placed, line) for placed in sorted(days) for line in days[placed])


def _purchase(placed: datetime, line: _Line) -> PastOrder:
    customer, number, cds, dollars = line
    order_id = f"o-{customer}-{number:04}"
    items = _titles(order_id, customer=customer, cds=cds)
    return PastOrder(order_id=order_id, customer=customer, placed=placed, items=items, total=dollars.quantize(_CENT))


def _titles(order_id: str, *, customer: str, cds: int) -> dict[str, int]:
    """Invented titles for the CDs of an order, of which the file tells only the number.

    The same in every run. A customer takes three CDs of four from a favourite shelf, and the first titles
    of a shelf sell best, so that there is something for recommendations to find.
    """
    favourite = zlib.crc32(customer.encode()) % SHELVES
    draw = zlib.crc32(order_id.encode())
    items: dict[str, int] = {}
    for _ in range(cds):
        draw = zlib.crc32(b"+", draw)  # spent in three independent parts: 4, 625 = 25 * 25, the rest
        shelf = favourite if draw % 4 else draw // 2_500 % SHELVES
        spread = draw % 625
        place = spread * spread // 15_625  # 0 to 24, the low ones more often
        title = TITLES[shelf * TITLES_PER_SHELF + place]
        items[title] = items.get(title, 0) + 1
    return items


# --- The Online Retail form


class _Invoice(Struct):
    number: str
    customer: str
    placed: datetime
    items: dict[str, int]
    total: Decimal

    def add(self, sku: str, quantity: int, *, price: Decimal) -> None:
        self.items[sku] = self.items.get(sku, 0) + quantity
        self.total += quantity * price


def _invoices(table: _Table) -> Iterator[PastOrder | PastCancellation]:
    invoices: dict[str, _Invoice] = {}
    for number, sku, count, date, unit, customer in table:
        placed = table.moment("InvoiceDate", date, "%m/%d/%y %H:%M", "%m/%d/%Y %H:%M")
        quantity, price = int(count), Decimal(unit)
        cancels = number.startswith("C")
        written_off = quantity < 0 and price == 0 and not cancels
        if written_off or number.startswith("A"):
            continue  # bookkeeping: neither an order nor a cancellation
        if price < 0:
            raise table.refusal("UnitPrice", unit)
        if (quantity < 0) != cancels:
            raise table.refusal("Quantity", count)
        if number not in invoices:
            invoices[number] = _Invoice(number, customer, placed, {}, Decimal(0))
        invoices[number].add(sku, abs(quantity), price=price)
    return _orders_and_cancellations(sorted(invoices.values(), key=lambda invoice: invoice.placed))


def _orders_and_cancellations(invoices: Iterable[_Invoice]) -> Iterator[PastOrder | PastCancellation]:
    earlier: dict[str, list[PastOrder]] = defaultdict(list)
    for invoice in invoices:
        number, customer, placed, items = invoice.number, invoice.customer, invoice.placed, invoice.items
        total = invoice.total.quantize(_CENT, ROUND_HALF_UP)  # once an order: some prices have tenths of a cent
        if number.startswith("C"):
            order_id = _holder(items, earlier[customer]) or number
            yield PastCancellation(
                cancellation_id=number, order_id=order_id, customer=customer, placed=placed, items=items, total=total
            )
        else:
            order = PastOrder(order_id=number, customer=customer, placed=placed, items=items, total=total)
            if customer:
                earlier[customer].append(order)
            yield order


def _holder(items: dict[str, int], orders: Sequence[PastOrder]) -> str | None:
    """The latest of the orders that holds all the items."""
    for order in reversed(orders):
        if all(order.items.get(sku, 0) >= quantity for sku, quantity in items.items()):
            return order.order_id
    return None
