"""The load: processes that ask, a process that changes items, a worker.

Open loop: a request is due at its time, whether or not the one before has been
answered, and its latency counts from then. All times are CLOCK_MONOTONIC, which the
processes of one machine share.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import subprocess
import sys
import time
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psycopg

from benchmarks.live.shop import BRANDS, MODEL, USERS, Shop
from recsys import Recommender

K = 20
_SPAWN = multiprocessing.get_context("spawn")
_REST_S = 5.0
"""An item changes again no earlier, so that it shows which change was served."""


class Change(NamedTuple):
    """One committed change; ``at`` is when the commit returned, in nanoseconds."""

    item: int
    present: bool
    at: int


@dataclass(frozen=True)
class Answers:
    """What the processes got, one row per request.

    Attributes:
        process: Which asked.
        due, start, end: Nanoseconds.
        user: Who asked.
        version: Who answered; 0 for an error.
        ids, scores: Shape (A, K); 0 beyond the end of a short page.
        errors: Their texts.
    """

    process: np.ndarray
    due: np.ndarray
    start: np.ndarray
    end: np.ndarray
    user: np.ndarray
    version: np.ndarray
    ids: np.ndarray
    scores: np.ndarray
    errors: list[str]


class Load:
    """Processes that run until the end of ``running``."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self._dsn = dsn
        self._folder = folder
        self._stop = _SPAWN.Event()
        self._processes: list[multiprocessing.process.BaseProcess] = []
        self._files: list[Path] = []

    def ask(self, processes: int, rate: float) -> None:
        """Start processes that ask, ``rate`` requests per second in total."""
        ready = []
        for n in range(processes):
            file = self._folder / f"answers-{len(self._files)}.npz"
            self._files.append(file)
            event = _SPAWN.Event()
            ready.append(event)
            self._start(_ask, n, rate / processes, self._stop, event, file)
        for event in ready:
            if not event.wait(60):
                raise RuntimeError("a request process did not start")

    def change(self, shop: Shop, rate: float, pipe: Pipe | None = None) -> None:
        """Start a process that changes ``rate`` items per second, each by itself."""
        ids = list(shop.base.item_ids)
        self._start(_change, ids, shop.spare, rate, self._stop, pipe)

    @contextmanager
    def running(self) -> Generator[None]:
        """Stop everything at the end."""
        try:
            yield
        finally:
            self._stop.set()
            for process in self._processes:
                process.join(30)
                if process.is_alive():
                    process.kill()
        failed = [p.exitcode for p in self._processes if p.exitcode]
        if failed:
            raise RuntimeError(f"{len(failed)} processes of the load failed")

    def answers(self) -> Answers:
        """Return what was answered, after the end."""
        parts = [np.load(file) for file in self._files]
        columns = {
            name: np.concatenate([part[name] for part in parts])
            for name in ("due", "start", "end", "user", "version", "ids", "scores")
        }
        process = np.repeat(np.arange(len(parts)), [len(p["due"]) for p in parts])
        errors = [str(text) for part in parts for text in part["errors"]]
        return Answers(process, **columns, errors=errors)

    def _start(self, target: object, *arguments: object) -> None:
        process = _SPAWN.Process(target=target, args=(self._dsn, *arguments))
        process.start()
        self._processes.append(process)


@contextmanager
def worker(dsn: str) -> Generator[None]:
    """Run ``recsys worker`` as people do."""
    process = subprocess.Popen(
        [sys.executable, "-m", "recsys", "worker", MODEL],
        env={**os.environ, "RECSYS_DSN": dsn},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        yield
        if process.poll() is not None:
            raise RuntimeError(f"the worker ended with {process.returncode}")
    finally:
        process.terminate()
        process.wait(60)


def pause(seconds: float) -> None:
    """Let the load run."""
    time.sleep(seconds)


def _wait_until(due: int) -> None:
    left = due - time.monotonic_ns()
    if left > 0:
        time.sleep(left / 1e9)


def _ask(
    dsn: str, seed: int, rate: float, stop: Event, ready: Event, file: Path
) -> None:
    rng = random.Random(seed)
    shop = Recommender(MODEL, dsn=dsn)
    for _ in range(20):
        shop.recommend(rng.randrange(USERS), k=K)
    ready.set()
    rows, errors = [], []
    due = time.monotonic_ns()
    while not stop.is_set():
        due += int(1e9 * rng.uniform(0.5, 1.5) / rate)
        _wait_until(due)
        user = rng.randrange(USERS)
        page = None
        start = time.monotonic_ns()
        try:
            page = shop.recommend(user, k=K)
        except Exception as exc:  # every failure counts, whatever its kind
            errors.append(f"{type(exc).__name__}: {exc}"[:300])
        end = time.monotonic_ns()
        ids = [0] * K
        scores = [0.0] * K
        if page is not None:
            ids[: len(page)] = page.ids
            scores[: len(page)] = [item.score for item in page]
        version = page.version if page else 0
        rows.append((due, start, end, user, version, ids, scores))
    shop.close()
    names = ("due", "start", "end", "user", "version", "ids", "scores")
    columns = zip(*rows, strict=True)
    arrays = {n: np.array(c) for n, c in zip(names, columns, strict=True)}
    np.savez(file, errors=np.array(errors, str), **arrays)


def _change(
    dsn: str,
    ids: list[int],
    spare: list[int],
    rate: float,
    stop: Event,
    pipe: Pipe | None,
) -> None:
    """Update used columns (70 %), delete (15 %) and bring back (15 %)."""
    rng = random.Random(5)
    rng.shuffle(ids)
    place = 0
    with psycopg.connect(dsn, autocommit=True) as conn:
        present = {item for (item,) in conn.execute("select id from live_item")}
        may_go, gone = set(spare), set(ids) - present
        waiting = deque(sorted(gone))
        changed: dict[int, float] = {}
        due = time.monotonic_ns()
        while not stop.is_set():
            due += int(1e9 / rate)
            _wait_until(due)
            kind, now = rng.random(), time.monotonic()
            if kind < 0.15 and waiting and changed.get(waiting[0], 0) < now - _REST_S:
                item = waiting.popleft()
                gone.discard(item)
                conn.execute(
                    "insert into live_item values (%s, 'brand ' || %s::int, 1, 1)",
                    (item, rng.randrange(BRANDS)),
                )
            else:
                # Every item once before any a second time.
                item = ids[place % len(ids)]
                place += 1
                if item in gone or changed.get(item, 0) > now - _REST_S:
                    continue
                if kind < 0.3 and item in may_go:
                    conn.execute("delete from live_item where id = %s", (item,))
                    gone.add(item)
                    waiting.append(item)
                else:
                    conn.execute(
                        "update live_item set brand = 'brand ' ||"
                        " (substr(brand, 7)::int + %s) %% %s where id = %s",
                        (rng.randrange(1, BRANDS), BRANDS, item),
                    )
            changed[item] = now
            if pipe is not None:
                pipe.send(Change(item, item not in gone, time.monotonic_ns()))
    if pipe is not None:
        pipe.close()
