"""The parts of a report that show the training: curves, search, health, index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from recsys.report.charts import COLOURS, Line, lines
from recsys.report.facts import Facts
from recsys.report.verdict import chosen_looks

Row = Mapping[str, Any]
_MOST_TRIALS = 30


def learning(report: Row) -> str:
    """Return loss and validation score by epoch."""
    rows: Sequence[Row] = report.get("curves", [])
    looks = chosen_looks(report)
    scores = [
        Line(name, [(row["epoch"], row[name]) for row in looks], colour)
        for name, colour in (("recall@20", 1), ("ndcg@20", 2))
    ]
    final = [(row["epoch"], row["train_loss"]) for row in rows if not row["run"]]
    losses = [(row["epoch"], row["train_loss"]) for row in looks]
    drawn = [
        lines("Validation slice", scores, zero=True, mark=_turn(looks)),
        lines(
            "Training loss",
            [
                Line("published fit, all data", final, 1, dots=len(final) < 15),
                Line("the same settings, training part", losses, 2),
            ],
        ),
    ]
    return _grid(drawn)


def _turn(looks: Sequence[Row]) -> tuple[float, str] | None:
    """Return where the validation score was best, unless that is the end."""
    if len(looks) < 2:
        return None
    best = max(looks, key=lambda row: row["recall@20"] + row["ndcg@20"])
    if best["epoch"] == max(row["epoch"] for row in looks):
        return None
    return best["epoch"], f"best at {best['epoch']}"


def search(report: Row, trials: Sequence[Any]) -> str:
    """Return the runs of the training's own search, and a study's trials."""
    rows: Sequence[Row] = report.get("curves", [])
    judged = [row for row in rows if row["run"] and "recall@20" in row]
    runs = list(dict.fromkeys(row["run"] for row in judged))
    drawn = [
        lines(
            "Every fit of the training's search, recall@20 + ndcg@20",
            [_run(judged, run, runs[-1]) for run in runs],
            zero=True,
        )
        if len(runs) > 1
        else ""
    ]
    if trials:
        done = [(t.number, t.score) for t in trials if t.state == "complete"]
        best: list[tuple[float, float]] = []
        for number, score in done:
            best.append((number, max([score, *(s for _, s in best)])))
        shown = [Line("finished", done, 1), Line("best so far", best, 3, dots=False)]
        drawn += [
            lines("Trials of the study", shown, x="trial"),
            lines(
                "Learning curves of the trials",
                [
                    Line(
                        "ended early" if t.state == "pruned" else "finished",
                        sorted(t.curve.items()),
                        0 if t.state == "pruned" else 1,
                        dots=False,
                    )
                    for t in trials
                ],
            ),
        ]
    return _grid(drawn) + (_trial_table(trials) if trials else "")


def _run(judged: Sequence[Row], run: int, last: int) -> Line:
    points = [(r["epoch"], r["recall@20"] + r["ndcg@20"]) for r in judged
              if r["run"] == run]  # fmt: skip
    first = next(row for row in judged if row["run"] == run)
    name = f"tau {first.get('tau', 0):g}, dropout {first.get('dropout', 0):g}"
    if run == last:
        return Line(f"{name}, long", points, 1)
    return Line(name, points, 2 + (run - 1) % (COLOURS - 1))


def _trial_table(trials: Sequence[Any]) -> str:
    done = [t for t in trials if t.state == "complete"]
    best = sorted(done, key=lambda t: -t.score)[:_MOST_TRIALS]
    names = list(dict.fromkeys(name for t in best for name in t.settings))
    fixed = ("trial", "score", "recall@20", "ndcg@20", "epoch", "s")
    head = "".join(f"<th>{escape(name)}</th>" for name in (*fixed, *names))
    body = "".join(
        f'<tr class="{"best" if place == 0 else ""}"><td>{t.number}</td>'
        f"<td>{t.score:.4f}</td><td>{t.metrics.get('recall@20', 0):.4f}</td>"
        f"<td>{t.metrics.get('ndcg@20', 0):.4f}</td>"
        f"<td>{t.metrics.get('epoch', 0):.0f}</td><td>{t.seconds:.0f}</td>"
        + "".join(f"<td>{escape(_plain(t.settings.get(n)))}</td>" for n in names)
        + "</tr>"
        for place, t in enumerate(best)
    )
    ended = len(trials) - len(done)
    note = f"{len(done)} trials finished, {ended} did not; trial 0 has the settings of"
    return (
        f'<p class="quiet">{note} before.</p><div class="card"><div class="scroll">'
        f"<table><tr>{head}</tr>{body}</table></div></div>"
    )


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def health(report: Row) -> str:
    """Return gradients, updates, and what became of the embeddings."""
    found: Row = report.get("health", {})
    gradients: Sequence[Row] = found.get("gradients", [])
    embeddings: Sequence[Row] = found.get("embeddings", [])
    groups = list(dict.fromkeys(row["group"] for row in gradients))
    tables = list(dict.fromkeys(row["table"] for row in embeddings))

    def by_group(name: str) -> list[Line]:
        return [
            Line(g, [(r["epoch"], r[name]) for r in gradients if r["group"] == g],
                 1 + place % COLOURS)
            for place, g in enumerate(groups)
        ]  # fmt: skip

    def by_table(name: str, table: str, colour: int, label: str) -> Line:
        points = [(r["epoch"], r[name]) for r in embeddings if r["table"] == table]
        return Line(label, points, colour)

    drawn = [
        lines("Gradient norm", by_group("gradient"), log=True),
        lines("Change per step, share of the weights", by_group("update"), log=True),
        *(
            lines(
                f"Length of the {table} rows",
                [by_table(name, table, colour, label)
                 for name, colour, label in (("p99", 0, "99 %"), ("mean", 1, "mean"),
                                             ("p1", 6, "1 %"))],
                zero=True,
            )
            for table in tables
        ),
        lines(
            "Directions in use (effective rank)",
            [by_table("rank", t, 1 + i, t) for i, t in enumerate(tables)],
            zero=True,
        ),
        lines(
            "Mean cosine of two rows",
            [by_table("cosine", t, 1 + i, t) for i, t in enumerate(tables)],
        ),
    ]  # fmt: skip
    return _grid(drawn)


def index(facts: Facts) -> str:
    """Return recall by ef_search, as the calibration measured it."""
    mark = (float(facts.ef_search), "chosen") if facts.ef_search else None
    target = facts.config.index.recall_target
    points = facts.recall_curve
    if len(points) < 2:
        if not points:
            return ""
        return (
            f"<p>The first candidate count tried, ef_search {points[0][0]:.0f},"
            f" reaches recall@20 {points[0][1]:.3f}; the target is {target}.</p>"
        )
    ends = [(points[0][0], target), (points[-1][0], target)]
    drawn = lines(
        "Recall@20 of the index against the exact scan",
        [Line("measured", points, 1), Line("target", ends, 0, dots=False)],
        x="ef_search",
        mark=mark,
    )
    return _grid([drawn])


def _grid(drawn: Sequence[str]) -> str:
    return f'<div class="grid">{"".join(drawn)}</div>' if any(drawn) else ""
