"""Smaller and faster: what each index keeps, costs and saves.

Every row is a version of its own: backfilled, calibrated to the recall target against
the exact scan of whole vectors, and asked as a request asks. On Gowalla the towers are
fitted here, plain and nested; without the data a synthetic catalogue stands in, whose
vectors fade. Left out: network latency, concurrent writers.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import world
from recsys import _db, artifacts, config, versions
from recsys._served import Served
from recsys.backfill import backfill
from recsys.embeddings import Embeddings, pack
from recsys.encoder import FittedSide
from recsys.encoder.towers import item_tower, query_tower
from recsys.errors import VersionStateError
from recsys.progress import Progress

K = 20


@dataclass(frozen=True)
class Line:
    """One version.

    Attributes:
        towers: How its vectors were made.
        index: What is indexed.
        depth: ``ef_search``; None: the target was missed.
        ann_recall: ANN recall@20 against the exact scan of whole vectors.
        recall: Recall@20 of the held-out items through the served path; None: none are.
        p50_ms: Of an answer: history, query tower and search.
        index_bytes: Of the HNSW index per item.
        vector_bytes: Of a stored vector.
    """

    towers: str
    index: str
    depth: int | None
    ann_recall: float | None
    recall: float | None
    p50_ms: float | None
    index_bytes: float
    vector_bytes: int


@dataclass(frozen=True)
class Towers:
    """Learned rows, the index variants worth trying on them, and what is held out."""

    name: str
    learned: Embeddings
    variants: Sequence[Mapping[str, Any]]
    relevant: Mapping[int, set[int]]


def run(
    dsn: str, folder: Path, items: int, queries: int, epochs: int, progress: Progress
) -> list[Line]:
    """Measure every variant in one database."""
    gowalla = (folder / "train.csv.gz").exists()
    every = _gowalla(folder, epochs) if gowalla else _synthetic(items)
    with _db.connect(dsn) as conn:
        if gowalla:
            _gowalla_tables(conn, folder)
        else:
            world.tables(conn, every[0].learned, seed=2)
    lines: list[Line] = []
    for towers in every:
        for variant in towers.variants:
            lines.append(_measure(dsn, towers, variant, queries, progress))
    return lines


def show(title: str, lines: Sequence[Line], out: Path | None = None) -> None:
    """Print the table; append it as JSON lines to ``out``."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    names = [*asdict(lines[0])]
    for name in names:
        table.add_column(name)
    for line in lines:
        values = asdict(line).values()
        table.add_row(*("" if v is None else _short(v) for v in values))
    Console(width=150).print(table)
    if out:
        with out.open("a") as file:
            for line in lines:
                file.write(json.dumps({"table": title, **asdict(line)}) + "\n")


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _measure(
    dsn: str,
    towers: Towers,
    variant: Mapping[str, Any],
    queries: int,
    progress: Progress,
) -> Line:
    learned = towers.learned
    dim = learned.served.shape[1]
    name = ", ".join(f"{k} {v}" for k, v in variant.items()) or "halfvec"
    with _db.connect(dsn) as conn:
        number = _register(conn, learned, dim, variant)
    try:
        report = backfill(dsn, world.MODEL, number, progress=progress)
    except VersionStateError:
        report = None
    with _db.connect(dsn) as conn:
        row = conn.execute(
            "select pg_relation_size(to_regclass(%s))",
            (f"recsys.item_vector_{world.MODEL}_{number}_hnsw",),
        ).fetchone()
        size = (row[0] if row else 0) / len(learned.item_ids)
        if report is None:
            return Line(towers.name, name, None, None, None, None, size, 2 * dim + 10)
        seconds, recall = _ask(conn, number, towers, queries)
    return Line(
        towers.name,
        name,
        report.ef_search,
        report.ann_recall,
        recall,
        1e3 * float(np.median(seconds)),
        size,
        2 * dim + 10,
    )


