"""The part of a report with what was put in: data, settings, times, checks."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from recsys.report.remarks import MINED
from recsys.report.tables import card, plain

Row = Mapping[str, Any]
_DATA = {
    "users": "users",
    "items": "items",
    "trained_items": "items with a learned row",
    "interactions": "interactions",
    "new_interactions": "of them since the parent",
    "positives": "(user, item) pairs learned from",
    "dropped": "left out: no such item, or no id",
    "untimed": "without a time",
    "future": "with a time in the future",
    "since": "first interaction (UTC)",
    "until": "end of the data (UTC)",
}
_LIMITS = {
    "epochs": "epochs, if fixed",
    "max_epochs": "max_epochs",
    "budget_s": "budget_s",
    "planned_epochs": "epochs planned for the published fit",
}
_TIMES = {
    "choose_s": "choosing settings",
    "fit_s": "published fit",
    "epoch_s": "of it one epoch",
    "export_s": "export and checks",
}
_PARITY = {
    "item_difference": "largest difference of item vectors",
    "query_difference": "largest difference of queries",
    "overlap": "best items kept by 16-bit rounding",
    "rows": "rows compared",
}
_INT8 = {
    "overlap": "nearest items kept by 8-bit weights",
    "before": "bytes before",
    "bytes": "bytes now",
}
_DISTIL = {
    "from": "learned from version",
    "weight": "weight of the teacher",
    "tau": "temperature of the teacher",
    "known_items": "items the teacher knows",
    "agreement": "agreement with the teacher",
}


def details(report: Row) -> str:
    """Return data, settings, times and checks, one card each."""
    counted = report.get("data", {}).get("kinds", {})
    kinds = {kind or "(none)": count for kind, count in counted.items()}
    settings, trend = _settings(report)
    by_kind = kinds if list(kinds) != ["(none)"] else {}
    seconds = {k: f"{v:.1f}" if v >= 1 else f"{v:.3f}"
               for k, v in report.get("timing", {}).items()}  # fmt: skip
    cards = (
            _card("Data", _data(report), _DATA),
            _card("Interactions by kind", by_kind),
            _card("Settings of the published fit", settings,
                  note="Named as in recsys.toml and the documentation."),
            _card("Popularity dimension", trend,
                  note="Weight of popularity in the item vectors: of all times, and of"
                  " counts that halve within some days."),
            _card("Limits", report.get("limits", {}), _LIMITS),
            _card("Seconds", seconds, _TIMES),
            _card("Published towers (ONNX) against torch", report.get("parity", {}),
                  _PARITY),
            _card("Eight-bit weights", report.get("int8", {}), _INT8),
            _card("Negatives of single queries, in pairs", report.get("mined", {}),
                  MINED),
            _card("Distillation", report.get("distil", {}), _DISTIL),
    )  # fmt: skip
    return f'<div class="stack">{"".join(cards)}</div>' if any(cards) else ""


def _card(
    title: str, values: Row, names: Mapping[str, str] | None = None, *, note: str = ""
) -> str:
    """Return names and values, first those with words of their own, in their order."""
    names = names or {}
    known = [name for name in names if name in values]
    others = [name for name in values if name not in names]
    rows = [(names.get(n, n), plain(values[n])) for n in (*known, *others)]
    return card(title, (), rows, note=note)


def _data(report: Row) -> dict[str, Any]:
    data = {k: v for k, v in report.get("data", {}).items() if k != "kinds"}
    for name in ("since", "until"):
        if isinstance(data.get(name), int | float):
            data[name] = _time(float(data[name]))
        elif name in data:
            data[name] = "no times"
    return data


def _settings(report: Row) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings, and popularity by its half-lives."""
    settings = dict(report.get("settings", {}))
    trend: Row = settings.pop("trend", None) or {}
    shown: dict[str, Any] = {}
    if "long_run" in trend:
        shown["all times"] = trend["long_run"]
        days = zip(trend.get("half_lives_d", ()), trend.get("recent", ()), strict=False)
        shown |= {f"half-life {plain(d)} d": weight for d, weight in days}
    return settings, shown


def _time(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.0f} s"  # Postgres knows later years than Python
