"""``recsys train``: what it refuses, and says of an early end and of its data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from conftest import SHOP, Run

from recsys import _db
from recsys.training import trainer
from recsys.updates import run as updates

pytestmark = pytest.mark.usefixtures("toml")


@pytest.mark.parametrize("begun", [True, False])
def test_ctrl_c_says_whether_the_fit_is_kept(
    run: Run, own_dsn: str, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    def interrupted(*_: object, checkpoint: Any, **__: object) -> None:
        if begun:
            checkpoint.path.write_bytes(b"")
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "train", interrupted)
    ended = run("--dsn", own_dsn, "train", "shop", "--checkpoint", "state")

    assert ended.code == 130
    assert ("--checkpoint state --resume goes on with it" in ended.err) is begun
    assert ended.err.rstrip().endswith("Interrupted.")


def test_a_time_before_all_interactions_is_named(run: Run, own_dsn: str) -> None:
    ended = run("--dsn", own_dsn, "train", "shop", "--until", "1990-01-01")

    assert ended.code == 1
    assert "no interactions before 1990-01-01" in ended.err
    assert "later --until" in ended.err


@pytest.mark.parametrize(
    ("until", "says"),
    [
        ("2099-01-01", "--until 2099-01-01 00:00:00 leaves nothing out: the last"),
        ("2026-01-02", None),
        (None, None),
    ],
)
def test_a_time_after_all_interactions_is_named(
    run: Run,
    own_dsn: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    until: str | None,
    says: str | None,
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "train", stopped)
    with _db.connect(own_dsn) as conn:
        conn.execute("update event set created_at = '2026-01-03 12:00Z'")
        conn.execute("update event set created_at = '2026-01-01' where product_id > 9")

    options = () if until is None else ("--until", until)
    run("--dsn", own_dsn, "train", "shop", *options)

    if says is None:
        assert "leaves nothing out" not in caplog.text
    else:
        assert f"{says} interaction is of 2026-01-03 12:00:00 UTC" in caplog.text


def test_an_update_without_news_says_what_it_does_not_look_at(
    run: Run, own_dsn: str
) -> None:
    with _db.connect(own_dsn) as conn:
        conn.execute(
            "update recsys.model_version"
            """ set spec = spec || '{"trained_until": "2099-01-02T00:10:00+00:00"}'"""
        )

    ended = run("--dsn", own_dsn, "train", "shop", "--incremental")

    assert ended.code == 0
    assert "Version 1: nothing new from 2099-01-02 00:05:00 UTC on" in ended.err
    assert "more than 300 s (update.overlap_s) after its time" in ended.err


@pytest.mark.parametrize(("users", "said"), [(2, True), (200, False), (0, False)])
def test_an_update_that_few_judged_says_so(
    run: Run, own_dsn: str, monkeypatch: pytest.MonkeyPatch, users: int, said: bool
) -> None:
    measured = {"users": users, "recall": 1.0, "ndcg": 1.0}
    done = updates.Updated(1, "published", read=9, trained=9, metrics=measured)
    monkeypatch.setattr(updates, "update", lambda *_, **__: [done])

    ended = run("--dsn", own_dsn, "train", "shop", "--incremental")

    assert ("Warning: version 1: only 2 users were measured" in ended.err) is said


def test_interactions_that_name_no_item_are_not_blamed_on_the_time(
    run: Run, own_dsn: str
) -> None:
    with _db.connect(own_dsn) as conn:
        conn.execute("update event set product_id = product_id + 1000000")

    ended = run("--dsn", own_dsn, "train", "shop", "--until", "2099-01-01")

    assert ended.code == 1
    assert "among those of items.sql" in ended.err


@pytest.mark.parametrize(
    ("options", "says", "hint"),
    [
        ("--max-load 0.5", "--max-load goes with --incremental", "backfill shop"),
        ("--apply --max-load 1", "--max-load goes with --incremental", "--apply"),
        ("--incremental --max-load 0", "above 0 and up to 1, got 0", ""),
        ("--incremental --dims 8", "--dims would do nothing", "Leave it out"),
        ("--incremental --full --resume", "--full, --resume would", ""),
        ("--incremental --until 2026-01-01", "--until would do nothing", ""),
        ("--dims 16,64", "--dims 16,64 does not fall", "--dims 64,16."),
        ("--dims 8,8", "--dims 8,8 does not fall", "--dims 8."),
        ("--dims 2000", "--dims 2000: [model.shop] train.dim must be 2 to 1999", ""),
        ("--dims 8,0", "--dims 8,0: [model.shop] train.prefixes must be", ""),
        ("--from 1", "--from goes with --full", ""),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    run: Run, own_dsn: str, options: str, says: str, hint: str
) -> None:
    ended = run("--dsn", own_dsn, "train", "shop", *options.split())

    assert ended.code == 1
    assert says in ended.err
    assert hint in ended.err


@pytest.mark.parametrize("command", ["train shop --incremental", "train shop --full",
                                     "updates shop"])  # fmt: skip
def test_without_times_every_command_gives_the_same_way_out(
    run: Run, own_dsn: str, command: str
) -> None:
    with _db.connect(own_dsn) as conn:
        conn.execute(
            "update recsys.model_version set spec = spec - 'trained_until'"
            """ || '{"columns": ["kind"]}'"""
        )

    ended = run("--dsn", own_dsn, *command.split())

    assert ended.code == (0 if command == "updates shop" else 1)
    assert "trained on interactions without times" in ended.err
    assert "as occurred_at in interactions.sql, and train once more" in ended.err


def test_updates_every_few_minutes_need_times(
    run: Run, own_dsn: str, toml: Path
) -> None:
    text = SHOP.replace(", created_at as occurred_at", "")
    toml.write_text(f"{text}[model.shop.update]\nevery_s = 60\n")

    ended = run("--dsn", own_dsn, "train", "shop")

    assert ended.code == 1
    assert "update.every_s asks for incremental updates" in ended.err


def test_a_feature_that_knows_the_future_is_explained_once(
    run: Run, own_dsn: str, toml: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with _db.connect(own_dsn) as conn:
        conn.execute(
            "create table sale as select customer, 1 + (customer * customer + n * n)"
            " % 150 as product, n from generate_series(1, 90) as customer,"
            " generate_series(1, 20) as n"
        )
    toml.write_text(
        """
[model.shop.items]
sql = "select product as item_id, count(*) as sold from sale group by 1"
features = { sold = { type = "number" } }
[model.shop.interactions]
sql = '''select customer as user_id, product as item_id,
timestamptz '2026-01-01' + n * interval '1 day' as occurred_at from sale'''
[model.shop.train]
dim = 8
epochs = 1
"""
    )

    ended = run("--dsn", own_dsn, "train", "shop", "--no-revision")

    assert ended.code == 0
    # Neither as a count of users nor in the verdict is it explained again.
    assert caplog.text.count("sold") == 1
    assert "feature sold knows the future" in caplog.text
    assert "sold" not in ended.err
    assert "knows the future: see the warning of a feature above" in ended.err


def test_negatives_of_single_queries_are_counted_at_the_end(
    run: Run, own_dsn: str, toml: Path
) -> None:
    kinds = 'weights = { view = 1 }\ndislikes = ["cart"]\n[model.shop.items]'
    text = SHOP.replace("occurred_at", "occurred_at, kind")
    text = text.replace("[model.shop.items]", kinds)
    toml.write_text(f"{text}[model.shop.train]\ndim = 8\nepochs = 1\n")

    ended = run("--dsn", own_dsn, "train", "shop", "--no-revision")

    assert re.search(r"single queries, in pairs: [\d,]+ disliked\n", ended.err)
