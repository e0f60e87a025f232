"""The parts of a report that show the fit: curves, health, and the index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recsys.report.charts import Line, lines
from recsys.report.facts import Facts
from recsys.report.tables import card, grid
from recsys.report.verdict import FLOORS, best_floor, chosen_looks
from recsys.training.metrics import score_of

Row = Mapping[str, Any]
# What of the towers has weights, in the words of "How it works".
_GROUPS = {
    "served": "item rows that are searched",
    "history": "item rows that queries are made of",
    "default_query": "the query of users without a history",
    "taste": "encoder of histories",
    "item": "network over item features",
    "user": "network over user features",
    "context": "network over context features",
    "history_weight": "item features as part of histories",
}


def learning(report: Row) -> str:
    """Return validation score and loss by epoch."""
    rows: Sequence[Row] = report.get("curves", [])
    if "full" in report:
        return ""
    looks = chosen_looks(report)
    final = [(row["epoch"], row["train_loss"]) for row in rows if not row["run"]]
    losses = [(row["epoch"], row["train_loss"]) for row in looks]
    return grid(
        [
            lines(
                "Validation score by epoch",
                [*_scores(looks), *_floors(report, looks)],
                y="score from 0 to 1, higher is better",
                note=_whose(report, looks),
                zero=True,
                mark=_turn(looks),
            ),
            lines(
                "Training loss by epoch",
                [
                    Line("published fit", final, 3, dots=len(final) < 15),
                    Line("judged fit", losses, 4),
                ],
                y="mean loss of an epoch, lower is better",
                note="The published fit learns from all data, the judged one from the"
                " part before the validation slice.",
            ),
        ]
    )


def _scores(looks: Sequence[Row]) -> list[Line]:
    return [
        Line(name, [(row["epoch"], row[name]) for row in looks], look)
        for look, name in enumerate(("recall@20", "ndcg@20"), 1)
    ]


def _floors(report: Row, looks: Sequence[Row]) -> list[Line]:
    """Return what one list for everybody scores, as lines to compare with."""
    validation = report.get("validation", {})
    name = best_floor(validation)
    if name is None or not looks:
        return []
    ends = (looks[0]["epoch"], looks[-1]["epoch"])
    return [
        Line(f"{short} floor", [(end, validation[name][metric]) for end in ends], look,
             reference=True)
        for look, (short, metric) in enumerate(
            (("recall", "recall@20"), ("ndcg", "ndcg@20")), 1)
    ]  # fmt: skip


def _whose(report: Row, looks: Sequence[Row]) -> str:
    """Say which fit was looked at, and what the dotted lines are."""
    name = best_floor(report.get("validation", {}))
    dotted = (
        f"Dotted: the floor, which is one list by popularity ({FLOORS[name]})."
        if name
        else ""
    )
    run, chosen = (looks[0]["run"] if looks else 0), report.get("chosen_run", 0)
    if run == chosen or not chosen:
        return dotted
    return (
        f"Fit {chosen} was chosen, but looked at only once: this is fit {run}. {dotted}"
    )


def _turn(looks: Sequence[Row]) -> tuple[float, str] | None:
    """Return where the validation score was best, unless that is the end."""
    if len(looks) < 2:
        return None
    best = max(looks, key=score_of)
    if best["epoch"] == max(row["epoch"] for row in looks):
        return None
    return best["epoch"], f"best at {best['epoch']}"


def health(report: Row) -> str:
    """Return gradients, updates, and what became of the embeddings."""
    found: Row = report.get("health", {})
    gradients: Sequence[Row] = found.get("gradients", [])
    embeddings: Sequence[Row] = found.get("embeddings", [])
    tables = list(dict.fromkeys(row["table"] for row in embeddings))
    drawn = [
        *_steps(gradients),
        *(_lengths(embeddings, table) for table in tables),
        *_directions(embeddings),
        _end(embeddings, found.get("vectors")),
    ]
    named = dict.fromkeys([*tables, *(row["group"] for row in gradients)])
    known = "; ".join(f"{name}: {_GROUPS[name]}" for name in named if name in _GROUPS)
    words = f'<p class="quiet">Parts of the towers. {known}.</p>' if known else ""
    return words + grid(drawn) if any(drawn) else ""


def _steps(gradients: Sequence[Row]) -> list[str]:
    """Return gradient and update of each part of the towers."""
    return [
        lines(
            "Gradient norm by part",
            _by("group", gradients, "gradient"),
            y="L2 norm at one step",
            note="Of a dozen single steps. A jump to twenty times the usual is"
            " unstable.",
            log=True,
        ),
        lines(
            "Update-to-weight ratio by part",
            _by("group", gradients, "update"),
            y="length of one update / of the weights",
            note="About 0.001 to 0.01 is usual; parts near 0 learn nothing any more.",
            log=True,
        ),
    ]


def _lengths(embeddings: Sequence[Row], table: str) -> str:
    own = [row for row in embeddings if row["table"] == table]
    return lines(
        f"Length of the {table} rows",
        [
            Line(name, [(row["epoch"], row[name]) for row in own], look)
            for look, name in enumerate(("p99", "mean", "p1"), 1)
        ],
        y="L2 norm of a row",
        note="One row in a hundred is longer than p99, one is shorter than p1.",
        zero=True,
    )


def _by(key: str, rows: Sequence[Row], name: str) -> list[Line]:
    """Return a line by epoch for each value of a key."""
    return [
        Line(one, [(r["epoch"], r[name]) for r in rows if r[key] == one], look)
        for look, one in enumerate(dict.fromkeys(row[key] for row in rows), 1)
    ]


def _directions(embeddings: Sequence[Row]) -> list[str]:
    ends = [row["epoch"] for row in embeddings]
    dim = embeddings[0].get("dim") if embeddings else None
    all_ = Line(f"dim {dim:g}", [(min(ends), dim), (max(ends), dim)], 0,
                reference=True) if dim else None  # fmt: skip
    return [
        lines(
            "Directions in use",
            [*_by("table", embeddings, "rank"), *([all_] if all_ else [])],
            y="effective rank",
            note="From 1, all rows alike, to dim; a fall is a collapse.",
            zero=True,
        ),
        lines(
            "Mean cosine of two rows",
            _by("table", embeddings, "cosine"),
            y="cosine from -1 to 1",
            note="Near 0 is well spread; above 0.6 of the item vectors is a collapse.",
        ),
    ]


def _end(embeddings: Sequence[Row], vectors: Row | None) -> str:
    """Return where the rows ended, and the item vectors that are published."""
    last = {row["table"]: row for row in embeddings}
    rows = {**last, **({"item vectors": vectors} if vectors else {})}
    return card(
        "At the end of the fit",
        ("", "length", "directions", "cosine", "dead"),
        [
            (name, f"{row['mean']:.3g}", f"{row['rank']:.1f} of {row['dim']:.0f}",
             f"{row['cosine']:.3f}", f"{row['dead']:.1%}")
            for name, row in rows.items()
        ],
        note="Means of rows. A dead one is a hundred times shorter than the median one."
        " Item vectors are rows and features together, as they are searched.",
    )  # fmt: skip


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
        "Recall of the index by ef_search",
        [Line("measured", points, 1), Line("target", ends, 2, reference=True)],
        x="ef_search, candidates per search",
        y="recall@20 against the exact scan",
        note="More candidates find more and take longer.",
        mark=mark,
    )
    return grid([drawn])
