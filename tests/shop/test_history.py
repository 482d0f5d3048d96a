import csv
import gzip
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.shop.data import make_sample
from examples.shop.history import SAMPLE, BadOrders, PastCancellation, PastOrder, read_orders

SHARED = Path(__file__).parents[3] / "shared" / "data"
PURCHASES = "customer_id,date,cds,dollars\n"
INVOICES = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"the whole data set is not here: ../shared/data/{name}")
    return path


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "orders.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def purchases(path: Path | None = None) -> list[PastOrder]:
    orders = list(read_orders(path))
    assert all(isinstance(order, PastOrder) for order in orders)
    return [order for order in orders if isinstance(order, PastOrder)]


def cds(orders: Iterable[PastOrder]) -> int:
    return sum(sum(order.items.values()) for order in orders)


def dollars(orders: Iterable[PastOrder]) -> str:
    return str(sum(order.total for order in orders))


# --- CDNOW


def test_the_packaged_sample_holds_the_first_2357_customers() -> None:
    orders = purchases()
    assert (len(orders), cds(orders), dollars(orders)) == (7_497, 18_161, "273440.42")
    assert {order.customer for order in orders} == {f"{number:05}" for number in range(1, 2_358)}
    assert len({order.order_id for order in orders}) == 7_497


def test_every_purchase_of_the_whole_file_is_an_order_of_its_own() -> None:
    orders = purchases(shared("cdnow_purchases.csv.gz"))
    assert (len(orders), cds(orders), dollars(orders)) == (69_659, 167_881, "2500315.63")
    assert len({order.order_id for order in orders}) == 69_659
    assert sum(order.total == 0 for order in orders) == 80


def test_the_sample_is_what_its_script_cuts_out_of_the_whole_file(tmp_path: Path) -> None:
    make_sample.cut(shared("cdnow_purchases.csv.gz"), tmp_path / "purchases.csv")
    assert (tmp_path / "purchases.csv").read_bytes() == SAMPLE.read_bytes()


def test_a_sample_takes_the_first_customers_by_number_with_all_their_lines() -> None:
    lines = ["id,cds\n", "3,1\n", "1,1\n", "2,1\n", "1,1\n"]
    assert make_sample.sample(lines, customers=2) == ["id,cds\n", "1,1\n", "2,1\n", "1,1\n"]


def test_orders_come_by_day_and_within_a_day_as_in_the_file(tmp_path: Path) -> None:
    path = written(
        tmp_path, PURCHASES + "7,1997-01-02,1,1.00\n9,1997-01-01,1,2\n7,1997-01-02,1,1.00\n8,1997-01-02,3,4.5\n"
    )
    assert [(order.order_id, order.placed, str(order.total)) for order in purchases(path)] == [
        ("o-9-0001", datetime(1997, 1, 1, tzinfo=UTC), "2.00"),
        ("o-7-0001", datetime(1997, 1, 2, tzinfo=UTC), "1.00"),
        ("o-7-0002", datetime(1997, 1, 2, tzinfo=UTC), "1.00"),
        ("o-8-0001", datetime(1997, 1, 2, tzinfo=UTC), "4.50"),
    ]


def test_a_gzipped_file_is_known_by_its_content_and_columns_by_their_names(tmp_path: Path) -> None:
    text = "note,dollars,cds,date,customer_id\n,11.77,2,1997-01-01,1\n"
    (order,) = purchases(written(tmp_path, gzip.compress(text.encode())))
    assert (order.customer, cds([order]), order.total) == ("1", 2, Decimal("11.77"))


def test_titles_are_the_same_on_every_machine() -> None:
    first = next(read_orders())
    assert (first.order_id, first.items) == ("o-00001-0001", {"cd-0494": 1})


