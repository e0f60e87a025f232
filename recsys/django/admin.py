"""The admin: versions, who serves whom, backlog, experiments, audit; and the switch.

Everything is read-only but two actions on a version, each confirmed on a page of its
own and each with its permission: a share of the users, and the way back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from django import forms
from django.contrib import admin, messages
from django.contrib.admin import helpers
from django.contrib.admin.utils import unquote
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.template.defaultfilters import filesizeformat
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.http import urlencode

from recsys import rollout
from recsys._db import Connection
from recsys.django import _switch
from recsys.django._panels import Fieldsets, OnlyIfSeveral, ReadOnlyAdmin
from recsys.django.models import Version, VersionMetric
from recsys.errors import RecsysError

Versions = QuerySet[Version]


@admin.register(Version)
class VersionAdmin(ReadOnlyAdmin):
    """Model versions with their metrics, and the actions that switch them."""

    list_display = (
        "__str__",
        "standing",
        "share",
        "coverage",
        "recall",
        "ndcg",
        "trained",
    )
    list_filter = (("model", OnlyIfSeveral), ("state", OnlyIfSeveral))
    actions = ("promote", "rollback")

    def get_queryset(self, request: HttpRequest) -> Versions:
        """Return the versions, each with the measure that ranks lists."""
        ndcg = VersionMetric.objects.filter(
            model=OuterRef("model"),
            number=OuterRef("number"),
            slice="validation",
            method="model",
            metric__startswith="ndcg@",
        )
        found = cast("Versions", super().get_queryset(request))
        return found.annotate(ndcg=Subquery(ndcg.values("value")[:1]))

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return the sections of a version; how far it is only while it is made."""
        del request
        state = ["model", "number", "state", "share"]
        if obj is not None and obj.error:
            state.append("error")
        sections: Fieldsets = [(None, {"fields": state})]
        if obj is not None and obj.state in ("building", "failed"):
            making = ["phase", "progress"] + ["eta"] * (obj.eta is not None)
            sections.append(("In the making", {"fields": making}))
        return [
            *sections,
            ("Quality", {"fields": ["metrics"]}),
            (
                "Items and index",
                {"fields": ["items", "dim", "recall", "ef_search", "size"]},
            ),
            (
                "Dates",
                {
                    "fields": [
                        "trained_until",
                        "created_at",
                        "created_by",
                        "ready_at",
                        "last_served_at",
                        "retired_at",
                    ]
                },
            ),
        ]

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show a version, with a link to what the audit has of it."""
        extra = dict(extra_context or {})
        version = cast("Version | None", self.get_object(request, unquote(object_id)))
        if version is not None and request.user.has_perm("recsys.view_auditentry"):
            extra["audit"] = _audit_of(version)
        return super().change_view(request, object_id, form_url, extra)

    def has_promote_permission(self, request: HttpRequest) -> bool:
        """Say whether this user may let a version serve."""
        return request.user.has_perm("recsys.promote_version")

    def has_rollback_permission(self, request: HttpRequest) -> bool:
        """Say whether this user may take the users back."""
        return request.user.has_perm("recsys.rollback_version")

    @admin.display(description="state", ordering="state")
    def standing(self, version: Version) -> str:
        """Return the state, and how far a version is that is being made."""
        if version.state != "building" or version.progress_percent is None:
            return version.state
        return f"{version.state} {version.progress_percent:.0f} %"

    @admin.display(description="serves", ordering="percent")
    def share(self, version: Version) -> str:
        """Return the share of the users, and in which role."""
        if not version.percent:
            return "nobody"
        role = " (candidate)" if version.candidate else ""
        return f"{version.percent.normalize():f} %{role}"

    @admin.display(description="items", ordering="coverage_percent")
    def coverage(self, version: Version) -> str:
        """Return the share of the items that have a vector, and how many failed."""
        if version.coverage_percent is None:
            return "-"
        failed = f" ({version.failed_items} failed)" if version.failed_items else ""
        return f"{version.coverage_percent.normalize():f} %{failed}"

    @admin.display(description="items")
    def items(self, version: Version) -> str:
        """Return how many items have a vector."""
        if version.item_count is None:
            return "-"
        return (
            f"{version.item_count} of {version.source_count}, {self.coverage(version)}"
        )

    @admin.display(description="index recall", ordering="ann_recall")
    def recall(self, version: Version) -> str:
        """Return the recall of the index that was measured."""
        return "-" if version.ann_recall is None else f"{version.ann_recall:.3f}"

    @admin.display(description="NDCG", ordering="ndcg")
    def ndcg(self, version: Version) -> str:
        """Return the measure of the version on its validation slice."""
        found: float | None = cast("Any", version).ndcg
        return "-" if found is None else f"{found:.3f}"

    @admin.display(description="trained until", ordering="trained_until")
    def trained(self, version: Version) -> str:
        """Return the day up to which the version knows what happened."""
        return f"{version.trained_until:%Y-%m-%d}" if version.trained_until else "-"

    @admin.display(description="rows done")
    def progress(self, version: Version) -> str:
        """Return how far the version is."""
        if version.rows_done is None:
            return "-"
        return f"{version.rows_done} of {version.rows_total or '?'}"

    @admin.display(description="size")
    def size(self, version: Version) -> str:
        """Return what its vectors take."""
        table, index = version.table_bytes, version.index_bytes
        if table is None or index is None:
            return "-"
        return f"{filesizeformat(table)}, index {filesizeformat(index)}"

    @admin.display(description="offline metrics")
    def metrics(self, version: Version) -> str:
        """Return every metric, beside the popularity floors."""
        return _table(VersionMetric.objects.filter(model=version.model), version.number)

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
            share = f"{given['percent'].normalize():f}"
            return f"{version} serves {share} % of the users now."

        return self._confirmed(
            request, chosen, "promote", _switch.PromoteForm, switch, _switch.outlook
        )

    @admin.action(
        description="Take the users back from the version …",
        permissions=["rollback"],
    )
    def rollback(
        self, request: HttpRequest, chosen: Versions
    ) -> TemplateResponse | None:
        """Ask for the reason, then roll back."""

        def outlook(version: Version) -> str:
            return f"Then version {_switch.heir(version)} serves everybody."

        def switch(conn: Connection, version: Version, form: forms.Form) -> str:
            _switch.heir(version)  # a forged form is no way around it
            reason = _signed(request, form.cleaned_data["reason"])
            number = rollout.rollback(conn, version.model, reason=reason)
            return f"{version.model}: version {number} serves everybody now."

        return self._confirmed(
            request, chosen, "rollback", _switch.RollbackForm, switch, outlook
        )

    def _confirmed(
        self,
        request: HttpRequest,
        chosen: Versions,
        action: str,
        make: type[forms.Form],
        switch: Callable[[Connection, Version, forms.Form], str],
        outlook: Callable[[Version], str],
    ) -> TemplateResponse | None:
        """Show a page that asks; switch when its form comes back.

        Args:
            request: The first post of the list, or the one of the page.
            chosen: The versions that were ticked.
            action: Name of the action.
            make: The form.
            switch: Does it, and says what it did.
            outlook: Says who serves then; raises where there is nothing to do.
        """
        versions = list(chosen[:2])
        if len(versions) != 1:
            self.message_user(request, "Choose one version.", messages.WARNING)
            return None
        (version,) = versions
        form = make(request.POST if "confirmed" in request.POST else None)
        try:
            if form.is_valid():
                seen = request.POST.get("seen", "")
                with _switch.told(), _switch.switching(version.model, seen) as conn:
                    said = switch(conn, version, form)
                self.log_change(request, version, f"{action}: {said}")
                self.message_user(request, said, messages.SUCCESS)
                return None
        except RecsysError as exc:
            form.add_error(None, _switch.text(exc))
        try:
            with _switch.told():
                then = outlook(version)
        except RecsysError as exc:
            self.message_user(request, _switch.text(exc), messages.WARNING)
            return None
        return self._page(request, version, action, form, then)

    def _page(
        self,
        request: HttpRequest,
        version: Version,
        action: str,
        form: forms.Form,
        then: str,
    ) -> TemplateResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": getattr(self, action).short_description.rstrip(" …"),
            "opts": Version._meta,
            "version": version,
            "form": form,
            "fieldsets": helpers.AdminForm(
                form, [(None, {"fields": list(form.fields)})], {}
            ),
            "action": action,
            "action_checkbox_name": helpers.ACTION_CHECKBOX_NAME,
            "serving": _switch.serving(version.model),
            "then": then,
        }
        return TemplateResponse(request, "admin/recsys/confirm.html", context)


def _signed(request: HttpRequest, reason: str) -> str:
    """Return a reason with the name of the Django user, for the audit."""
    return f"{reason.strip()} (Django user {request.user.get_username()})"


def _audit_of(version: Version) -> str:
    """Return the address of what the audit has of a version."""
    wanted = {"model__exact": version.model, "number__exact": version.number}
    return f"{reverse('admin:recsys_auditentry_changelist')}?{urlencode(wanted)}"


def _table(metrics: QuerySet[VersionMetric], number: int) -> str:
    """Return the metrics of a version as a table."""
    rows = format_html_join(
        "",
        "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
        (
            (
                one.slice,
                one.method.replace("_", " "),
                one.metric,
                "-" if one.value is None else f"{one.value:.4f}",
            )
            for one in metrics.filter(number=number)
        ),
    )
    return format_html(
        "<table><tr><th>slice</th><th>method</th><th>metric</th><th>value</th></tr>"
        "{}</table>",
        rows,
    )
