"""Cuts the packaged sample out of the whole CDNOW file.

python -m examples.shop.data.make_sample cdnow_purchases.csv.gz examples/shop/data/purchases.csv
"""

import argparse
import gzip
from collections.abc import Sequence
from pathlib import Path

CUSTOMERS = 2_357


def sample(lines: Sequence[str], *, customers: int = CUSTOMERS) -> list[str]:
    """The header and every purchase of the first customers, in order of customer id, as they stand."""
    header, *purchases = lines
    ids = sorted({line.partition(",")[0] for line in purchases})
    chosen = set(ids[:customers])
    return [header, *(line for line in purchases if line.partition(",")[0] in chosen)]


def cut(whole: Path, part: Path) -> None:
    """Write the sample of the gzip file `whole` to `part`, with plain line ends."""
    with gzip.open(whole, "rt", encoding="ascii") as lines:
        purchases = sample(lines.readlines())
    with part.open("w", encoding="ascii", newline="\n") as file:
        file.writelines(purchases)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Cut the packaged sample out of the whole CDNOW file.")
    parser.add_argument("whole", type=Path, help="cdnow_purchases.csv.gz")
    parser.add_argument("part", type=Path, help="where to write the sample")
    paths = parser.parse_args()
    cut(paths.whole, paths.part)
