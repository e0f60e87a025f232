"""Training as operators run it: tiny data, real torch, and what interruptions leave."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import world

from recsys import Recommender, _db, artifacts, pipeline, schema, versions
from recsys.backfill import backfill
from recsys.config import IdType, ProjectConfig, from_mapping
from recsys.errors import ConfigError, SchemaError, SourceError, TrainingError

TRAIN = {"epochs": 2, "budget_s": 3.0, "batch": 64, "negatives": 32}


def project(folder: Path, id_type: IdType = "bigint", **options: Any) -> ProjectConfig:
    data = world.toml(id_type, train=TRAIN, **options)
    return from_mapping({**data, "versions": str(folder / "recsys_versions")})


def left(dsn: str) -> tuple[int, int, int]:
    """Numbers given out, versions registered, artifacts stored."""
    with _db.connect(dsn) as conn:
        row = conn.execute(
            "select coalesce((select max(last_number) from recsys.model), 0),"
            " (select count(*) from recsys.model_version),"
            " (select count(*) from recsys.artifact)"
        ).fetchone()
    assert row
    return row[0], row[1], row[2]


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that fails at once, where what surrounds it is tested."""
    from recsys.training import trainer

    def train(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "train", train)


def test_a_version_is_trained_declared_filled_and_serves(
    dsn: str, tmp_path: Path
) -> None:
    world.fill_shop(dsn)
    config = project(tmp_path, features=True)

    trained = pipeline.train_version(dsn, config, "shop", seed=7)

    assert left(dsn)[:2] == (1, 0)
    assert trained.revision
    assert trained.revision.parent == config.versions
    schema.upgrade(dsn, config.versions)
    report = backfill(dsn, "shop")
    with _db.connect(dsn) as conn:
        versions.promote(conn, "shop", 1)
        version = versions.get(conn, "shop", 1)
        stored = json.loads(artifacts.get(conn, version.artifacts["report"]))
    assert report.item_count == 200
    assert version.spec["train"]["seed"] == 7
    assert set(version.metrics["validation"]) >= {"model", "most_popular"}
    assert stored["curves"]
    with Recommender("shop", dsn=dsn) as model:
        assert len(model.recommend(7)) == 20


@pytest.mark.parametrize("id_type", ["uuid", "text"])
def test_without_a_revision_the_version_is_made_directly(
    dsn: str, tmp_path: Path, id_type: IdType
) -> None:
    world.fill_shop(dsn, id_type, items=40, users=10, events=6)
    config = project(tmp_path, id_type)

    trained = pipeline.train_version(dsn, config, "shop", revision=False)

    assert trained.revision is None
    assert not config.versions.exists()
    assert left(dsn)[:2] == (1, 1)
    assert backfill(dsn, "shop").item_count == 40


def test_an_interrupted_training_leaves_nothing_but_a_burnt_number(
    dsn: str, tmp_path: Path, instant: None
) -> None:
    world.fill_shop(dsn)
    config = project(tmp_path)

    for number in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            pipeline.train_version(dsn, config, "shop", revision=number == 1)
        assert left(dsn) == (number, 0, 0)

    assert not config.versions.exists()


