"""Going on after an interruption, and errors that say what broke a fit."""

from __future__ import annotations

import json
import logging
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_next_item import chains
from test_next_item import config as next_config
from toys import FAST, checkerboard, make_config

from recsys.config import (
    ContentConfig,
    Feature,
    ModelConfig,
    NegativesConfig,
    Source,
)
from recsys.errors import ConfigError, TrainingError
from recsys.progress import Progress
from recsys.training import checkpoint, loop
from recsys.training.checkpoint import Checkpoint
from recsys.training.choice import Choice
from recsys.training.dataset import Dataset
from recsys.training.trainer import train

Build = Callable[..., Dataset]
CONFIG = make_config(train=replace(FAST, epochs=6))


class Stopping:
    """Ctrl-C in an epoch of the final fit."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def stage(self, name: str, total: int | None = None) -> Any:
        outer = self

        class Stage:
            def __enter__(self) -> Stage:
                return self

            def __exit__(self, *exc: object) -> None:
                pass

            def advance(self, n: int = 1, note: str = "") -> None:
                if name == "fit":
                    outer.epoch -= 1
                    if outer.epoch == 0:
                        raise KeyboardInterrupt

        return Stage()


@pytest.fixture(autouse=True)
def _every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "EVERY_S", 0.0)


def interrupted(
    board: Build, path: Path, epoch: int = 4, config: ModelConfig = CONFIG
) -> None:
    progress: Progress = Stopping(epoch)
    with pytest.raises(KeyboardInterrupt):
        train(
            board(), config, progress=progress,
            checkpoint=Checkpoint(path, resume=False),
        )  # fmt: skip


@pytest.mark.parametrize("sparse_below", [0.0, 2.0])
def test_a_resumed_training_ends_like_one_that_was_never_interrupted(
    board: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sparse_below: float
) -> None:
    monkeypatch.setattr(loop, "SPARSE_BELOW", sparse_below)
    path = tmp_path / "new" / "toy.safetensors"
    whole = train(board(), CONFIG)
    interrupted(board, path)

    resumed = train(board(), CONFIG, checkpoint=Checkpoint(path, resume=True))

    assert np.array_equal(whole.id_served, resumed.id_served)
    assert np.array_equal(whole.id_history, resumed.id_history)
    assert whole.query_tower == resumed.query_tower
    curve = [row["epoch"] for row in resumed.report["curves"] if row["run"] == 0]
    assert curve == [1, 2, 3, 4, 5, 6]
    assert resumed.report["validation"] == whole.report["validation"]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_resumed_transformer_drops_what_it_would_have_dropped(tmp_path: Path) -> None:
    path = tmp_path / "toy.safetensors"
    config = next_config(encoder="transformer")
    dataset = chains(40)[0]
    whole = train(dataset, config)
    interrupted(lambda: dataset, path, 2, config)

    resumed = train(dataset, config, checkpoint=Checkpoint(path, resume=True))

    assert np.array_equal(whole.id_served, resumed.id_served)
    assert np.array_equal(whole.id_history, resumed.id_history)
    assert whole.query_tower == resumed.query_tower


def test_other_data_cannot_be_gone_on_with(board: Build, tmp_path: Path) -> None:
    path = tmp_path / "toy.safetensors"
    interrupted(board, path)
    users, items = checkerboard(seed=1)
    other = Dataset.from_arrays(CONFIG, users, items)

    with pytest.raises(TrainingError, match="other data") as caught:
        train(other, CONFIG, checkpoint=Checkpoint(path, resume=True))

    assert "without --resume" in caught.value.hint


def test_other_times_cannot_be_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "toy.safetensors"
    users, items = checkerboard()
    times = 1e9 + 3600.0 * np.arange(len(users))
    moved = times.copy()
    moved[0] -= 60.0  # still the oldest

    def board(times: Any) -> Dataset:
        return Dataset.from_arrays(CONFIG, users, items, times=times)

    interrupted(lambda: board(times), path)

    with pytest.raises(TrainingError, match="other data"):
        train(board(moved), CONFIG, checkpoint=Checkpoint(path, resume=True))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"train": replace(CONFIG.train, lr=0.02)}, "train.lr is 0.02, was 0.006"),
        ({"negatives": NegativesConfig(popular=1.0)}, "negatives.popular is 1.0"),
        ({"query": replace(CONFIG.query, length=9)}, "query.length is 9, was 50"),
        ({"content": ContentConfig(cross=1)}, "content.cross is 1, was 0"),
    ],
)
def test_other_settings_are_named_and_not_gone_on_with(
    board: Build, tmp_path: Path, changes: dict[str, Any], name: str
) -> None:
    path = tmp_path / "toy.safetensors"
    interrupted(board, path, epoch=2)

    with pytest.raises(TrainingError, match="other settings") as caught:
        train(
            board(),
            replace(CONFIG, **changes),
            checkpoint=Checkpoint(path, resume=True),
        )

    assert name in str(caught.value)
    assert "without --resume" in caught.value.hint


def without(path: Path, *names: str) -> None:
    """Leave settings out of a checkpoint, as a release before them did."""
    blob = path.read_bytes()
    size = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + size])
    said = json.loads(header["__metadata__"]["recsys"])
    for name in names:
        del said["settings"][name]
    header["__metadata__"]["recsys"] = json.dumps(said)
    new = json.dumps(header).encode()
    path.write_bytes(len(new).to_bytes(8, "little") + new + blob[8 + size :])


def test_settings_that_came_later_count_as_their_default(
    board: Build, tmp_path: Path
) -> None:
    path = tmp_path / "toy.safetensors"
    interrupted(board, path)
    without(path, "train.distil", "train.horizon_days", "--distil-from")

    other = replace(CONFIG, train=replace(CONFIG.train, horizon_days=3.0))
    with pytest.raises(TrainingError, match=r"train.horizon_days is 3.0, was 0.0"):
        train(board(), other, checkpoint=Checkpoint(path, resume=True))
    resumed = train(board(), CONFIG, checkpoint=Checkpoint(path, resume=True))

    assert np.array_equal(resumed.id_served, train(board(), CONFIG).id_served)


def test_what_decides_nothing_may_change(board: Build, tmp_path: Path) -> None:
    path = tmp_path / "toy.safetensors"
    interrupted(board, path)
    elsewhere = replace(
        CONFIG.train, budget_s=99.0, device="auto", item_updates="sparse"
    )

    kept = Checkpoint(path, resume=True)
    config = replace(CONFIG, train=elsewhere)
    assert kept.plan is not None
    settings = Choice.from_dict(kept.plan, config).settings
    assert (settings.device, settings.item_updates) == ("auto", "sparse")
    train(board(), config, checkpoint=kept)


@pytest.mark.parametrize(
    "content", [None, b"", b"\x08\0\0\0\0\0\0\0{}      ", b"x" * 99]
)
def test_nothing_to_resume_says_so(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "toy.safetensors"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(ConfigError, match="no checkpoint to resume"):
        Checkpoint(path, resume=True)


def test_a_folder_that_cannot_be_is_noticed_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigError, match="cannot be written"):
        Checkpoint(tmp_path / "file" / "toy.safetensors", resume=False)


def test_a_full_disk_costs_the_checkpoint_and_not_the_training(
    board: Build, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "toy.safetensors"
    interrupted(board, path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with caplog.at_level(logging.WARNING):
            model = train(board(), CONFIG, checkpoint=Checkpoint(path, resume=False))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert np.isfinite(model.id_served).all()
    assert caplog.text.count("no checkpoint is written") == 1
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_weights_that_are_not_finite_name_the_items_and_keep_the_last_state(
    board: Build, tmp_path: Path
) -> None:
    path = tmp_path / "toy.safetensors"
    interrupted(board, path, epoch=3)
    before = path.read_bytes()
    absurd = make_config(train=replace(CONFIG.train, lr=1e38))

    with pytest.raises(TrainingError) as caught:
        train(board(), absurd, checkpoint=Checkpoint(path, resume=False))

    message = str(caught.value)
    assert " in epoch 1, step " in message
    assert "weights of items" in message
    assert "the batch has users" in message
    assert "train.lr" in caught.value.hint
    assert path.read_bytes() == before


def test_a_feature_that_is_not_finite_is_named_with_its_item() -> None:
    users, items = checkerboard(users=40, items=12)
    features = (
        Feature("price", "number"),
        Feature("image", "vector", dim=2),
        Feature("size", "number"),
    )
    config = make_config(items=Source("x", features), train=replace(FAST, epochs=2))
    dataset = Dataset.from_arrays(
        config, users, items, item_ids=list(range(12)),
        item_columns={
            "price": np.arange(12.0), "image": [[1.0, 2.0]] * 12, "size": [3.0] * 12,
        },
    )  # fmt: skip
    assert dataset.items is not None
    # Columns: price and whether it is missing, size likewise, then the vector.
    dataset.items.dense[7, 2] = np.nan

    with pytest.raises(TrainingError) as caught:
        train(dataset, config)

    assert "the feature 'size' of item 7 is not finite" in str(caught.value)
    assert "source" in caught.value.hint
