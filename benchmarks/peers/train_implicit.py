"""``implicit``: ALS and BPR with the settings of their constructors.

One iteration of BPR draws as many interactions as there are, with replacement. One
iteration of ALS solves every user, then every item: it reads each interaction twice and
counts here as one pass, like an epoch of the others. (Every pair that was not chosen
takes part as well, in the Gram matrices.)
"""

from __future__ import annotations

import implicit
import numpy as np
from scipy.sparse import csr_matrix

from benchmarks.peers.data import Pairs
from benchmarks.peers.job import Clock, Job, Trained, run


class _EnoughError(Exception):
    """The time limit is reached."""


def als(job: Job, pairs: Pairs) -> Trained:
    """Alternating least squares: 15 iterations, or the time limit."""
    model = implicit.als.AlternatingLeastSquares(
        factors=job.dim, num_threads=job.threads, random_state=job.seed
    )
    return _fit(model, job, pairs)


def bpr(job: Job, pairs: Pairs) -> Trained:
    """Bayesian personalised ranking: 100 iterations, or the time limit."""
    model = implicit.bpr.BayesianPersonalizedRanking(
        factors=job.dim, num_threads=job.threads, random_state=job.seed, use_gpu=False
    )
    return _fit(model, job, pairs)


def _fit(model: object, job: Job, pairs: Pairs) -> Trained:
    ones = np.ones(len(pairs), np.float32)
    matrix = csr_matrix((ones, (pairs.user, pairs.item)), (pairs.users, pairs.items))
    done, clock = 0, Clock(job.seconds)

    def after(*_: object) -> None:
        nonlocal done
        done += 1
        if clock.over:
            raise _EnoughError

    try:
        model.fit(matrix, show_progress=False, callback=after)
        ended = "default number of iterations"
    except _EnoughError:
        ended = "time limit"
    note = f"implicit {implicit.__version__}, defaults; {ended}"
    measured = clock.stop(pairs, done * len(pairs), note)
    return measured, model.user_factors, model.item_factors


if __name__ == "__main__":
    run({"als": als, "bpr": bpr})