def test_customers_have_a_taste_and_the_whole_catalogue_sells() -> None:
    shelves: dict[str, Counter[int]] = defaultdict(Counter)
    sold: Counter[str] = Counter()
    for order in purchases():
        sold.update(order.items)
        for title, quantity in order.items.items():
            shelves[order.customer][(int(title.removeprefix("cd-")) - 1) // 25] += quantity
    favourites = sum(counts.most_common(1)[0][1] for counts in shelves.values() if counts.total() >= 10)
    bought = sum(counts.total() for counts in shelves.values() if counts.total() >= 10)
    assert 0.72 < favourites / bought < 0.82
    assert set(sold) == {f"cd-{number:04}" for number in range(1, 501)}
    best_of_each_shelf = sum(sold[f"cd-{shelf * 25 + 1:04}"] for shelf in range(20))
    assert best_of_each_shelf > sold.total() * 0.15


Line = tuple[str, date, int, int]
LINES: st.SearchStrategy[list[Line]] = st.lists(
    st.tuples(
        st.text("012-", min_size=1, max_size=4),
        st.dates(date(1990, 1, 1), date(2030, 1, 1)),
        st.integers(1, 120),
        st.integers(0, 10**8),
    ),
    max_size=10,
)


@given(LINES)
def test_nothing_of_a_purchase_is_lost_or_added(lines: list[Line]) -> None:
    text = "".join(
        f"{customer},{day},{count},{cents // 100}.{cents % 100:02}\n" for customer, day, count, cents in lines
    )
    with tempfile.TemporaryDirectory() as folder:
        orders = purchases(written(Path(folder), PURCHASES + text))
    read = [(o.customer, o.placed.date(), sum(o.items.values()), int(o.total * 100)) for o in orders]
    assert read == sorted(lines, key=lambda line: line[1])
    assert all(quantity > 0 for order in orders for quantity in order.items.values())
    assert len({order.order_id for order in orders}) == len(lines)


# --- Online Retail


def test_each_invoice_of_the_retail_file_is_one_order_or_cancellation() -> None:
    path = shared("online_retail_first_1000.csv")
    totals: dict[str, Decimal] = defaultdict(Decimal)
    quantities: dict[str, int] = defaultdict(int)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            totals[row["InvoiceNo"]] += int(row["Quantity"]) * Decimal(row["UnitPrice"])
            quantities[row["InvoiceNo"]] += int(row["Quantity"])
    history = list(read_orders(path))
    orders = [past for past in history if isinstance(past, PastOrder)]
    cancellations = [past for past in history if isinstance(past, PastCancellation)]
    read = {order.order_id: (order.total, sum(order.items.values())) for order in orders}
    read |= {past.cancellation_id: (-past.total, -sum(past.items.values())) for past in cancellations}
    assert (len(orders), len(cancellations), len(read)) == (62, 4, 66)
    assert read == {number: (total, quantities[number]) for number, total in totals.items()}
    assert [past.placed for past in history] == sorted(past.placed for past in history)
    assert [order.order_id for order in orders if not order.customer] == ["536414"]


def test_lines_of_an_invoice_are_one_order(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        INVOICES
        + '7,A1,"LAMP, RED",2,12/31/10 8:26,2.55,17,France\n'
        + "7,B2,CARD,1,12/31/10 8:26,0,17,France\n"
        + "7,A1,LAMP,1,12/31/10 8:27,2.5,17,France\n"
        + "6,C3,BOX,4,2/28/2010 23:59,0.001,,France\n",
    )
    assert list(read_orders(path)) == [
        PastOrder(
            order_id="6",
            customer="",
            placed=datetime(2010, 2, 28, 23, 59, tzinfo=UTC),
            items={"C3": 4},
            total=Decimal("0.00"),
        ),
        PastOrder(
            order_id="7",
            customer="17",
            placed=datetime(2010, 12, 31, 8, 26, tzinfo=UTC),
            items={"A1": 3, "B2": 1},
            total=Decimal("7.60"),
        ),
    ]


def test_a_cancellation_names_the_latest_order_that_holds_what_came_back(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        INVOICES
        + "1,A,LAMP,5,12/1/10 8:00,2.00,17,France\n"
        + "2,A,LAMP,5,12/1/10 9:00,2.00,17,France\n"
        + "3,A,LAMP,1,12/1/10 10:00,2.00,17,France\n"
        + "4,A,LAMP,9,12/1/10 10:00,2.00,18,France\n"
        + "C5,A,LAMP,-3,12/1/10 11:00,2.00,17,France\n"
        + "6,A,LAMP,5,12/1/10 12:00,2.00,17,France\n",
    )
    (cancellation,) = [past for past in read_orders(path) if isinstance(past, PastCancellation)]
    assert (cancellation.cancellation_id, cancellation.order_id) == ("C5", "2")
    assert (cancellation.items, str(cancellation.total)) == ({"A": 3}, "6.00")


def test_a_cancellation_of_nothing_in_the_file_stands_under_its_own_number(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        INVOICES + "1,A,LAMP,5,12/1/10 8:00,2.00,,France\nC2,A,LAMP,-5,12/1/10 9:00,2.00,,France\n",
    )
    _, cancellation = read_orders(path)
    assert (cancellation.order_id, cancellation.customer) == ("C2", "")


def test_bookkeeping_is_no_order(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        INVOICES
        + "A563186,B,Adjust bad debt,1,8/12/11 14:51,-11062.06,,United Kingdom\n"
        + "536589,21777,damaged,-10,12/1/10 16:50,0,,United Kingdom\n",
    )
    assert list(read_orders(path)) == []


def test_descriptions_may_be_in_any_encoding(tmp_path: Path) -> None:
    path = written(tmp_path, (INVOICES + "1,A,\xa31 LAMP,1,12/1/10 8:00,2.00,17,France\n").encode("latin-1"))
    assert [order.total for order in read_orders(path)] == [Decimal("2.00")]


# --- Files that are refused


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "line 1, the header '' is unknown"),
        ("name,age\nx,1\n", "line 1, the header 'name,age' is unknown. Give a CSV file with customer_id,date"),
        ("customer_id,date,cds\n", "line 1, column dollars is missing. The CDNOW form needs"),
        (INVOICES.replace("UnitPrice", "Price"), "line 1, column UnitPrice is missing. The Online Retail form needs"),
        (PURCHASES + "1,1997-01-01,1,1,234.00\n", "line 2, 5 cells under a header of 4. Correct or remove"),
        (PURCHASES + "\n,1997-01-01,1,1.00\n", "line 3, column customer_id: '' is not"),
        (PURCHASES + "1,01/31/1997,1,1.00\n", "line 2, column date: '01/31/1997' is not a day such as 1997-01-31"),
        (PURCHASES + "1,1997-02-30,1,1.00\n", "line 2, column date: '1997-02-30' is not a day"),
        (PURCHASES + "1,1997-01-01,0,1.00\n", "line 2, column cds: '0' is not a whole number from 1 to 9999"),
        (PURCHASES + "1,1997-01-01,1.5,1.00\n", "line 2, column cds: '1.5' is not"),
        (PURCHASES + "1,1997-01-01,1,1.005\n", "line 2, column dollars: '1.005' is not an amount such as 11.77"),
        (PURCHASES + "1,1997-01-01,1,NaN\n", "line 2, column dollars: 'NaN' is not"),
        (PURCHASES + "1,1997-01-01,1,\x1b[2J\n", r"line 2, column dollars: '\x1b[2J' is not"),
        (PURCHASES + '1,1997-01-01,1,"1\n', "line 2, the file is damaged"),
        (INVOICES + "X1,A,LAMP,1,12/1/10 8:00,2.00,17,France\n", "line 2, column InvoiceNo: 'X1' is not"),
        (INVOICES + "1,,LAMP,1,12/1/10 8:00,2.00,17,France\n", "line 2, column StockCode: '' is not"),
        (INVOICES + "1,A,LAMP,0,12/1/10 8:00,2.00,17,France\n", "line 2, column Quantity: '0' is not"),
        (INVOICES + "1,A,LAMP,-1,12/1/10 8:00,2.00,17,France\n", "line 2, column Quantity: '-1' is not"),
        (INVOICES + "C1,A,LAMP,1,12/1/10 8:00,2.00,17,France\n", "line 2, column Quantity: '1' is not"),
        (INVOICES + "1,A,LAMP,1,31/12/10 8:00,2.00,17,France\n", "line 2, column InvoiceDate: '31/12/10 8:00' is not"),
        (INVOICES + "1,A,LAMP,1,12/1/10 8:00,-2.00,17,France\n", "line 2, column UnitPrice: '-2.00' is not"),
        (INVOICES + "1,A,LAMP,1,12/1/10 8:00,2.00,1 7,France\n", "line 2, column CustomerID: '1 7' is not"),
    ],
)
def test_a_bad_file_is_refused_before_the_first_order(tmp_path: Path, text: str, complaint: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(BadOrders) as refused:
        read_orders(path)
    assert str(refused.value).startswith(f"{path}, {complaint}")


def test_every_refusal_of_a_cell_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadOrders, match=r"Correct the cell or remove the line\.$"):
        read_orders(written(tmp_path, PURCHASES + "1,1997-01-01,many,1.00\n"))


ZIPPED = gzip.compress(PURCHASES.encode())


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(ZIPPED[:-9], id="cut short"),
        pytest.param(ZIPPED[:-8] + bytes(8), id="wrong checksum"),
        pytest.param(ZIPPED[:10] + b"\xff" * 40, id="overwritten"),
        pytest.param(ZIPPED[:2] + b"\xff" * 40, id="not gzip after all"),
    ],
)
def test_a_damaged_gzip_file_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BadOrders, match=r"line 1, the file is damaged .* Get a whole copy"):
        read_orders(written(tmp_path, content))


def test_a_file_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_orders(tmp_path / "none.csv")
