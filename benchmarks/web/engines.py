# ruff: noqa: D102
"""Other engines on the same vectors, each in a process and environment of its own.

``python engines.py NAME FOLDER`` with the Python of the environment that ``make
bench-web`` makes; it imports numpy and the engine only. Every engine gets the vectors
of the world, the same graph parameters where it has a graph (m = 16, ef_construction =
64), one thread, and one query at a time. Its effort is the smallest of a ladder that
reaches the recall asked for; where none does, the largest is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any, Protocol

os.environ["ANONYMIZED_TELEMETRY"] = "False"

import numpy as np

K = 20
ASKED = 200
M, EF_CONSTRUCTION = 16, 64
SHARES = (100, 10, 1)
EFFORTS: tuple[int, ...] = (20, 30, 40, 60, 80, 120, 160, 240, 400, 800, 1600, 3200)


class Engine(Protocol):
    """What is measured: rows are numbered as in the arrays of the world."""

    efforts: tuple[int, ...]

    def build(self, folder: Path, vectors: Any, part: Any) -> None:
        """Make the index in a folder."""

    def open(self, folder: Path, part: Any) -> None:
        """Open what ``build`` made."""

    def search(self, query: Any, share: int, effort: int) -> list[int]:
        """Return the rows of the K nearest of which ``part`` is below ``share``."""
        ...


class Numpy(Engine):
    """numpy: every vector is compared, in float32; what an index has to beat."""

    efforts = (0,)

    def build(self, folder: Path, vectors: Any, part: Any) -> None:
        pass

    def open(self, folder: Path, part: Any) -> None:
        vectors = np.load(folder.parent.parent / "vectors.npy")
        rows = {share: np.flatnonzero(part < share) for share in SHARES}
        self.chosen = {share: (kept, vectors[kept]) for share, kept in rows.items()}

    def search(self, query: Any, share: int, effort: int) -> list[int]:
        rows, vectors = self.chosen[share]
        scores = vectors @ query
        k = min(K, len(rows))
        top = np.argpartition(-scores, k - 1)[:k]
        return rows[top[np.argsort(-scores[top])]].tolist()


class Faiss(Engine):
    """faiss-cpu: HNSW over float32, filtered by a bitmap made beforehand."""

    efforts = EFFORTS

    def build(self, folder: Path, vectors: Any, part: Any) -> None:
        import faiss

        index = faiss.IndexHNSWFlat(vectors.shape[1], M, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = EF_CONSTRUCTION
        index.add(np.ascontiguousarray(vectors))
        faiss.write_index(index, str(folder / "index"))

    def open(self, folder: Path, part: Any) -> None:
        import faiss

        faiss.omp_set_num_threads(1)
        self.index = faiss.read_index(str(folder / "index"))
        self.chosen = {
            share: faiss.IDSelectorBitmap(np.packbits(part < share, bitorder="little"))
            for share in SHARES[1:]
        }
        self.parameters = faiss.SearchParametersHNSW

    def search(self, query: Any, share: int, effort: int) -> list[int]:
        how = self.parameters(efSearch=effort, sel=self.chosen.get(share))
        found = self.index.search(query[None], K, params=how)[1][0]
        return found[found >= 0].tolist()


class Hnswlib(Engine):
    """hnswlib over float32; its filter is a Python function called per candidate."""

    efforts = EFFORTS

    def build(self, folder: Path, vectors: Any, part: Any) -> None:
        import hnswlib

        index = hnswlib.Index(space="ip", dim=vectors.shape[1])
        index.init_index(len(vectors), M=M, ef_construction=EF_CONSTRUCTION)
        index.add_items(vectors, np.arange(len(vectors)))
        index.save_index(str(folder / "index"))

    def open(self, folder: Path, part: Any) -> None:
        import hnswlib

        self.index = hnswlib.Index(space="ip", dim=65)
        self.index.load_index(str(folder / "index"))
        self.index.set_num_threads(1)
        flags = {share: (part < share).tolist() for share in SHARES[1:]}
        self.chosen = {share: kept.__getitem__ for share, kept in flags.items()}
        self.effort = 0

    def search(self, query: Any, share: int, effort: int) -> list[int]:
        if effort != self.effort:
            self.index.set_ef(effort)
            self.effort = effort
        try:
            found, _ = self.index.knn_query(query, K, filter=self.chosen.get(share))
        except RuntimeError:
            return []  # it has no way to return fewer than k
        return found[0].tolist()


class LanceDB(Engine):
    """LanceDB: IVF of HNSW graphs over scalar-quantised vectors, then re-ranked."""

    efforts = (1, 2, 4, 8, 16, 32, 64)

    def build(self, folder: Path, vectors: Any, part: Any) -> None:
        import lancedb
        import pyarrow as pa
        from lancedb.index import Bitmap, HnswSq

        flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
        columns = {
            "id": np.arange(len(vectors)),
            "part": np.asarray(part),
            "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
        }
        table = lancedb.connect(folder).create_table("item", pa.table(columns))
        graphs = HnswSq(
            distance_type="dot",
            num_partitions=max(1, len(vectors) // 15_000),
            m=M,
            ef_construction=EF_CONSTRUCTION,
        )
        table.create_index("vector", config=graphs)
        table.create_index("part", config=Bitmap())

    def open(self, folder: Path, part: Any) -> None:
        import lancedb

        self.table = lancedb.connect(folder).open_table("item")

    def search(self, query: Any, share: int, effort: int) -> list[int]:
        asked = (
            self.table.search(query)
            .distance_type("dot")
            .limit(K)
            .select(["id", "_distance"])
        )
        asked = asked.nprobes(effort).ef(60 + 10 * effort).refine_factor(3)
        if share < 100:
            asked = asked.where(f"part < {share}", prefilter=True)
        return asked.to_arrow()["id"].to_pylist()


class Chroma(Engine):
    """Chroma: hnswlib inside, metadata in SQLite."""

    efforts = EFFORTS

    def build(self, folder: Path, vectors: Any, part: Any) -> None:
        made = self._client(folder).create_collection(
            "item",
            embedding_function=None,
            configuration={
                "hnsw": {
                    "space": "ip",
                    "max_neighbors": M,
                    "ef_construction": EF_CONSTRUCTION,
                }
            },
        )
        for start in range(0, len(vectors), 5_000):
            rows = range(start, min(start + 5_000, len(vectors)))
            made.add(
                ids=[str(row) for row in rows],
                embeddings=np.ascontiguousarray(vectors[rows.start : rows.stop]),
                metadatas=[{"part": int(part[row])} for row in rows],
            )

    def open(self, folder: Path, part: Any) -> None:
        client = self._client(folder)
        self.items = client.get_collection("item", embedding_function=None)
        self.effort = 0

    def search(self, query: Any, share: int, effort: int) -> list[int]:
        if effort != self.effort:
            self.items.modify(configuration={"hnsw": {"ef_search": effort}})
            self.effort = effort
        where = {"part": {"$lt": share}} if share < 100 else None
        found = self.items.query(
            query_embeddings=query[None], n_results=K, where=where, include=[]
        )
        return [int(row) for row in found["ids"][0]]

    @staticmethod
    def _client(folder: Path) -> Any:
        import chromadb

        quiet = chromadb.Settings(anonymized_telemetry=False)
        return chromadb.PersistentClient(str(folder / "data"), quiet)


class Milvus(Engine):
    """Milvus Lite: a server process of its own behind a socket."""

    efforts = EFFORTS

    def build(self, folder: Path, vectors: Any, part: Any) -> None:
        from pymilvus import DataType, MilvusClient

        client = MilvusClient(str(folder / "milvus.db"))
        columns = client.create_schema(auto_id=False)
        columns.add_field("id", DataType.INT64, is_primary=True)
        columns.add_field("part", DataType.INT16)
        columns.add_field("vector", DataType.FLOAT_VECTOR, dim=vectors.shape[1])
        index = client.prepare_index_params()
        index.add_index(
            "vector",
            index_type="HNSW",
            metric_type="IP",
            params={"M": M, "efConstruction": EF_CONSTRUCTION},
        )
        client.create_collection("item", schema=columns, index_params=index)
        for start in range(0, len(vectors), 10_000):
            rows = range(start, min(start + 10_000, len(vectors)))
            client.insert(
                "item",
                [
                    {"id": row, "part": int(part[row]), "vector": vectors[row]}
                    for row in rows
                ],
            )
        client.flush("item")
        client.close()

    def open(self, folder: Path, part: Any) -> None:
        from pymilvus import MilvusClient

        self.client = MilvusClient(str(folder / "milvus.db"))
        self.client.load_collection("item")

    def search(self, query: Any, share: int, effort: int) -> list[int]:
        found = self.client.search(
            "item",
            data=[query],
            limit=K,
            filter=f"part < {share}" if share < 100 else "",
            search_params={"params": {"ef": effort}},
            output_fields=["id"],
        )
        return [hit["id"] for hit in found[0]]


ENGINES: dict[str, type[Engine]] = {
    "numpy": Numpy,
    "faiss": Faiss,
    "hnswlib": Hnswlib,
    "lancedb": LanceDB,
    "chroma": Chroma,
    "milvus-lite": Milvus,
}


def main() -> None:
    """Build what is not built yet; measure with ``--seconds``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("world", type=Path)
    parser.add_argument("--seconds", type=float, default=0, help="per filter")
    parser.add_argument("--recall", type=float, default=0.95)
    options = parser.parse_args()
    engine = ENGINES[options.engine]()
    folder = options.world / "engines" / options.engine
    part = np.load(options.world / "part.npy")
    if not (folder / "built").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        vectors = np.load(options.world / "vectors.npy", mmap_mode="r")
        start = time.perf_counter()
        engine.build(folder, vectors, part)
        (folder / "built").write_text(f"{time.perf_counter() - start:.1f}")
    if options.seconds:
        engine.open(folder, part)
        for share in SHARES:
            row = _measure(engine, options, share)
            print(json.dumps({"filter": share, **row}), flush=True)


