"""The admin: versions, who serves whom, backlog, experiments, audit; and the switch.

Everything is read-only but three actions on a version, each confirmed on a page of its
own and each with its permission: a share of the users, everybody, and the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin import helpers
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.utils.html import format_html, format_html_join

from recsys import rollout
from recsys._db import Connection
from recsys.django import conf
from recsys.django._source import DjangoSource
from recsys.django.models import (
    AuditEntry,
    Backlog,
    Experiment,
    Rollout,
    Version,
    VersionMetric,
)
from recsys.errors import RecsysError

Versions = QuerySet[Version]


class ReadOnlyAdmin(admin.ModelAdmin):  # pyright: ignore[reportMissingTypeArgument] # no runtime generics in Django 4.2
    """Shows a view of recsys."""

    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody adds a row to a view."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody changes one."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody deletes one."""
        return False


class PromoteForm(forms.Form):
    """What a promotion needs to know."""

    percent = forms.DecimalField(
        initial=100,
        min_value=Decimal("0.01"),
        max_value=100,
        decimal_places=2,
        help_text="Below 100 the version is the candidate; the base keeps the rest.",
    )
    reason = forms.CharField(widget=forms.Textarea(attrs={"rows": 2}))
    force = forms.BooleanField(
        required=False,
        label="Without a passed comparison",
        help_text="The audit says so.",
    )


class RollbackForm(forms.Form):
    """What a roll-back needs to know."""

    reason = forms.CharField(widget=forms.Textarea(attrs={"rows": 2}))


@admin.register(Version)
class VersionAdmin(ReadOnlyAdmin):
    """Model versions with their metrics, and the actions that switch them."""

    list_display = (
        "__str__",
        "state",
        "share",
        "progress_percent",
        "coverage_percent",
        "recall",
        "quality",
        "failed_items",
        "trained_until",
    )
    list_filter = ("model", "state")
    actions = ("promote", "rollback")
    readonly_fields = ("metrics",)

    def has_promote_permission(self, request: HttpRequest) -> bool:
        """Say whether this user may let a version serve."""
        return request.user.has_perm("recsys.promote_version")

    def has_rollback_permission(self, request: HttpRequest) -> bool:
        """Say whether this user may take the users back."""
        return request.user.has_perm("recsys.rollback_version")

    @admin.display(description="serves", ordering="percent")
    def share(self, version: Version) -> str:
        """Return the share of the users, and in which role."""
        if not version.percent:
            return "-"
        role = " (candidate)" if version.candidate else ""
        return f"{version.percent.normalize():f} %{role}"

    @admin.display(description="index recall", ordering="ann_recall")
    def recall(self, version: Version) -> str:
        """Return the recall of the index that was measured."""
        return "-" if version.ann_recall is None else f"{version.ann_recall:.3f}"

    @admin.display(description="validation")
    def quality(self, version: Version) -> str:
        """Return the metrics of the version on its validation slice."""
        found = _metrics(version).filter(slice="validation", method="model")
        return ", ".join(f"{one.metric} {one.value:.4f}" for one in found) or "-"

    @admin.display(description="offline metrics")
    def metrics(self, version: Version) -> str:
        """Return every metric, beside the popularity floors."""
        rows = format_html_join(
            "",
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            (
                (one.slice, one.method, one.metric, f"{one.value:.4f}")
                for one in _metrics(version)
            ),
        )
        return format_html(
            "<table><tr><th>slice</th><th>method</th><th>metric</th><th>value</th></tr>"
            "{}</table>",
            rows,
        )

    @admin.action(
        description="Let the version serve a share of the users …",
        permissions=["promote"],
    )
    def promote(
        self, request: HttpRequest, chosen: Versions
    ) -> TemplateResponse | None:
        """Ask for the share and the reason, then promote."""

        def switch(conn: Connection, version: Version, form: forms.Form) -> str:
            given = form.cleaned_data
            rollout.promote(
                conn,
                version.model,
                version.number,
                percent=given["percent"],
                reason=_signed(request, given["reason"]),
                force=given["force"],
            )
            return f"{version} serves {given['percent']} % of the users now."

        return self._confirmed(request, chosen, "promote", PromoteForm, switch)

    @admin.action(
        description="Take the users back from the version …",
        permissions=["rollback"],
    )
    def rollback(
        self, request: HttpRequest, chosen: Versions
    ) -> TemplateResponse | None:
        """Ask for the reason, then roll back."""

        def switch(conn: Connection, version: Version, form: forms.Form) -> str:
            reason = _signed(request, form.cleaned_data["reason"])
            number = rollout.rollback(conn, version.model, reason=reason)
            return f"{version.model}: version {number} serves everybody now."

        return self._confirmed(request, chosen, "rollback", RollbackForm, switch)

    def _confirmed(
        self,
        request: HttpRequest,
        chosen: Versions,
        action: str,
        make: type[forms.Form],
        switch: Callable[[Connection, Version, forms.Form], str],
    ) -> TemplateResponse | None:
        """Show a page that asks; switch when its form comes back.

        Args:
            request: The first post of the list, or the one of the page.
            chosen: The versions that were ticked.
            action: Name of the action.
            make: The form.
            switch: Does it, and says what it did.
        """
        versions = list(chosen[:2])
        if len(versions) != 1:
            self.message_user(request, "Choose one version.", messages.WARNING)
            return None
        (version,) = versions
        if action == "rollback" and not version.percent:
            self.message_user(request, f"{version} serves nobody.", messages.WARNING)
            return None
        form = make(request.POST if "confirmed" in request.POST else None)
        if form.is_valid():
            try:
                with _switching() as conn:
                    said = switch(conn, version, form)
            except RecsysError as exc:
                form.add_error(None, f"{exc}. {exc.hint}")
            else:
                self.log_change(request, version, f"{action}: {said}")
                self.message_user(request, said, messages.SUCCESS)
                return None
        context = {
            **self.admin_site.each_context(request),
            "title": getattr(self, action).short_description.rstrip(" …"),
            "opts": Version._meta,
            "version": version,
            "form": form,
            "action": action,
            "action_checkbox_name": helpers.ACTION_CHECKBOX_NAME,
            "serving": Rollout.objects.filter(model=version.model),
        }
        return TemplateResponse(request, "admin/recsys/confirm.html", context)


