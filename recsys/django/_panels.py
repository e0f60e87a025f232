"""The read-only pages of the admin: rollouts, backlog, experiments, audit."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any, cast

from django.contrib import admin
from django.http import HttpRequest

from recsys.django.models import AuditEntry, Backlog, Experiment, Rollout

Fieldsets = list[tuple[str | None, dict[str, Any]]]


class OnlyIfSeveral(admin.AllValuesFieldListFilter):
    """A filter that takes no room while there is nothing to choose from."""

    def has_output(self) -> bool:
        """Say whether it is shown, and heeded."""
        return len(list(cast("Any", self).lookup_choices)) > 1 or bool(
            cast("Any", self).lookup_val
        )


class ReadOnlyAdmin(admin.ModelAdmin):  # pyright: ignore[reportMissingTypeArgument] # no runtime generics in Django 4.2
    """Shows a view of recsys."""

    show_full_result_count = False
    sections: Fieldsets = []  # noqa: RUF012

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return the sections of the page of a row."""
        return self.sections or super().get_fieldsets(request, obj)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody adds a row to a view."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody changes one."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody deletes one."""
        return False


@admin.register(Rollout)
class RolloutAdmin(ReadOnlyAdmin):
    """Who serves whom, and the ramp that changes it."""

    list_display = ("model", "number", "role", "share", "next_step")
    list_filter = (("model", OnlyIfSeveral),)
    sections: Fieldsets = [  # noqa: RUF012
        (None, {"fields": ["model", "number", "role", "share"]}),
        ("Ramp", {"fields": ["ramp_step", "ramp_every", "next_step"]}),
    ]

    @admin.display(description="users", ordering="percent")
    def share(self, row: Rollout) -> str:
        """Return the share of the users."""
        return f"{row.percent.normalize():f} %"

    @admin.display(description="next step of the ramp", ordering="ramp_next_at")
    def next_step(self, row: Rollout) -> Any:
        """Return when the share grows by itself."""
        return row.ramp_next_at or "no ramp"


@admin.register(Backlog)
class BacklogAdmin(ReadOnlyAdmin):
    """What waits for the workers."""

    list_display = (
        "model",
        "waiting",
        "behind",
        "capture",
        "retrying",
        "dead_letters",
        "workers",
    )
    sections: Fieldsets = [  # noqa: RUF012
        (None, {"fields": ["model", "waiting", "behind", "workers"]}),
        ("Trouble", {"fields": ["retrying", "dead_letters"]}),
        ("Capture", {"fields": ["capture", "triggers", "swept_to", "reconcile"]}),
    ]

    @admin.display(description="changes waiting", ordering="backlog")
    def waiting(self, row: Backlog) -> str:
        """Return how many changes wait; counting ends somewhere."""
        return f"{row.backlog}{' or more' if row.backlog_capped else ''}"

    @admin.display(description="lag", ordering="lag")
    def behind(self, row: Backlog) -> str:
        """Return how long the oldest one has waited."""
        if row.lag is None:
            return "none"
        return str(timedelta(seconds=round(row.lag.total_seconds())))

    @admin.display(description="reconciliation")
    def reconcile(self, row: Backlog) -> str:
        """Say whether the next sweep compares everything."""
        return "due" if row.reconcile_pending else "not due"


@admin.register(Experiment)
class ExperimentAdmin(ReadOnlyAdmin):
    """Experiments and their arms."""

    list_display = (
        "experiment",
        "model",
        "state",
        "traffic",
        "arms",
        "started_at",
        "stopped_at",
    )
    list_filter = (("model", OnlyIfSeveral), ("state", OnlyIfSeveral))
    sections: Fieldsets = [  # noqa: RUF012
        (None, {"fields": ["experiment", "model", "state", "reason"]}),
        (
            "Design",
            {
                "fields": [
                    "hypothesis",
                    "arms",
                    "traffic",
                    "primary_metric",
                    "alpha",
                    "expected_users",
                ]
            },
        ),
        (
            "Dates",
            {"fields": ["created_at", "created_by", "started_at", "stopped_at"]},
        ),
    ]


@admin.register(AuditEntry)
class AuditAdmin(ReadOnlyAdmin):
    """Every transition, newest first."""

    list_display = ("at", "model", "number", "kind", "change", "reason")
    list_filter = (("model", OnlyIfSeveral), ("kind", OnlyIfSeveral))
    search_fields = ("reason",)
    sections: Fieldsets = [  # noqa: RUF012
        (None, {"fields": ["at", "model", "number", "kind", "change", "reason"]}),
        ("By whom", {"fields": ["who", "application"]}),
        ("What was known", {"fields": ["numbers"]}),
    ]

    @admin.display(description="change")
    def change(self, entry: AuditEntry) -> str:
        """Return from what to what."""
        before, after = shown(entry.before), shown(entry.after)
        change = " → ".join(filter(None, (before, after))) or "-"
        return change.replace(" %", "\u00a0%")  # no line begins with a %


def shown(value: Any) -> str:
    """Return one side of a transition: a state, a switch, a rollout or a row."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    if not isinstance(value, dict):
        return str(value)
    row = cast("dict[str, Any]", value)
    if not row:
        return "nothing serves"
    if all(key.isdigit() for key in row):
        return ", ".join(f"{key}: {share:g} %" for key, share in row.items())
    if isinstance(row.get("state"), str):
        return row["state"]
    if isinstance(row.get("steps"), list):
        return f"steps {', '.join(f'{step:g}' for step in row['steps'])} %"
    return json.dumps(row)[:80]