def _measure(engine: Engine, options: argparse.Namespace, share: int) -> dict[str, Any]:
    ids = np.load(options.world / "ids.npy")
    queries = np.load(options.world / "queries.npy")
    exact = np.load(options.world / f"exact-{share}.npy")[:ASKED]
    for effort in engine.efforts:
        rows, short, began = [], 0, time.perf_counter()
        for query in queries[: len(exact)]:
            rows.append(engine.search(query, share, effort))
            short += len(rows[-1]) < K
            if time.perf_counter() - began > 3 * options.seconds:
                break  # far too slow: what was asked so far says how good it is
        hits = [
            len(set(ids[row].tolist()) & set(wanted.tolist()))
            for row, wanted in zip(rows, exact, strict=False)
        ]
        recall, short = float(np.mean(hits)) / K, short / len(rows)
        if recall >= options.recall:
            break
    taken = []
    began = time.perf_counter()
    while time.perf_counter() - began < options.seconds:
        query = queries[len(taken) % len(queries)]
        start = time.perf_counter()
        engine.search(query, share, effort)
        taken.append(time.perf_counter() - start)
    return {
        "effort": effort,
        "recall": recall,
        "short": short,
        "qps": len(taken) / sum(taken),
        "p50": float(np.percentile(taken, 50)) * 1e3,
        "p99": float(np.percentile(taken, 99)) * 1e3,
    }


if __name__ == "__main__":
    main()
