"""The state of a fit in one file, so that a training can be gone on with.

The file is safetensors: weights, Adam's moments, the state of the random numbers; what
else there is stands as JSON in its header. It is written beside its place and moved
there, so there is always a whole one, and never one with weights that are not finite.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from recsys._query_config import QueryConfig
from recsys.config import ContentConfig, ModelConfig, NegativesConfig, TrainConfig
from recsys.errors import ConfigError, TrainingError
from recsys.training.blocks import by_user
from recsys.training.dataset import Dataset
from recsys.training.rows import QueryRows

logger = logging.getLogger(__name__)

# Between two writes, unless the fit ends; a crash loses this much.
EVERY_S = 30.0
# Raised where a setting that a checkpoint lacks does by default what no fit did before.
_VERSION = 2
# What may change between an interruption and going on.
FREE = ("budget_s", "device", "item_updates")
_DECIDING = ("train", "query", "negatives", "content")
_KEY = "recsys"
_TEACHER = "--distil-from"


@dataclass(frozen=True, slots=True)
class State:
    """Where a fit was at the end of an epoch.

    Attributes:
        epoch: Epochs done.
        step: Steps done.
        total: Steps of the whole fit.
        seconds: Time spent so far.
        tensors: Weights, moments and random state by name.
    """

    epoch: int
    step: int
    total: int
    seconds: float
    tensors: Mapping[str, Tensor]


class Checkpoint:
    """One training's file.

    Args:
        path: The file; its folder is made.
        resume: Go on with what is there; else it is overwritten.

    Attributes:
        plan: What was decided before the fit, as JSON; None before that.
        until: Interactions before it were read, ISO; None where they have no time.

    Raises:
        ConfigError: The folder cannot be written, or there is nothing to resume.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        self.plan: dict[str, Any] | None = None
        self.until: str | None = None
        self._data = ""
        self._settings: dict[str, Any] = {}
        self._state: State | None = None
        self._written = time.monotonic()
        self._warned = False
        _check_folder(path.parent)
        if resume:
            self._read()

    def of(self, data: str, config: ModelConfig, teacher: int | None = None) -> None:
        """Say which data, see ``fingerprint``, settings and teacher it is of.

        Raises:
            TrainingError: What is resumed is of other data or settings.
        """
        settings = {**_settings(config), _TEACHER: teacher}
        kept = {**_defaults(config), **(self._settings or settings)}
        changed = [n for n in settings if kept[n] != settings[n]]
        if changed:
            now = ", ".join(f"{name} is {settings[name]!r}" for name in changed)
            then = ", ".join(f"{kept[name]!r}" for name in changed)
            raise TrainingError(
                f"the checkpoint {self.path} is of other settings: {now}, was {then}",
                hint="Set them back, or train without --resume.",
            )
        self._settings = settings
        if self._data and self._data != data:
            raise TrainingError(
                f"the checkpoint {self.path} is of other data or features",
                hint="Train without --resume: the data have changed since.",
            )
        self._data = data

    @property
    def state(self) -> State | None:
        """Where to go on; None at the beginning."""
        return self._state

    @property
    def due(self) -> bool:
        """Whether enough time has passed since the state before."""
        return time.monotonic() - self._written >= EVERY_S

    def save(self, state: State) -> None:
        """Keep a state. A full disk costs the checkpoint, not the training."""
        header = {
            "version": _VERSION,
            "data": self._data,
            "settings": self._settings,
            "plan": self.plan,
            "until": self.until,
            "epoch": state.epoch,
            "step": state.step,
            "total": state.total,
            "seconds": state.seconds,
        }
        blob = save(dict(state.tensors), metadata={_KEY: json.dumps(header)})
        self._written = time.monotonic()
        try:
            _replace(self.path, blob)
        except OSError as exc:
            if not self._warned:
                logger.warning(
                    "no checkpoint is written, training goes on without: %s", exc
                )
            self._warned = True

    def remove(self) -> None:
        """Forget the file: the training is done."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> None:
        try:
            blob = self.path.read_bytes()
            size = int.from_bytes(blob[:8], "little")
            header = json.loads(json.loads(blob[8 : 8 + size])["__metadata__"][_KEY])
            tensors: dict[str, Tensor] = load(blob)
        except (OSError, SafetensorError, KeyError, ValueError) as exc:
            raise ConfigError(
                f"there is no checkpoint to resume in {self.path}: {exc}",
                hint="Train without --resume to begin a new one.",
            ) from exc
        if header["version"] != _VERSION:
            raise ConfigError(
                f"the checkpoint {self.path} is of another release",
                hint="Train without --resume.",
            )
        self.plan, self._data = header["plan"], header["data"]
        self._settings = header["settings"]
        self.until = header["until"]
        self._state = State(
            header["epoch"], header["step"], header["total"], header["seconds"], tensors
        )


def fingerprint(dataset: Dataset, rows: QueryRows) -> str:
    """Return a hash of what a fit learns from."""
    digest = hashlib.sha256()
    ids = [repr(dataset.item_ids[int(place)]) for place in rows.items]
    digest.update("\n".join(ids).encode())
    parts = [rows.user, rows.targets.start, rows.targets.values, rows.history.values]
    parts += [w for w in (rows.targets.weight, rows.history.weight) if w is not None]
    for part in parts:
        digest.update(np.ascontiguousarray(part.cpu().numpy()).data)
    # The rows of a source come in no particular order.
    for _, places in by_user(dataset, np.ones(len(dataset), np.bool_)):
        time, item = dataset.time[places], dataset.item[places]
        digest.update(time[np.lexsort((time, item, dataset.user[places]))].data)
    for side in (dataset.items, dataset.users, dataset.contexts):
        if side is not None:
            digest.update(json.dumps(side.fitted.to_dict(), default=str).encode())
    return digest.hexdigest()


def _settings(config: ModelConfig) -> dict[str, Any]:
    """Return what decides a fit by dotted name, as JSON gives it back."""
    tables: dict[str, dict[str, Any]] = json.loads(json.dumps(config.to_dict()))
    return {
        f"{table}.{name}": value
        for table in _DECIDING
        for name, value in tables[table].items()
        if name not in FREE
    }


def _defaults(config: ModelConfig) -> dict[str, Any]:
    """Return what a fit was of that knew nothing of a setting: it came later."""
    plain = replace(
        config,
        train=TrainConfig(),
        query=QueryConfig(),
        negatives=NegativesConfig(),
        content=ContentConfig(),
    )
    return {**_settings(plain), _TEACHER: None}


def pack(
    weights: Mapping[str, Tensor],
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Return weights, moments and random state as named tensors on the processor."""
    out = {f"weight.{name}": value for name, value in weights.items()}
    state: dict[int, dict[str, Tensor]] = optimiser.state_dict()["state"]
    for place, moments in state.items():
        out |= {f"adam.{place}.{name}": value for name, value in moments.items()}
    out["random"] = generator.get_state()
    return {
        name: value.detach().to("cpu").contiguous().clone()
        for name, value in out.items()
    }


def unpack(
    tensors: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
) -> None:
    """Put what ``pack`` took back into its place.

    Raises:
        TrainingError: The towers are others.
    """
    moments: dict[int, dict[str, Tensor]] = {}
    with torch.no_grad():
        for name, value in weights.items():
            kept = tensors.get(f"weight.{name}")
            if kept is None or kept.shape != value.shape:
                raise TrainingError(
                    f"the checkpoint has no weight {name!r} of shape "
                    f"{tuple(value.shape)}",
                    hint="Settings have changed: train without --resume.",
                )
            value.copy_(kept)
    for name, value in tensors.items():
        if name.startswith("adam."):
            _, place, part = name.split(".")
            moments.setdefault(int(place), {})[part] = value
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": moments, "param_groups": groups})
    generator.set_state(tensors["random"])


def _check_folder(folder: Path) -> None:
    probe = folder / f".recsys-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as exc:
        raise ConfigError(
            f"checkpoints cannot be written to {folder}: {exc}",
            hint="Name another folder with --checkpoint.",
        ) from exc


def _replace(path: Path, blob: bytes) -> None:
    """Write a file at once or not at all."""
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
