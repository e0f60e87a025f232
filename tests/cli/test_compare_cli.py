"""``recsys compare``: what it prints, stores and writes, and how it fails."""

from __future__ import annotations

import csv
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import Run
from test_cli import failed

from recsys import _db, _measure
from recsys.cli import _page
from recsys.compare import Comparison, Example, Paired

COLUMNS = ["metric", "base", "candidate", "difference", "low", "high", "popular"]


@pytest.fixture(autouse=True)
def few_timed_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_measure, "_TIMED", 30)


def count(dsn: str) -> int:
    with _db.connect(dsn) as conn:
        row = conn.execute("select count(*) from recsys.comparison").fetchone()
    return row[0] if row else 0


def test_both_versions_stand_side_by_side(run: Run, own_dsn: str) -> None:
    result = run(
        "--dsn", own_dsn, "compare", "shop", 2, "--after", "2026-02-01",
        "--format", "json",
    )  # fmt: skip

    rows = json.loads(result.out)
    assert result.code == 0
    assert [list(row) for row in rows] == [COLUMNS] * len(rows)
    assert [row["metric"] for row in rows] == [
        "recall@20", "ndcg@20", "hr@10", "coverage", "popularity", "novelty",
        "ann_recall", "ann_recall@20", "overlap@20", "rbo", "latency_p50_ms",
        "latency_p99_ms",
    ]  # fmt: skip
    assert "shop version 2 " in result.err
    assert "ndcg@20 " in result.err
    assert "hits, k = 20" in result.err
    assert count(own_dsn) == 1


def test_looking_stores_nothing(run: Run, own_dsn: str) -> None:
    result = run(
        "--dsn", own_dsn, "compare", "shop", 2, 1, "--after", "2026-02-01",
        "--no-store", "-k", 5, "--users", 7, "--format", "csv",
    )  # fmt: skip

    rows = list(csv.DictReader(io.StringIO(result.out)))
    assert rows[0]["metric"] == "recall@5"
    assert "7 users (a sample of" in result.err
    assert count(own_dsn) == 0


def test_the_table_fits_a_terminal(run: Run, own_dsn: str) -> None:
    result = run("--dsn", own_dsn, "compare", "shop", 2, "--after", "2026-02-01")

    assert max(map(len, result.out.splitlines())) <= 80


def test_a_holdout_and_thresholds_are_taken(
    run: Run, own_dsn: str, tmp_path: Path
) -> None:
    (tmp_path / "test.csv").write_text(
        "user_id,item_id\n" + "".join(f"{u},{u + 100}\n" for u in range(1, 31))
    )

    result = run(
        "--dsn", own_dsn, "compare", "shop", 2, "--holdout", "test.csv",
        "--min-users", 31, "--max-drop", 0.5, "--min-coverage", 0.1,
        "--max-latency", 9, "--seed", 4,
    )  # fmt: skip

    assert "too little data: 31 users are needed" in result.err


class Checker(HTMLParser):
    """Every tag is closed, and nothing is loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        assert tag not in ("script", "link", "img", "iframe")
        assert not {name for name, _ in attrs} & {"src", "href"}
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        if tag in ("p", "li") and self.open[-1] != tag:
            return
        assert self.open.pop() == tag


def test_a_page_shows_bars_and_ten_users(
    run: Run, own_dsn: str, tmp_path: Path
) -> None:
    result = run(
        "--dsn", own_dsn, "compare", "shop", 2, "--after", "2026-02-01",
        "--html", "compare.html",
    )  # fmt: skip

    text = (tmp_path / "compare.html").read_text()
    checker = Checker()
    checker.feed(text)
    assert "Wrote compare.html" in result.err
    assert checker.open == []
    assert checker.counts["h3"] == 10
    assert checker.counts["rect"] >= 20
    assert "http" not in text
    # Titles come from the item source: its text and its category.
    assert "shirt" in text
    assert " · Acme (" in text


def test_titles_cannot_break_the_page() -> None:
    example = Example("<b>", (1,), (2,), (2, 3), (3,))
    comparison = Comparison(
        model="shop", number=2, base_number=None, cutoff=None, users=1, hits=1, k=20,
        sample_percent=37.0, limited=True, passed=False, verdict="<i>no</i>",
        metrics={"ndcg@20": Paired(0.1, 0.2, 0.1, 0.0, 0.2, 0.1)}, examples=(example,),
    )  # fmt: skip

    text = _page.page(comparison, {2: "<script>x</script>", 3: "long " * 30})

    Checker().feed(text)
    assert "&lt;script&gt;" in text
    assert "…" in text
    assert "37 % of the items" in text


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["shop", "2"], ["unknown", "--after"]),
        (["shop", "2", "--after", "2099-01-01"], ["nobody took", "--until"]),
        (["shop", "1", "--after", "2026-02-01"], ["itself", "BASE"]),
        (["shop", "9", "--after", "2026-02-01"], ["no version 9"]),
        (["shop", "2", "9", "--after", "2026-02-01"], ["no version 9"]),
        (["nope", "2", "--after", "2026-02-01"], ["'nope'"]),
        (["shop", "2", "--holdout", "no.csv"], ["no.csv"]),
        (["shop", "2", "--holdout", "a", "--after", "2026-02-01"], ["either"]),
        (["shop", "2", "--after", "2026-02-01", "-k", "0"], ["k must be"]),
        (["shop", "2", "--after", "2026-02-01", "--users", "0"], ["positive"]),
    ],
)
def test_what_cannot_be_compared_is_explained(
    run: Run, shop_dsn: str, args: list[str], words: list[str]
) -> None:
    failed(run("--dsn", shop_dsn, "compare", *args), *words, hint=False)


def test_a_page_that_cannot_be_written_is_told(run: Run, own_dsn: str) -> None:
    failed(
        run("--dsn", own_dsn, "compare", "shop", 2, "--after", "2026-02-01",
            "--html", "no/such/folder.html"),
        "no/such/folder.html", hint=False,
    )  # fmt: skip


def test_no_server_is_told(run: Run) -> None:
    failed(run("--dsn", "host=/nowhere", "compare", "shop", 2), "cannot connect")