def _ask(
    conn: _db.Connection, number: int, towers: Towers, queries: int
) -> tuple[list[float], float | None]:
    """Return the seconds of the answers and the recall of what is held out."""
    version = versions.get(conn, world.MODEL, number)
    served = Served(conn, version, K, None)
    users = [
        row[0]
        for row in conn.execute(
            "select user_id from (select distinct user_id from bench_event) as u"
            " order by hashint8(user_id), user_id limit %s",
            (queries,),
        )
    ]
    seconds: list[float] = []
    shares: list[float] = []
    for user in users:
        answer = served.ask(user)
        seconds.append(answer.seconds)
        wanted = towers.relevant.get(user)
        if wanted:
            shares.append(len(wanted & set(answer.items[:K])) / len(wanted))
    return seconds[len(seconds) // 10 :], float(np.mean(shares)) if shares else None


def _register(
    conn: _db.Connection, learned: Embeddings, dim: int, index: Mapping[str, Any]
) -> int:
    settings = world.config(dim)
    settings = config.checked(replace(settings, index=replace(settings.index, **index)))
    nothing = FittedSide(())
    weights = {
        "cold_bias": np.float32(0),
        "default_query": learned.default_query,
    }
    number = versions.next_number(conn, settings)
    hashes = {
        "item_tower": artifacts.put(conn, "onnx", item_tower(dim, nothing, weights)),
        "query_tower": artifacts.put(
            conn, "onnx", query_tower(dim, nothing, nothing, weights)
        ),
        "embeddings": artifacts.put(conn, "safetensors", pack(learned, "bigint")),
    }
    spec = {**settings.to_dict(), "columns": ["occurred_at"]}
    versions.create(conn, versions.VersionPlan(world.MODEL, number, spec, hashes))
    if number == 1:
        conn.commit()
    return number


def _synthetic(items: int) -> list[Towers]:
    """Return short and long vectors of one catalogue, as they are and turned."""
    out: list[Towers] = []
    for dim in (64, 256):
        learned = world.catalogue(items, dim, seed=1)
        # Learned dimensions come in no order.
        mixed = _turned(learned, _random_axes(dim))
        out += [
            Towers(f"d = {dim}, not turned", mixed, [{"prefix": dim // 2}], {}),
            Towers(f"d = {dim}", _turned(mixed, _axes(mixed)), _variants(dim), {}),
        ]
    return out


def _variants(dim: int) -> list[Mapping[str, Any]]:
    out: list[Mapping[str, Any]] = [{}, {"prefix": dim // 2}, {"prefix": dim // 4}]
    return [*out, {"quantisation": "binary"}] if dim >= 128 else out


def _random_axes(dim: int) -> Any:
    return np.linalg.qr(np.random.default_rng(4).normal(size=(dim, dim)))[0]


def _axes(learned: Embeddings) -> Any:
    """Return the principal axes, as ``recsys.training.rotation`` turns to."""
    rows = learned.served.astype(np.float64)
    asked = learned.history.astype(np.float64)
    asked /= np.maximum(np.linalg.norm(asked, axis=1, keepdims=True), 1e-9)
    return np.linalg.eigh(rows.T @ rows / len(rows) + asked.T @ asked / len(asked))[1][
        :, ::-1
    ]


def _turned(learned: Embeddings, axes: Any) -> Embeddings:
    def turn(rows: Any) -> Any:
        return (rows.astype(np.float32) @ axes.astype(np.float32)).astype(rows.dtype)

    return replace(
        learned,
        served=turn(learned.served),
        history=turn(learned.history),
        default_query=turn(learned.default_query),
    )


def _gowalla(folder: Path, epochs: int) -> list[Towers]:
    """Return fits of some epochs, with the items of the test split held out."""
    relevant: dict[int, set[int]] = {}
    for user, item in _pairs(folder / "test.csv.gz"):
        relevant.setdefault(user, set()).add(item)
    every = (
        ("d = 64, not turned", 64, (), False, [{"prefix": 32}]),
        ("d = 64", 64, (), True, _variants(64)),
        ("d = 64, nested 32, 16", 64, (32, 16), False, _variants(64)),
        ("d = 32", 32, (), True, [{}]),
        ("d = 128", 128, (), True, _variants(128)),
        ("d = 256", 256, (), True, _variants(256)),
    )
    fits: dict[tuple[int, tuple[int, ...]], Any] = {}
    out: list[Towers] = []
    for name, dim, prefixes, turned, variants in every:
        if (dim, prefixes) not in fits:
            fits[dim, prefixes] = _fit(folder, dim, prefixes, epochs)
        learned = fits[dim, prefixes]
        if turned:
            learned = _turned(learned, _axes(learned))
        out.append(Towers(name, learned, variants, relevant))
    return out


def _fit(folder: Path, dim: int, prefixes: tuple[int, ...], epochs: int) -> Embeddings:
    from benchmarks.training import CONFIG
    from recsys.config import from_mapping
    from recsys.training import loop, svd
    from recsys.training.dataset import Dataset
    from recsys.training.model import array
    from recsys.training.rows import query_rows
    from recsys.training.settings import settings_of

    model = from_mapping(CONFIG).model("gowalla")
    train = replace(model.train, dim=dim)
    model = replace(model, train=train)
    pairs = np.array(_pairs(folder / "train.csv.gz"))
    dataset = Dataset.from_arrays(model, pairs[:, 0], pairs[:, 1])
    rows = query_rows(dataset, np.ones(len(pairs), bool), None, train.history)
    settings = replace(settings_of(model, train.tau, train.dropout), prefixes=prefixes)
    start = svd.first_rows(rows, dim, seed=0)
    towers = loop.fit(dataset, rows, settings, epochs, 0, start)
    served = array(towers.served)
    pop = rows.pop.numpy()
    bias = train.tau * train.beta * np.log(np.maximum(pop, 1) / pop.mean())
    return Embeddings(
        item_ids=[int(dataset.item_ids[i]) for i in rows.items],
        served=(served / np.linalg.norm(served, axis=1, keepdims=True)).astype(
            np.float16
        ),
        history=array(towers.history).astype(np.float16),
        bias=bias.astype(np.float32),
        default_query=array(towers.default_query),
    )


def _gowalla_tables(conn: _db.Connection, folder: Path) -> None:
    conn.execute(
        "create table bench_event (user_id bigint, item_id bigint,"
        " occurred_at timestamptz)"
    )
    with conn.cursor().copy("copy bench_event (user_id, item_id) from stdin") as copy:
        for pair in _pairs(folder / "train.csv.gz"):
            copy.write_row(pair)
    conn.execute("create index on bench_event (user_id, occurred_at)")
    conn.execute(
        "create table bench_item as select distinct item_id as id from bench_event"
    )
    conn.execute("analyze bench_item, bench_event")


def _pairs(file: Path) -> list[tuple[int, int]]:
    with gzip.open(file, "rt") as text:
        reader = csv.reader(text)
        next(reader)
        return [(int(user), int(item)) for user, item in reader]
