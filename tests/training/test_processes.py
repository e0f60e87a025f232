"""Several processes take the steps of one, and none waits for one that has ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import crew
import numpy as np
import psycopg
import pytest
import torch
from test_next_item import chains
from test_next_item import config as next_config
from toys import FAST, checkerboard, make_config

from recsys import schema
from recsys._parent import Parent
from recsys.config import Interactions, ModelConfig, NegativesConfig
from recsys.training import loop
from recsys.training.choice.tried import first_settings
from recsys.training.dataset import Dataset
from recsys.training.device import Device
from recsys.training.distil import teacher_of
from recsys.training.part import part, share
from recsys.training.rows import query_rows
from recsys.training.sampler import Sampler
from recsys.training.step import Step
from recsys.training.svd import first_rows
from recsys.training.trainer import train

HERE = Path(__file__).parent


def start(
    *command: object, rank: int, port: int, cwd: Path = HERE, size: int = 2
) -> subprocess.Popen[str]:
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    place |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent.parent)}
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        env={**os.environ, **place},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("how", ["dense", "sparse", "taught", "transformer"])
def test_two_processes_learn_what_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(Device, "products", lambda self, tau: torch.float32)
    port = free_port()
    both = [start("crew.py", tmp_path, how, rank=rank, port=port) for rank in range(2)]
    dataset, config, parent = crew.job(how)
    alone = train(dataset, config, distil_from=parent)
    for process in both:
        assert process.communicate(timeout=120)[1] == ""
        assert process.returncode == 0

    learned = np.load(tmp_path / "rows.npz")
    # Not the rows: axes that matter equally little are turned as rounding has it.
    served = learned["served"] @ learned["served"].T
    score = learned["history"] @ learned["served"].T
    np.testing.assert_allclose(served, alone.id_served @ alone.id_served.T, atol=1e-3)
    np.testing.assert_allclose(score, alone.id_history @ alone.id_served.T, atol=1e-3)
    assert {path.name for path in tmp_path.iterdir()} == {"ready", "rows.npz"}


def test_a_process_that_is_killed_ends_the_others(tmp_path: Path) -> None:
    port = free_port()
    crew_ = [
        start("crew.py", tmp_path, "endless", rank=rank, port=port, size=3)
        for rank in range(3)
    ]
    until = time.monotonic() + 60
    while not (tmp_path / "ready").exists() and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.3)

    crew_[1].send_signal(signal.SIGKILL)
    crew_[1].communicate(timeout=30)

    for other in (crew_[0], crew_[2]):
        _, said = other.communicate(timeout=60)
        assert other.returncode == 1
        assert "another process of the training has ended" in said


def test_the_command_line_writes_once(empty_dsn: str, tmp_path: Path) -> None:
    schema.upgrade(empty_dsn)
    with psycopg.connect(empty_dsn) as conn:
        conn.execute(
            "create table chosen as select u as user_id, i as item_id"
            " from generate_series(1, 40) u, generate_series(1, 30) i"
            " where (u + i) % 2 = 0 and (u * 7 + i * 3) % 5 > 1"
        )
    (tmp_path / "recsys.toml").write_text(
        '[model.shop]\nitem_id = "bigint"\nuser_id = "bigint"\n'
        '[model.shop.items]\nsql = "select distinct item_id from chosen"\n'
        '[model.shop.interactions]\nsql = "select * from chosen"\n'
        "[model.shop.train]\nepochs = 1\ndim = 8\ntau = 0.15\ndropout = 0.3\n"
        "companions = 0\n"
    )
    torchrun = [Path(sys.executable).with_name("torchrun"), "--nproc-per-node", "2"]
    torchrun += ["--master-addr", "127.0.0.1", "--master-port", free_port()]
    train = ["--dsn", empty_dsn, "train", "shop", "--format", "csv"]
    done = subprocess.run(
        [str(part) for part in (*torchrun, "-m", "recsys", *train)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    talk = done.stderr

    assert done.returncode == 0, talk
    assert done.stdout.count(",model,recall@20,") == 1
    assert talk.count("Wrote") == 1
    written = tmp_path / talk.split("Wrote ")[1].splitlines()[0]
    assert list(written.parent.glob("*.py")) == [written]
    with psycopg.connect(empty_dsn) as conn:
        # One report and one set of vocabularies.
        kinds = conn.execute("select kind from recsys.artifact").fetchall()
    assert [kind for (kind,) in kinds].count("json") == 2


def built(
    monkeypatch: pytest.MonkeyPatch,
    config: ModelConfig,
    dataset: Dataset,
    teacher: Parent | None = None,
) -> loop._Fit:
    """Return a fit that has not begun."""
    found: list[loop._Fit] = []
    rows = query_rows(dataset, np.ones(len(dataset), bool), dataset.until, 32)
    with monkeypatch.context() as patch:
        patch.setattr(loop._Fit, "run", lambda self, *_: found.append(self))
        begin = first_rows(rows, config.train.dim, 0)
        settings = replace(first_settings(config), query=config.query)
        loop.fit(
            dataset, rows, settings, 1, 0, begin,
            teacher=teacher and teacher_of(teacher, dataset, rows),
        )  # fmt: skip
    return found[0]


def plain(objective: str, **changes: Any) -> tuple[ModelConfig, Dataset]:
    fast = replace(FAST, objective=objective, batch=30, companions=0.5, **changes)
    kinds = Interactions("x", {"a": 1.0, "b": 2.0}, dislikes=("no",))
    config = make_config(train=fast, interactions=kinds, negatives=NegativesConfig())
    users, items = checkerboard()
    said = [
        ("a", "b", "no")[(u * 3 + i) % 3] for u, i in zip(users, items, strict=True)
    ]
    return config, Dataset.from_arrays(config, users, items, kinds=said)


def sequences(encoder: str) -> tuple[ModelConfig, Dataset]:
    config = next_config(encoder=encoder)
    return config, chains(30)[0]


CASES = {
    "ranking": lambda: plain("ranking"),
    "softmax": lambda: plain("softmax", prefixes=(4,)),
    "cosine": lambda: plain("cosine"),
    "bpr": lambda: plain("bpr"),
    "logistic": lambda: plain("logistic"),
    "content": lambda: crew.board()[::-1],
    "distilled": lambda: (*plain("ranking"), crew.half_a_teacher()),
    "attention": lambda: sequences("attention"),
    "transformer": lambda: sequences("transformer"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [2, 3])
def test_parts_add_up_to_the_step(
    monkeypatch: pytest.MonkeyPatch, case: str, size: int
) -> None:
    run = built(monkeypatch, *CASES[case]())
    step: Step = run.sampler.step(torch.arange(min(30, len(run.source))))
    whole, expected = gradients(run, [(step, 1.0)])

    parts = [part(step, rank, size) for rank in range(size)]
    assert sum(len(mine.user) for mine in parts) == len(step.user)
    total, added = gradients(run, [(mine, share(mine, step)) for mine in parts])

    assert total == pytest.approx(whole, rel=1e-3)
    for name, value in expected.items():
        # Products may be bfloat16, which rounds sums of other parts in other ways.
        allowed = 0.02 * float(value.abs().max()) + 1e-7
        assert torch.allclose(added[name], value, atol=allowed, rtol=0), name


def test_more_processes_than_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    run = built(monkeypatch, *plain("ranking"))
    step = run.sampler.step(torch.arange(2))

    sizes = [len(part(step, rank, 3).user) for rank in range(3)]

    assert sorted(sizes) == [0, 1, 1]
    assert isinstance(run.sampler, Sampler)


def gradients(
    run: loop._Fit, steps: list[tuple[Step, Any]]
) -> tuple[float, dict[str, torch.Tensor]]:
    run.towers.zero_grad(set_to_none=False)
    total = 0.0
    for step, weight in steps:
        loss = run.descent.loss_of(step) * weight
        loss.backward()
        total += loss.item()
    return total, {
        name: value.grad.clone()
        for name, value in run.towers.named_parameters()
        if value.grad is not None and value.numel()
    }
