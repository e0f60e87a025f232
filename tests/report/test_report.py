"""The report of a version: everything is in it, also when half of it is missing."""

from __future__ import annotations

import dataclasses
import html
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import world
from tasteful import Reported

from recsys import _db, versions
from recsys.errors import UnknownVersion
from recsys.report import charts, facts, page


class Tags(HTMLParser):
    """Checks that every tag is closed, and collects text and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "line", "rect", "circle", "path"):
            self.open.append(tag)
        self.addresses += [
            v or "" for k, v in attrs if k in ("src", "href", "xlink:href")
        ]

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(text: str) -> Tags:
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    return tags


@pytest.fixture(scope="module")
def known(reported: Reported) -> facts.Facts:
    with _db.connect(reported.dsn) as conn:
        return facts.collect(conn, "shop", 1)


def test_the_report_holds_every_part_and_loads_nothing(known: facts.Facts) -> None:
    text = page.page(known)

    tags = parsed(text)
    for part in (
        "Learning", "Search for settings", "Health of the fit", "Gradient norm",
        "Whom the average hides", "Index", "Settings", "Seconds",
        "Interactions by kind",
        "Best lists", "Worst lists", "most popular", "recall@20", "dropped",
    ):  # fmt: skip
        assert part in tags.text, part
    assert tags.addresses == []
    assert "<script" not in text
    assert "@import" not in text
    assert "url(" not in text


def test_numbers_are_those_of_the_version(known: facts.Facts) -> None:
    text = page.page(known)

    model = known.metrics["validation"]["model"]
    assert f"<b>{model['recall@20']:.4f}</b>" in text
    assert known.problems == []
    assert len(known.report["curves"]) > 3


def test_segments_are_slices_of_the_version_after_the_backfill(
    reported: Reported,
) -> None:
    with _db.connect(reported.dsn) as conn:
        rows = conn.execute(
            "select slice, method from recsys.version_metric where model = 'shop'"
            " and metric = 'recall@20'"
        ).fetchall()

    slices = {name for name, _ in rows}
    assert "validation" in slices
    assert {"validation: head items", "validation: kind cart"} <= slices
    assert ("validation: head items", "most_popular") in rows


def test_items_are_called_by_their_text_feature_and_users_by_nothing(
    reported: Reported, known: facts.Facts
) -> None:
    with _db.connect(reported.dsn) as conn:
        titles = dict(conn.execute("select id::text, title from product").fetchall())

    (sample, *_) = known.report["samples"]
    first = str(sample["list"][0])
    assert known.titles[first] == titles[first]
    assert html.escape(titles[first]) in page.page(known)
    assert not any("user" in key for key in sample)


def test_markup_in_titles_and_names_is_text(known: facts.Facts) -> None:
    evil = '<img src=x onerror=alert(1)>"&'
    changed = dataclasses.replace(
        known,
        titles=dict.fromkeys(known.titles, evil),
        created_by=evil,
        metrics={
            **known.metrics,
            f"validation: kind {evil}": known.metrics["validation"],
        },
        problems=[evil],
    )

    text = page.page(changed)

    parsed(text)
    assert "<img" not in text
    assert html.escape(evil) in text


def test_a_version_without_a_report_still_has_a_page(
    reported: Reported, server: str
) -> None:
    copied = world.database(server, world.name_of(reported.dsn))
    with copied as dsn, _db.connect(dsn) as conn:
        version = versions.get(conn, "shop", 1)
        conn.execute(
            "delete from recsys.artifact where sha256 = %s",
            (version.artifacts["report"],),
        )
        conn.execute("alter table product rename to gone")
        found = facts.collect(conn, "shop", 1)
        text = page.page(found)

    assert "is not in this database" in parsed(text).text
    assert "recall@20" in text


def test_a_source_that_is_gone_costs_the_titles_alone(
    reported: Reported, server: str
) -> None:
    copied = world.database(server, world.name_of(reported.dsn))
    with copied as dsn, _db.connect(dsn) as conn:
        conn.execute("alter table product rename to gone")
        found = facts.collect(conn, "shop", 1)
        after = conn.execute("select 1").fetchone()

    assert found.titles == {}
    assert "Items are shown by their ids" in found.problems[0]
    assert after == (1,)
    assert "Best lists" in page.page(found)


def test_an_unknown_version_is_said(reported: Reported) -> None:
    with _db.connect(reported.dsn) as conn, pytest.raises(UnknownVersion):
        facts.collect(conn, "shop", 9)


def test_a_study_is_shown(
    reported: Reported, known: facts.Facts, tmp_path: Path
) -> None:
    from recsys.training.study import TrialRow

    trials = [
        TrialRow(n, state, 0.1 * n, {"recall@20": 0.1, "ndcg@20": 0.1, "epoch": 2.0},
                 1.0, {"tau": 0.1 * n}, {1: 0.05, 2: 0.1 * n})
        for n, state in enumerate(("complete", "complete", "pruned"))
    ]  # fmt: skip

    text = page.page(dataclasses.replace(known, trials=trials))

    tags = parsed(text)
    assert "2 trials finished, 1 did not" in tags.text
    assert "ended early" in tags.text


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 0.0), (1e-9, 1e-8), (-3, 5), (1e5, 1e7), (0.1, 0.1001)]
)
@pytest.mark.parametrize("log", [False, True])
def test_charts_stay_inside_whatever_the_numbers(
    low: float, high: float, log: bool
) -> None:
    text = charts.lines(
        "t", [charts.Line("a", [(1, low), (2, high), (3, float("nan"))])], log=log
    )

    for x, y in re.findall(r'cx="([-\d.]+)" cy="([-\d.]+)"', text):
        assert 0 <= float(x) <= 460
        assert 0 <= float(y) <= 230
    assert "nan" not in text
    assert text.count('class="grid"') <= 9


def test_ticks_are_round() -> None:
    assert [charts.nice(x) for x in (0.013, 3, 7, 20, 0.5)] == pytest.approx(
        [0.02, 5, 10, 20, 0.5]
    )


def test_the_command_writes_the_file(reported: Reported, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from recsys.cli.app import cli

    out = tmp_path / "r.html"
    done = CliRunner().invoke(
        cli, ["--dsn", reported.dsn, "report", "shop", "--out", str(out)]
    )

    assert done.exit_code == 0, done.output
    assert out.read_text().startswith("<!doctype html>")