@contextmanager
def _switching() -> Generator[Connection]:
    """One transaction on the database of recsys."""
    alias = conf.current().database
    with transaction.atomic(using=alias), DjangoSource(alias).use() as conn:
        yield conn


def _signed(request: HttpRequest, reason: str) -> str:
    """Return a reason with the name of the Django user, for the audit."""
    return f"{reason.strip()} (Django user {request.user.get_username()})"


def _metrics(version: Version) -> QuerySet[VersionMetric]:
    return VersionMetric.objects.filter(model=version.model, number=version.number)


@admin.register(Rollout)
class RolloutAdmin(ReadOnlyAdmin):
    """Who serves whom, and the ramp that changes it."""

    list_display = ("model", "number", "role", "percent", "ramp_step", "ramp_next_at")
    list_filter = ("model",)


@admin.register(Backlog)
class BacklogAdmin(ReadOnlyAdmin):
    """What waits for the workers."""

    list_display = (
        "model",
        "backlog",
        "lag",
        "capture",
        "triggers",
        "retrying",
        "dead_letters",
        "workers",
    )


@admin.register(Experiment)
class ExperimentAdmin(ReadOnlyAdmin):
    """Experiments and their arms."""

    list_display = (
        "experiment",
        "model",
        "state",
        "traffic",
        "arms",
        "primary_metric",
        "started_at",
        "stopped_at",
    )
    list_filter = ("model", "state")


@admin.register(AuditEntry)
class AuditAdmin(ReadOnlyAdmin):
    """Every transition, newest first."""

    list_display = ("at", "model", "number", "kind", "reason", "who", "application")
    list_filter = ("model", "kind")
    search_fields = ("reason",)
