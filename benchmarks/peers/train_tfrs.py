"""``tensorflow-recommenders``: two ID towers and the retrieval task.

As its basic retrieval tutorial has it: an embedding per side, in-batch softmax, Adagrad
at 0.1, batches of 8,192. Different: ids are numbers already, so no lookup of strings;
all interactions are shuffled, not a buffer of them; and it trains until the time limit,
because the three epochs of the tutorial are a demonstration on 80,000 ratings.
"""

from __future__ import annotations

import os

# The library is written against Keras 2: this makes tensorflow take tf-keras.
os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
import tensorflow_recommenders as tfrs
from tensorflow import keras

from benchmarks.peers.data import Pairs
from benchmarks.peers.job import Clock, Job, Trained, run

BATCH = 8_192
RATE = 0.1


class _TwoTowers(tfrs.Model):
    """One embedding per user, one per item, their inner product as score."""

    def __init__(self, pairs: Pairs, dim: int) -> None:
        super().__init__()
        self.user = keras.layers.Embedding(pairs.users, dim)
        self.item = keras.layers.Embedding(pairs.items, dim)
        self.task = tfrs.tasks.Retrieval()

    def compute_loss(self, inputs: dict, training: bool = False) -> tf.Tensor:
        del training
        user, item = self.user(inputs["user"]), self.item(inputs["item"])
        return self.task(user, item, compute_metrics=False)


class _Watch(keras.callbacks.Callback):
    """Counts interactions, and ends the training at the time limit."""

    def __init__(self, clock: Clock, size: int) -> None:
        super().__init__()
        self._clock, self._size = clock, size
        self.seen = self._before = 0

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        self._before = epoch * self._size

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        self.seen = self._before + min((batch + 1) * BATCH, self._size)
        if self._clock.over:
            self.model.stop_training = True


def two_tower(job: Job, pairs: Pairs) -> Trained:
    """Train until the time limit."""
    tf.config.threading.set_intra_op_parallelism_threads(job.threads)
    tf.config.threading.set_inter_op_parallelism_threads(job.threads)
    keras.utils.set_random_seed(job.seed)
    model = _TwoTowers(pairs, job.dim)
    model.compile(optimizer=keras.optimizers.Adagrad(RATE))
    columns = {"user": pairs.user, "item": pairs.item}
    chosen = tf.data.Dataset.from_tensor_slices(columns)
    batches = chosen.shuffle(len(pairs), seed=job.seed).batch(BATCH).prefetch(2)
    clock = Clock(job.seconds)
    watch = _Watch(clock, len(pairs))
    model.fit(batches, epochs=1_000_000, verbose=0, callbacks=[watch])
    note = f"tensorflow {tf.__version__}, Adagrad {RATE}, batch {BATCH}; time limit"
    measured = clock.stop(pairs, watch.seen, note)
    return measured, model.user.get_weights()[0], model.item.get_weights()[0]


if __name__ == "__main__":
    run({"two_tower": two_tower})
