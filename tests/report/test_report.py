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
from recsys.report import facts, page
from recsys.report.samples import reason


class Tags(HTMLParser):
    """Checks that every tag is closed, and collects text, ids and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.addresses: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "line", "rect"):
            self.open.append(tag)
        self.ids += [v or "" for k, v in attrs if k == "id"]
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
    # What closes itself is no open tag.
    tags.feed(re.sub(r"<(path)([^>]*)/>", r"<\1\2></\1>", text))
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
        "Validation score by epoch", "Training loss by epoch", "recall floor",
        "Settings tried by the training", "chosen",
        "Gradient norm by part", "Update-to-weight ratio by part",
        "Length of the served rows", "Directions in use", "At the end of the fit",
        "recall@20 by part", "most popular", "coverage@20", "Index",
        "Settings of the published fit", "Limits", "Seconds", "Interactions by kind",
        "left out", "Best lists", "Worst lists",
    ):  # fmt: skip
        assert part in tags.text, part
    assert {f"#{name}" for name in tags.ids} == set(tags.addresses)
    assert len(tags.ids) == 7
    for loads in ("<script", "@import", "url(", "http:", "https:", "<link", "<img"):
        assert loads not in text, loads


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


def test_stored_evaluations_of_new_users_and_new_items_are_shown(
    known: facts.Facts,
) -> None:
    new = ("first_visit", "first_visit: popular_30d", "session", "session: popular_30d")
    stored = {
        "march": {"model": 0.41, "most_popular": 0.42},
        "newcomers": dict(zip(new, (0.51, 0.52, 0.53, 0.54), strict=True)),
        "cold": {"model": 0.61, "model_among_new": 0.62, "random_among_new": 0.63},
        "later": {"of a later release": 0.71},
    }
    slices = {
        name: {method: {"recall@7": value} for method, value in methods.items()}
        for name, methods in stored.items()
    }

    text = page.page(dataclasses.replace(known, metrics={**known.metrics, **slices}))

    said = parsed(text).text
    for methods in stored.values():
        for value in methods.values():
            assert f"{value:.4f}" in said
    for called in ("session, popular in 30 days", "model, among new items",
                   "any order of new items", "of a later release"):  # fmt: skip
        assert called in said


def test_sampled_users_are_those_of_the_application(
    reported: Reported, known: facts.Facts
) -> None:
    """Somebody can look a user up, and finds there what the report says of them."""
    with _db.connect(reported.dsn) as conn:
        rows = conn.execute(
            "select customer_id, array_agg(product_id order by created_at)"
            " from event group by 1"
        ).fetchall()
    events = dict(rows)

    samples = known.report["samples"]
    assert len({sample["user"] for sample in samples}) == len(samples) == 8
    for sample in samples:
        theirs = events[sample["user"]]
        assert set(theirs) == {*sample["history"], *sample["hits"]}
        # What was chosen next is the end, what they had the beginning.
        assert set(theirs[-len(sample["hits"]) :]) == set(sample["hits"])
        assert f"<h4>User <code>{sample['user']}</code></h4>" in page.page(known)


def test_users_are_left_out_when_asked(reported: Reported) -> None:
    with _db.connect(reported.dsn) as conn:
        found = facts.collect(conn, "shop", 1, user_ids=False)

    assert all("user" not in sample for sample in found.report["samples"])
    assert "Best lists" in page.page(found)
    assert "User <code>" not in page.page(found)


def test_a_sample_says_why_it_is_good_or_bad(known: facts.Facts) -> None:
    samples = known.report["samples"]
    for sample in samples:
        places = [sample["list"].index(i) + 1 for i in sample["hits"]
                  if i in sample["list"]]  # fmt: skip
        assert len(places) / len(sample["hits"]) == pytest.approx(
            sample["recall@20"], abs=1e-4
        )
        said = reason(sample)
        assert said.split(":")[0] == (
            "Good" if sample["sort"] == "good" else "Weak" if places else "Missed"
        )
        assert [int(n) for n in re.findall(r"\d+", said.partition("place")[2])] == (
            sorted(places)
        )
        assert html.escape(said) in page.page(known)
    assert {sample["sort"] for sample in samples} == {"good", "bad"}


@pytest.mark.parametrize(
    ("hits", "said"),
    [
        ([11], "Good: the one item chosen next is at place 1"),
        ([12, 11], "Good: all of the 2 items chosen next are among the first 4"),
        ([11, 99, 14], "Good: 2 of the 3 items chosen next are among the first 4"
                       " recommended, at places 1 and 4"),
        ([98, 99], "Missed: none of the 2 items chosen next is among the first 4"),
        ([99], "Missed: the one item chosen next is not among the first 4"),
    ],
)  # fmt: skip
def test_reasons_read_as_sentences(hits: list[int], said: str) -> None:
    sort = "bad" if "Missed" in said else "good"

    found = reason({"sort": sort, "hits": hits, "list": [11, 12, 13, 14]})

    assert found.startswith(said)


def test_items_are_shown_by_title_id_and_features(
    reported: Reported, known: facts.Facts
) -> None:
    with _db.connect(reported.dsn) as conn:
        rows = conn.execute(
            "select id::text, title, brand, price, created_at::date from product"
        ).fetchall()
    products = {item: others for item, *others in rows}

    (sample, *_) = known.report["samples"]
    for item in map(str, (*sample["history"], *sample["list"], *sample["hits"])):
        title, brand, price, day = products[item]
        about = (f"brand {brand}", f"price {price:g}", f"created_at {day}")
        assert known.items[item] == facts.Item(title, about)
    text = page.page(known)
    first = sample["list"][0]
    title = html.escape(products[str(first)][0])
    assert f"<bdi>{title}</bdi>" in text
    assert f"<small><bdi>id {first}</bdi>" in text


def test_markup_in_titles_and_names_is_text(known: facts.Facts) -> None:
    evil = '<img src=x onerror=alert(1)>"&'
    changed = dataclasses.replace(
        known,
        items=dict.fromkeys(known.items, facts.Item(evil, (evil,))),
        report={
            **known.report,
            "samples": [{**one, "user": evil} for one in known.report["samples"]],
        },
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
    assert "The report of the training is gone" in text
    assert "recall@20" in text


def test_a_source_that_is_gone_costs_the_titles_alone(
    reported: Reported, server: str
) -> None:
    copied = world.database(server, world.name_of(reported.dsn))
    with copied as dsn, _db.connect(dsn) as conn:
        conn.execute("alter table product rename to gone")
        found = facts.collect(conn, "shop", 1)
        after = conn.execute("select 1").fetchone()

    assert found.items == {}
    assert "Items are shown by their ids" in found.problems[0]
    assert after == (1,)
    assert "Best lists" in page.page(found)


def test_an_older_version_without_user_ids_has_its_samples(known: facts.Facts) -> None:
    new = ("user", "hit_users")
    samples = [
        {key: value[:10] if key == "list" else value
         for key, value in sample.items() if key not in new}
        for sample in known.report["samples"]
    ]  # fmt: skip

    text = page.page(
        dataclasses.replace(known, report={**known.report, "samples": samples})
    )

    assert text.count("<h4>A user</h4>") == len(samples)
    assert "the first 10 recommended" in text


def test_empty_parts_say_why(known: facts.Facts) -> None:
    """Of a version that judged nobody and has no index yet, no heading is bare."""
    report = {
        **known.report, "curves": [], "segments": {}, "samples": [], "health": {},
        "cold": {},
    }  # fmt: skip

    text = page.page(
        dataclasses.replace(known, report=report, metrics={}, recall_curve=[])
    )

    assert "No user could be validated on." in text
    assert "recsys backfill makes the index" in text
    assert not re.search(r"</h2></section>", text)


def test_a_full_update_shows_its_steps_beside_the_parent(known: facts.Facts) -> None:
    metrics = {"recall@20": 0.2, "ndcg@20": 0.1, "hr@10": 0.4}
    full = {
        "parent": 1, "step": 0.3, "admitted": 5, "evicted": 2, "fresh": ["brand"],
        "tried": [{"step": 1.0, **metrics}, {"step": 0.3, **metrics}],
    }  # fmt: skip
    report = {
        "full": full, "curves": [{"run": 0, "epoch": 1, "train_loss": 2.0}],
        "validation": {"model": metrics, "parent": {**metrics, "recall@20": 0.1}},
        "mined": {"shown": 1234, "disliked": 0},
    }  # fmt: skip

    text = page.page(dataclasses.replace(known, report=report))

    tags = parsed(text)
    assert "the parent as it was0.10000.10000.40000.2000" in tags.text
    assert '<tr class="best"><th scope="row">0.3</th>' in text
    assert "items that got a row5" in tags.text
    assert "A full update passes once over the news" in tags.text
    assert "shown and not chosen1,234disliked0" in tags.text


def test_the_table_of_fits_has_every_fit_and_marks_the_chosen(
    known: facts.Facts,
) -> None:
    rows = [row for row in known.report["curves"] if row["run"]]
    best = {}
    for row in rows:
        score = row["recall@20"] + row["ndcg@20"]
        best[row["run"]] = max(score, best.get(row["run"], 0))
    chosen = known.report["chosen_run"]

    text = page.page(known).partition("Settings tried by the training")[2]

    head = re.findall(r'<th scope="col"[^>]*>(.*?)</th>', text.partition("</thead>")[0])
    assert len(best) > 2
    for run, score in best.items():
        name = f"{run}, chosen" if run == chosen else str(run)
        row = re.search(rf'<tr[^>]*><th scope="row">{name}</th>.*?</tr>', text)
        assert row is not None, name
        assert f"<td>{score:.4f}</td></tr>" in row[0]
        cells = dict(
            zip(head, re.findall(r"<t[hd][^>]*>(.*?)</t", row[0]), strict=True)
        )
        tried = next(one for one in rows if one["run"] == run)
        assert float(cells["tau"]) == tried["tau"]


def test_a_lean_explains_why_the_headline_is_another(known: facts.Facts) -> None:
    settings = {**known.report["settings"], "lean": 0.25}
    leaning = {**known.report, "settings": settings}

    with_lean = page.page(dataclasses.replace(known, report=leaning))

    assert "The headline has the lean (0.25) as well." in with_lean
    assert known.report["settings"]["lean"] == 0
    assert "The headline has" not in page.page(known)


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
    assert "Score of each trial of the study" in tags.text
    assert "2 trials finished, 1 did not" in tags.text
    assert "ended early" in tags.text


def test_the_command_writes_the_file(reported: Reported, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from recsys.cli.app import cli

    out = tmp_path / "r.html"
    done = CliRunner().invoke(
        cli, ["--dsn", reported.dsn, "report", "shop", "--out", str(out)]
    )

    assert done.exit_code == 0, done.output
    assert out.read_text().startswith("<!doctype html>")
    assert "User <code>" in out.read_text()


def test_the_command_leaves_users_out(reported: Reported, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from recsys.cli.app import cli

    out = tmp_path / "r.html"
    given = ["--dsn", reported.dsn, "report", "shop", "--out", str(out)]
    done = CliRunner().invoke(cli, [*given, "--no-user-ids"])

    assert done.exit_code == 0, done.output
    assert "User <code>" not in out.read_text()