@pytest.fixture
def training(dsn: str, tmp_path: Path) -> subprocess.Popen[str]:
    """A process in the middle of a training that would take a minute."""
    world.fill_shop(dsn)
    code = """
        import json, sys, time
        from pathlib import Path
        from recsys import config, pipeline
        from recsys.training import trainer
        def train(*args, **options):
            print("training", flush=True)
            time.sleep(60)
        trainer.train = train
        data = json.loads(sys.argv[2])
        pipeline.train_version(sys.argv[1], config.from_mapping(data), "shop")
    """
    data = {**world.toml(), "versions": str(tmp_path / "recsys_versions")}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), dsn, json.dumps(data)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "training\n", process.communicate()
    return process


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_process_leaves_nothing_and_blocks_nobody(
    dsn: str,
    tmp_path: Path,
    training: subprocess.Popen[str],
    instant: None,
    how: signal.Signals,
) -> None:
    config = project(tmp_path)
    with pytest.raises(TrainingError, match="another training") as caught:
        pipeline.train_version(dsn, config, "shop")
    assert "Wait for it" in caught.value.hint

    training.send_signal(how)
    training.communicate(timeout=30)

    assert training.returncode != 0
    assert left(dsn) == (1, 0, 0)
    assert not config.versions.exists()
    with pytest.raises(KeyboardInterrupt):  # it may train again
        pipeline.train_version(dsn, config, "shop")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("delete from event", TrainingError, "no interactions"),
        ("update event set product_id = 999999", TrainingError, "no interactions"),
        ("delete from product", (SourceError, TrainingError), "no interactions"),
        ("drop table event", SourceError, "event"),
        ("alter table event rename kind to sort", SourceError, "kind"),
        ("alter table event rename customer_id to c", SourceError, "customer_id"),
        ("alter table product rename to gone", SourceError, "product"),
        (
            "alter table product drop constraint product_pkey;"
            " insert into product select * from product where id = 7",
            SourceError,
            "7",
        ),
        (
            "alter table product drop constraint product_pkey;"
            " alter table product alter id drop not null;"
            " insert into product (id, shelf) values (null, 1)",
            SourceError,
            "null",
        ),
        ("alter table product alter id type text", SourceError, "item_id"),
        ("alter table event alter customer_id type text", SourceError, "user_id"),
    ],
)
def test_sources_that_cannot_be_learned_from_are_named(
    dsn: str, tmp_path: Path, change: str, error: Any, message: str
) -> None:
    world.fill_shop(dsn, items=40, users=10, events=6)
    with _db.connect(dsn) as conn:
        conn.execute(change.encode())

    with pytest.raises(error, match=message) as caught:
        pipeline.train_version(dsn, project(tmp_path), "shop")

    assert caught.value.hint
    assert left(dsn)[1:] == (0, 0)


@pytest.mark.parametrize("table", ["event", "product", "customer"])
def test_empty_sources_with_features_are_named(
    dsn: str, tmp_path: Path, table: str
) -> None:
    world.fill_shop(dsn, items=40, users=10, events=6)
    with _db.connect(dsn) as conn:
        conn.execute(f"truncate {table}".encode())
    config = project(tmp_path, features=True)

    if table == "customer":
        pipeline.train_version(dsn, config, "shop")
        return
    with pytest.raises((TrainingError, SourceError)):
        pipeline.train_version(dsn, config, "shop")


@pytest.mark.parametrize(
    "sizes",
    [
        {"items": 1, "users": 5, "events": 1},
        {"items": 20, "users": 1, "events": 5},
        {"items": 5, "users": 8, "events": 5},
        {"items": 1, "users": 1, "events": 1},
    ],
    ids=["one item", "one user", "all seen", "one of each"],
)
def test_the_smallest_shops_train_or_say_why_not(
    dsn: str, tmp_path: Path, sizes: dict[str, int]
) -> None:
    world.fill_shop(dsn, **sizes)

    try:
        pipeline.train_version(dsn, project(tmp_path), "shop", revision=False)
    except TrainingError:
        assert left(dsn)[1:] == (0, 0)
        return
    backfill(dsn, "shop")
    with _db.connect(dsn) as conn:
        versions.promote(conn, "shop", 1)
    with Recommender("shop", dsn=dsn) as model:
        seen = min(sizes["events"], sizes["items"])
        assert len(model.recommend(1)) == sizes["items"] - seen
        assert len(model.recommend(999)) == min(20, sizes["items"])


def test_a_missing_schema_or_model_is_named(empty_dsn: str, tmp_path: Path) -> None:
    with pytest.raises(SchemaError):
        pipeline.train_version(empty_dsn, project(tmp_path), "shop")
    with pytest.raises(ConfigError, match="shpo"):
        pipeline.train_version(empty_dsn, project(tmp_path), "shpo")


def test_a_model_of_other_id_types_is_refused(
    dsn: str, tmp_path: Path, instant: None
) -> None:
    world.fill_shop(dsn)
    with pytest.raises(KeyboardInterrupt):
        pipeline.train_version(dsn, project(tmp_path), "shop")

    with pytest.raises(ConfigError, match="registered with item ids bigint"):
        pipeline.train_version(dsn, project(tmp_path, "text"), "shop")

    assert left(dsn) == (1, 0, 0)
