"""Lists without times, out of Online Retail: ``python -m benchmarks.baskets``.

Each invoice is a list of its own, as a playlist would be: at least five items, each of
them on at least five invoices. A fifth of every list, rounded down, is held out at
random. The folder that this writes is a data set of ``benchmarks.quality``.
"""

from __future__ import annotations

import argparse
import csv
import gzip
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

_SERVICES = {
    "POST", "D", "M", "BANK CHARGES", "DOT", "CRUK", "PADS", "C2", "AMAZONFEE", "S",
    "B",
}  # fmt: skip
_FEWEST = 5
_HELD_OUT = 5
_DEMO = """model = "baskets"
holdout = "test.csv"
item = "select distinct item_id, item_id from basket_item"

[import]
basket_item = "train.csv"
"""
_SETUP = """create index on basket_item (user_id);
analyze basket_item;
"""
_CONFIG = """[model.baskets]
item_id = "text"
user_id = "bigint"

[model.baskets.items]
sql = "select distinct item_id from basket_item"

[model.baskets.interactions]
sql = "select user_id, item_id from basket_item"

[model.baskets.train]
budget_s = 180
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of Online Retail")
    parser.add_argument("folder", type=Path, help="where the folder 'baskets' is made")
    options = parser.parse_args(arguments)
    lists = baskets(options.data / "transactions.csv.gz")
    kept, held_out = divided(lists)
    folder = options.folder / "baskets"
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "train.csv", kept)
    _write(folder / "test.csv", held_out)
    (folder / "demo.toml").write_text(_DEMO)
    (folder / "setup.sql").write_text(_SETUP)
    (folder / "recsys.toml").write_text(_CONFIG)
    items = len({item for _, item in kept})
    print(f"{len(lists):,} lists, {items:,} items, {len(kept):,} and {len(held_out):,}")


def baskets(path: Path) -> dict[str, list[str]]:
    """Return the items of each invoice that is no cancellation, sorted."""
    found: dict[str, set[str]] = defaultdict(set)
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            bought = float(row["quantity"]) > 0 and float(row["unit_price"]) > 0
            service = row["stock_code"] in _SERVICES
            if bought and not service and not row["invoice"].startswith("C"):
                found[row["invoice"]].add(row["stock_code"])
    counts = Counter(item for items in found.values() for item in items)
    often = {item for item, count in counts.items() if count >= _FEWEST}
    kept = {invoice: sorted(items & often) for invoice, items in sorted(found.items())}
    return {invoice: items for invoice, items in kept.items() if len(items) >= _FEWEST}


def divided(
    lists: dict[str, list[str]], seed: int = 0
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the pairs of list and item that are kept, and those held out."""
    rng = np.random.default_rng(seed)
    kept: list[tuple[str, str]] = []
    held_out: list[tuple[str, str]] = []
    for invoice, items in lists.items():
        order = rng.permutation(len(items))
        cut = len(items) // _HELD_OUT
        for place in sorted(order[:cut].tolist()):
            held_out.append((invoice, items[place]))
        for place in sorted(order[cut:].tolist()):
            kept.append((invoice, items[place]))
    return kept, held_out


def _write(path: Path, pairs: Iterable[tuple[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("user_id", "item_id"))
        writer.writerows(pairs)


if __name__ == "__main__":
    main()
