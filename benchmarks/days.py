"""Which popularity is best as of several days, and for how long it has to last.

    python -m benchmarks.days DATA [HORIZON_DAYS ...]

DATA is the folder of MovieTweetings (ratings.csv.gz); the ratings before October 2013
alone are read. One fit of eight epochs ends 72 days before their end. As of six days,
spread over the time from there on, it is ranked with popularity of that day for what
was chosen within the horizon: with each half-life alone, with mixes of two, and with
what training would choose of all of them.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.encoders import ratings

EPOCHS = 8
HELD_OUT_DAYS = 72.0
HORIZONS_DAYS = (7.0, 17.0, 36.0)
SCALE = 2.2
MIXES = {
    "all time": (1.0, (0.0, 0.0, 0.0, 0.0)),
    "1 day": (0.0, (1.0, 0.0, 0.0, 0.0)),
    "3 days": (0.0, (0.0, 1.0, 0.0, 0.0)),
    "10 days": (0.0, (0.0, 0.0, 1.0, 0.0)),
    "30 days": (0.0, (0.0, 0.0, 0.0, 1.0)),
    "1 and 30 days": (0.0, (0.5, 0.0, 0.0, 0.5)),
    "1, 3, 10 and 30 days": (0.0, (0.25, 0.25, 0.25, 0.25)),
}


def show(folder: Path, horizons: list[float]) -> None:
    """Print Recall@20 + NDCG@20 of each mix, by day and on average."""
    from recsys.popularity import DAY_S, Trend
    from recsys.training.ahead import Ahead
    from recsys.training.choice.tried import first_settings
    from recsys.training.evaluation import Judge
    from recsys.training.loop import fit
    from recsys.training.rows import query_rows
    from recsys.training.split import judged
    from recsys.training.svd import first_rows
    from recsys.training.trend import grid

    config, dataset = ratings(folder)
    end = float(dataset.time.max()) - HELD_OUT_DAYS * DAY_S
    cut = judged(dataset, dataset.time < end, end)
    rows = query_rows(dataset, cut.train, end, config.train.history)
    settings = replace(first_settings(config), tau=0.15, dropout=0.5)
    towers = fit(dataset, rows, settings, EPOCHS, 0, first_rows(rows, settings.dim, 0))
    judge = Judge(dataset, rows, cut, 0, 2_000)
    scale = SCALE * settings.tau
    trends = [
        Trend(scale * a, tuple(scale * b for b in recent))
        for a, recent in MIXES.values()
    ]
    for days in horizons:
        serves_s = days * DAY_S
        ahead = Ahead(dataset, rows, cut, judge, config.train, serves_s)
        chosen = ahead.trend(towers, grid(settings.tau, settings.beta, timed=True))
        found = np.array(ahead.scores(towers, [*trends, chosen]))
        print(f"horizon {days:g} days, {len(ahead)} days, weight {SCALE} tau")
        for name, scores in zip([*MIXES, "chosen"], found.T, strict=True):
            by_day = " ".join(f"{score:.4f}" for score in scores)
            print(f"  {name:21} {scores.mean():.4f} : {by_day}", flush=True)
        weights = (chosen.long_run, *chosen.recent)
        print("  chosen, in tau:", [round(w / settings.tau, 2) for w in weights])


if __name__ == "__main__":
    show(Path(sys.argv[1]), [float(a) for a in sys.argv[2:]] or [*HORIZONS_DAYS])
