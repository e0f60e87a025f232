"""The search for settings: what it compares, and what is left when it is ended."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from toys import FAST, checkerboard, make_config

from recsys.config import Feature, ModelConfig, Source, TrainConfig
from recsys.errors import ConfigError, TrainingError
from recsys.progress import SILENT, Stage
from recsys.training import space, study
from recsys.training.dataset import Dataset
from recsys.training.search import Found, search
from recsys.tuning import Tuned

QUICK = replace(FAST, epochs=3, dim=8)


def toy(train: TrainConfig = QUICK, users: int = 60) -> tuple[Dataset, ModelConfig]:
    config = make_config(train=train)
    return Dataset.from_arrays(config, *checkerboard(users=users)), config


def run(path: Path, trials: int, **options: object) -> Found:
    dataset, config = toy()
    options = {"progress": SILENT, "only": ("tau", "lr"), **options}
    return search(dataset, config, path, trials=trials, **options)  # type: ignore[arg-type]


def test_the_first_trial_has_todays_settings_and_the_best_is_the_best(
    tmp_path: Path,
) -> None:
    found = run(tmp_path / "toy.study", 5)

    assert found.trials[0].settings == {"tau": QUICK.tau, "lr": QUICK.lr}
    scores = [row.score for row in found.trials if row.state == "complete"]
    assert found.best is not None
    assert found.best.score == max(s for s in scores if s is not None)
    assert [row.number for row in found.trials] == list(range(5))
    assert found.epochs == QUICK.epochs
    assert len({tuple(row.settings.items()) for row in found.trials}) == 5


def test_the_same_seed_searches_the_same_points(tmp_path: Path) -> None:
    one, other = run(tmp_path / "a", 3), run(tmp_path / "b", 3)

    assert [row.settings for row in one.trials] == [r.settings for r in other.trials]
    assert [row.score for row in one.trials] == [r.score for r in other.trials]


def test_a_settled_study_is_not_begun_again_by_accident(tmp_path: Path) -> None:
    path = tmp_path / "toy.study"
    run(path, 1)

    with pytest.raises(ConfigError, match="exists") as caught:
        run(path, 1)

    assert "--resume" in caught.value.hint
    assert len(run(path, 2, resume=True).trials) == 3


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "recsys.toml"
    path.write_text("[model.shop]\nno newline at the end")

    with pytest.raises(ConfigError, match="is not a study"):
        run(path, 1, resume=True)

    assert path.read_text() == "[model.shop]\nno newline at the end"


def test_a_line_cut_off_by_a_crash_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "toy.study"
    run(path, 2)
    with path.open("ab") as file:
        file.write(b'{"op_code":6,"worker_id":"x","trial_')

    found = run(path, 1, resume=True)

    assert [row.state for row in found.trials] == ["complete"] * 3


def test_other_data_are_refused(tmp_path: Path) -> None:
    run(tmp_path / "toy.study", 1)
    dataset, config = toy(users=90)

    with pytest.raises(TrainingError, match="cannot be compared"):
        search(
            dataset, config, tmp_path / "toy.study", resume=True, trials=1,
            progress=SILENT,
        )  # fmt: skip


def test_a_study_compares_under_the_settings_it_began_with(tmp_path: Path) -> None:
    """--write changes recsys.toml; the study goes on as it was."""
    path = tmp_path / "toy.study"
    first = run(path, 1)
    dataset, config = toy(replace(QUICK, epochs=9, seed=5, validation=0.3))

    found = search(dataset, config, path, resume=True, trials=1, progress=SILENT)

    assert (found.epochs, found.users) == (first.epochs, first.users)
    assert set(found.trials[1].settings) == {"tau", "lr"}


class Interrupting:
    """Progress that presses Ctrl-C at the n-th report."""

    def __init__(self, at: int) -> None:
        self.left = at

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Stage]:
        yield self

    def advance(self, n: int = 1, note: str = "") -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_ctrl_c_ends_with_what_was_found(tmp_path: Path) -> None:
    path = tmp_path / "toy.study"

    found = run(path, 9, progress=Interrupting(at=6))

    assert found.interrupted
    assert found.best is not None
    states = [row.state for row in found.trials]
    assert states == ["complete", "interrupted"]
    assert len(run(path, 1, resume=True).trials) == 3


def test_a_setting_that_diverges_is_told_and_not_the_end(tmp_path: Path) -> None:
    dataset, config = toy(replace(QUICK, lr=1e38))

    found = search(
        dataset, config, tmp_path / "s", only=("lr",), trials=2, progress=SILENT
    )

    assert found.trials[0].state == "failed"
    assert "loss is nan" in found.trials[0].note


@pytest.mark.parametrize(
    ("others", "verdict"),
    [
        (("failed",), "1 other trial failed: the warnings say why"),
        (("failed", "failed", "unfinished"), "2 other trials failed: the warnings"),
        (("failed", "pruned"), "Nothing was better than today's settings."),
        (("unfinished",), "no other trial was finished"),
    ],
)
def test_that_nothing_was_better_is_said_of_what_was_compared(
    tmp_path: Path, others: tuple[str, ...], verdict: str
) -> None:
    rows = [
        study.TrialRow(number, state, 0.1, {}, 1.0, {})
        for number, state in enumerate(("complete", *others))
    ]
    found = Found(rows, rows[0], epochs=3, users=60, interrupted=False)

    assert verdict in Tuned("toy", tmp_path / "toy.study", found).verdict


def test_a_trial_below_the_others_is_ended_early(tmp_path: Path) -> None:
    dataset, config = toy(replace(QUICK, epochs=6))

    found = search(
        dataset, config, tmp_path / "s", only=("lr", "dropout"), trials=12,
        progress=SILENT,
    )  # fmt: skip

    pruned = [row for row in found.trials if row.state == "pruned"]
    assert pruned
    assert all(len(row.curve) < 6 for row in pruned)


def test_the_budget_ends_the_search_in_the_middle_of_a_trial(tmp_path: Path) -> None:
    dataset, config = toy(replace(QUICK, epochs=5000))
    started = time.perf_counter()

    found = search(
        dataset, config, tmp_path / "s", only=("tau",), budget_s=0.3, progress=SILENT
    )

    assert time.perf_counter() - started < 20  # five thousand epochs take minutes
    assert found.best is None
    assert [row.state for row in found.trials] in ([], ["unfinished"])


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[2])
import torch
torch.set_num_threads(1)
from pathlib import Path
from test_settings_search import run
run(Path(sys.argv[1]), 10_000, resume=True)
"""


