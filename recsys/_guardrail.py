"""One guardrail: the metrics, the bounds they take, and what holds unasked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from recsys.errors import ConfigError

Metric = Literal[
    "error_rate",
    "degraded_rate",
    "short_page_rate",
    "latency_p99_ms",
    "ctr",
    "conversion",
    "revenue",
]
Kind = Literal["max", "max_rise", "max_ratio", "max_drop", "off"]
Action = Literal["stop", "rollback"]

METRICS: tuple[Metric, ...] = get_args(Metric)
KINDS: Mapping[Metric, tuple[Kind, ...]] = {
    "error_rate": ("max", "max_rise", "off"),
    "degraded_rate": ("max", "max_rise", "off"),
    "short_page_rate": ("max", "max_rise", "off"),
    "latency_p99_ms": ("max", "max_ratio", "off"),
    "ctr": ("max_drop", "off"),
    "conversion": ("max_drop", "off"),
    "revenue": ("max_drop", "off"),
}


@dataclass(frozen=True, slots=True)
class Guardrail:
    """One bound of a model.

    Attributes:
        metric: What is bounded.
        kind: "max" absolute, "max_rise" above the base (rates), "max_ratio" to the base
            (latency), "max_drop" below the base as a share of it, or "off".
        bound: In the unit of the kind: a share, milliseconds, or a ratio.
        min_sample: Fewest answers of a version before anything is concluded.
        action: What the ramp does: "stop" it there, or "rollback".
        default: It holds because nobody set another.
    """

    metric: Metric
    kind: Kind
    bound: float = 0.0
    min_sample: int = 100
    action: Action = "stop"
    default: bool = False


DEFAULTS = (
    Guardrail("error_rate", "max", 0.02, 100, "rollback", True),
    Guardrail("degraded_rate", "max_rise", 0.05, 100, "stop", True),
    Guardrail("short_page_rate", "max_rise", 0.05, 100, "rollback", True),
)
"""What holds without configuration. Latency and business metrics need a bound that only
the application knows."""


def check_guardrail(rail: Guardrail) -> None:
    """Refuse a bound that makes no sense for its metric.

    Raises:
        ConfigError: Kind, bound, sample or action do not fit the metric.
    """
    check_metric(rail.metric)
    kinds = KINDS[rail.metric]
    if rail.kind not in kinds:
        raise ConfigError(
            f"{rail.metric} has no bound of kind {rail.kind!r}",
            hint=f"It takes {', '.join('--' + k.replace('_', '-') for k in kinds)}.",
        )
    share = rail.kind in ("max_rise", "max_drop") or (
        rail.kind == "max" and rail.metric != "latency_p99_ms"
    )
    least = 1.0 if rail.kind == "max_ratio" else 0.0
    most = 1.0 if share else math.inf
    if rail.kind != "off" and not least < rail.bound < most:
        raise ConfigError(
            f"the bound of {rail.metric} must be above {least:g}"
            f"{' and below 1' if share else ''}, got {rail.bound:g}",
            hint="A share is written 10% or 0.1." if share else None,
        )
    if rail.min_sample < 1:
        raise ConfigError(f"min_sample must be positive, got {rail.min_sample}")
    if rail.action not in get_args(Action):
        raise ConfigError(f"action must be stop or rollback, got {rail.action!r}")


def check_metric(metric: str) -> None:
    """Refuse a metric that nobody measures.

    Raises:
        ConfigError: The metric is unknown.
    """
    if metric not in METRICS:
        raise ConfigError(
            f"unknown metric {metric!r}", hint=f"Metrics: {', '.join(METRICS)}."
        )
