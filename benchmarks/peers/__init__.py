"""Training speed and quality beside other libraries: ``make bench-peers``.

Each peer trains in a process and a virtual environment of its own, on the same
interactions, with as many threads, the same dimension and seed, until its documented
number of epochs or the time limit is reached, whichever comes first. It leaves user and
item factors, which one evaluator ranks: the whole catalogue by inner product, without
the user's training items.

Nothing of a peer is part of this repository, and no code was copied from one: their
releases come from PyPI at the versions of ``venvs.PEERS``, which says why those.

    implicit                 MIT         ALS, BPR
    tensorflow-recommenders  Apache-2.0  two towers with the retrieval task
    RecBole                  MIT         BPR, LightGCN

The modules ``train_*`` and what they import run where recsys is not installed: numpy
and the standard library only, besides the peer.
"""
