"""The part of a report that shows which settings were tried, and what they scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from recsys._wording import counted
from recsys.report.charts import Line, lines
from recsys.report.remarks import reranked
from recsys.report.tables import card, grid, metric, plain
from recsys.report.verdict import TRIED, judged_looks
from recsys.training.metrics import score_of

Row = Mapping[str, Any]
_MOST_TRIALS = 30


def search(report: Row, trials: Sequence[Any]) -> str:
    """Return what the training tried by itself, and the trials of a study."""
    own = _steps(report) if "full" in report else _fits(report)
    return own + _trials(trials)


def _fits(report: Row) -> str:
    """Return the fits of the training's own search: settings, then results."""
    runs = judged_looks(report)
    if not runs:
        return ""
    chosen = report.get("chosen_run", 0)
    looks = [row for run in runs.values() for row in run]
    tried = {n: {row.get(n) for row in looks} for n in TRIED}
    varied = [n for n in TRIED if len(tried[n]) > 1]
    varied.sort(key=lambda name: name != "encoder")
    rows = [_fit(run, those, varied, run == chosen) for run, those in runs.items()]
    head = ("fit", *varied, "epochs", "best at epoch", "recall@20", "ndcg@20", "score")
    places = list(runs)
    fixed = ", ".join(f"{n} {plain(next(iter(tried[n])))}" for n in TRIED
                      if len(tried[n]) == 1 and None not in tried[n])  # fmt: skip
    same = f" The same in all: {fixed}." if fixed else ""
    # These do not count where fits are compared.
    settings = report.get("settings", {})
    later = {"lean": "the lean", "rerank": "the ranking again"}
    added = [f"{say} ({plain(settings[n])})" for n, say in later.items()
             if settings.get(n)]  # fmt: skip
    if added:
        same += f" The headline has {' and '.join(added)} as well."
    if said := reranked(report):
        same += f" {said[:1].upper()}{said[1:]}."
    drawn = card(
        "Settings tried by the training",
        head,
        rows,
        note="In this order, each on the training part and judged on the validation"
        f" slice; score is recall@20 + ndcg@20.{same} Less dropout, longer"
        " vectors and another encoder must win clearly: the highest score is not always"
        " the chosen one.",
        text=2 if "encoder" in varied else 1,
        best=places.index(chosen) if chosen in runs else -1,
    )
    return drawn + grid([_curves(runs, chosen)])


def _fit(
    run: int, looks: Sequence[Row], varied: Sequence[str], chosen: bool
) -> list[str]:
    best = max(looks, key=score_of)
    return [
        f"{run}, chosen" if chosen else str(run),
        *(plain(best.get(name)) for name in varied),
        str(looks[-1]["epoch"]),
        str(best["epoch"]),
        *(metric(n, best[n]) for n in ("recall@20", "ndcg@20")),
        metric("score", score_of(best)),
    ]


def _curves(runs: Mapping[int, Sequence[Row]], chosen: int) -> str:
    """Return the curves of fits that were looked at more than once, if several."""
    long = {run: looks for run, looks in runs.items() if len(looks) > 1}
    if len(long) < 2:
        return ""
    return lines(
        "Fits that were looked at more than once",
        [
            Line(
                f"fit {run}, chosen" if run == chosen else f"fit {run}",
                [(row["epoch"], score_of(row)) for row in looks],
                look,
            )
            for look, (run, looks) in enumerate(long.items(), 1)
        ],
        y="recall@20 + ndcg@20, higher is better",
        note="Numbered as in the table.",
    )


def _steps(report: Row) -> str:
    """Return the steps that a full update tried from its parent."""
    full: Row = report["full"]
    tried: Sequence[Row] = full.get("tried", [])
    names = ("recall@20", "ndcg@20", "hr@10")
    before = report.get("validation", {}).get("parent")
    rows = [(f"{row['step']:g}", row) for row in tried]
    if before:
        rows.append(("0, the parent as it was", before))
    return grid(
        [
            card(
                "Steps tried",
                ("share of lr", *names, "score"),
                [
                    (
                        name,
                        *(metric(n, row[n]) for n in names),
                        metric("", score_of(row)),
                    )
                    for name, row in rows
                ],
                note="One pass each over the older part of the news, judged on the"
                " newest; score is recall@20 + ndcg@20.",
                best=next(
                    (i for i, r in enumerate(tried) if r["step"] == full.get("step")),
                    -1,
                ),
            ),
            card(
                "What changed",
                (),
                [
                    ("went on from version", plain(full.get("parent"))),
                    ("items that got a row", plain(full.get("admitted"))),
                    ("items that lost theirs", plain(full.get("evicted"))),
                    ("weights that started anew", plain(full.get("fresh"))),
                ],
            ),
        ]
    )


def _trials(trials: Sequence[Any]) -> str:
    if not trials:
        return ""
    done = [t for t in trials if t.state == "complete"]
    points = [(t.number, t.score) for t in done]
    best: list[tuple[float, float]] = []
    for number, reached in points:
        best.append((number, max([reached, *(s for _, s in best)])))
    drawn = [
        lines(
            "Score of each trial of the study",
            [
                Line("finished", points, 1, joined=False),
                Line("best so far", best, 2, dots=False),
            ],
            x="trial",
            y="recall@20 + ndcg@20, higher is better",
        ),
        lines(
            "Learning curves of the trials",
            [
                Line("ended early", sorted(t.curve.items()), 2, dots=False)
                if t.state == "pruned"
                else Line("finished", sorted(t.curve.items()), 1, dots=False)
                for t in trials
            ],
            y="recall@20 + ndcg@20, higher is better",
        ),
    ]
    return grid(drawn) + _trial_table(trials, done)


def _trial_table(trials: Sequence[Any], done: Sequence[Any]) -> str:
    best = sorted(done, key=lambda t: -t.score)[:_MOST_TRIALS]
    names = list(dict.fromkeys(name for t in best for name in t.settings))
    ended = len(trials) - len(done)
    note = f"{counted(len(done), 'trial')} finished, {ended} did not; trial 0 has the"
    measured = ("recall@20", "ndcg@20")
    table = card(
        "Trials of the study, best first",
        ("trial", *names, "epoch", *measured, "score", "seconds"),
        [
            (t.number, *(plain(t.settings.get(n)) for n in names),
             f"{t.metrics.get('epoch', 0):.0f}",
             *(metric(n, t.metrics.get(n, 0)) for n in measured),
             metric("score", t.score), f"{t.seconds:.0f}")
            for t in best
        ],
        best=0,
    )  # fmt: skip
    return f'<p class="quiet">{escape(note)} settings of before.</p>{table}'