def test_processes_share_a_study_and_a_killed_one_is_buried(tmp_path: Path) -> None:
    path = tmp_path / "toy.study"
    run(path, 1)
    other = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(path), str(Path(__file__).parent)]
    )
    try:
        ended = time.monotonic() + 60
        while len(study.load(path).rows()) < 2:
            assert time.monotonic() < ended
            time.sleep(0.1)
        both = run(path, 2, resume=True)
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()

    found = run(path, 1, resume=True)

    numbers = [row.number for row in found.trials]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= len(both.trials) + 1 >= 5
    assert not any(row.state == "running" for row in found.trials)


def test_the_space_has_every_setting_once_and_todays_value() -> None:
    current = dict.fromkeys(space.names(), 0.01) | {"batch": 300, "negatives": 4096,
                                                    "dim": 64}  # fmt: skip

    found = space.space(current, content=False, largest={"batch": 2000})

    names = [dimension.name for dimension in found]
    assert "dim" not in names
    assert "id_dropout" not in names
    batch = next(d for d in found if d.name == "batch")
    assert batch.choices == (128, 256, 300, 512, 1024)
    tau = next(d for d in found if d.name == "tau")
    assert tau.low == 0.01
    assert space.from_json(space.to_json(found)) == found


def test_a_setting_of_content_is_searched_only_with_content(tmp_path: Path) -> None:
    config = make_config(
        train=QUICK, items=Source("x", (Feature("colour", "category", min_count=1),))
    )
    users, items = checkerboard(users=40)
    dataset = Dataset.from_arrays(
        config, users, items, item_ids=list(range(40)),
        item_columns={"colour": ["red", "blue"] * 20},
    )  # fmt: skip

    found = search(dataset, config, tmp_path / "s", trials=1, progress=SILENT)

    assert "id_dropout" in found.trials[0].settings
    with pytest.raises(ConfigError, match="nothing to search"):
        run(tmp_path / "other", 1, only=("id_dropout",))
    with pytest.raises(ConfigError, match="colour cannot be searched"):
        run(tmp_path / "third", 1, only=("colour",))
    assert not (tmp_path / "third").exists()


def test_texts_are_searched_on_request(tmp_path: Path) -> None:
    found = run(tmp_path / "toy.study", 3, only=("objective", "recent_beta"))

    tried = [row.settings["objective"] for row in found.trials]
    assert tried[0] == "ranking"
    assert len(set(tried)) > 1
    assert all(row.state == "complete" for row in found.trials)


def test_a_study_can_be_read_by_itself(tmp_path: Path) -> None:
    found = run(tmp_path / "toy.study", 2)

    rows = study.load(tmp_path / "toy.study").rows()

    assert rows == list(found.trials)
    with pytest.raises(ConfigError, match="there is no study"):
        study.load(tmp_path / "none")
