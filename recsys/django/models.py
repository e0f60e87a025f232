"""The recsys views as unmanaged models: read with the ORM, shown in the admin.

They live in the database that RECSYS["DATABASE"] names. Migrations make nothing of
them; the schema is recsys's own.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

from django.db import models

from recsys.django import conf
from recsys.django._fields import row_key

T = TypeVar("T", bound=models.Model)


class RecsysManager(models.Manager[T]):
    """Reads from the database of recsys."""

    def get_queryset(self) -> models.QuerySet[T]:
        """Return a QuerySet on RECSYS["DATABASE"]."""
        found = super().get_queryset()
        asked = self._db  # pyright: ignore[reportAttributeAccessIssue] # set by db_manager()
        return found.using(asked or conf.current().database)


class _View(models.Model):
    """A row of a view: it cannot be saved."""

    objects: RecsysManager[Any] = RecsysManager()  # pyright: ignore[reportIncompatibleVariableOverride] # as every manager of a model

    class Meta:
        abstract = True
        managed = False

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Refuse.

        Raises:
            TypeError: Always.
        """
        raise TypeError("the recsys views are read-only; use 'manage.py recsys'")

    def delete(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse.

        Raises:
            TypeError: Always.
        """
        raise TypeError("the recsys views are read-only; use 'manage.py recsys'")


class Version(_View):
    """A model version: recsys.version_status."""

    key = row_key("model", "number")
    model = models.TextField()
    number = models.IntegerField("version")
    state = models.TextField()
    percent = models.DecimalField(max_digits=5, decimal_places=2)
    candidate = models.BooleanField()
    phase = models.TextField(null=True)
    rows_done = models.BigIntegerField(null=True)
    rows_total = models.BigIntegerField(null=True)
    progress_percent = models.DecimalField(max_digits=5, decimal_places=1, null=True)
    eta = models.DurationField("time left", null=True)
    dim = models.IntegerField("dimensions")
    item_count = models.BigIntegerField(null=True)
    source_count = models.BigIntegerField(null=True)
    coverage_percent = models.DecimalField(max_digits=5, decimal_places=2, null=True)
    ef_search = models.IntegerField("search width (ef_search)", null=True)
    ann_recall = models.FloatField(null=True)
    table_bytes = models.BigIntegerField(null=True)
    index_bytes = models.BigIntegerField(null=True)
    created_at = models.DateTimeField()
    created_by = models.TextField()
    ready_at = models.DateTimeField(null=True)
    error = models.TextField(null=True)
    trained_until = models.DateTimeField(null=True)
    last_served_at = models.DateTimeField(null=True)
    retired_at = models.DateTimeField(null=True)
    failed_items = models.BigIntegerField()

    class Meta(_View.Meta):  # noqa: D106
        db_table = '"recsys"."version_status"'
        ordering = ("model", "-number")
        default_permissions = ("view",)
        permissions = (
            ("promote_version", "Can let a version serve a share of the users"),
            ("rollback_version", "Can take the users back from a version"),
        )

    def __str__(self) -> str:
        return f"{self.model} {self.number}"


class VersionMetric(_View):
    """An offline metric of a version: recsys.version_metric."""

    key = row_key("model", "number", "slice", "method", "metric")
    model = models.TextField()
    number = models.IntegerField()
    slice = models.TextField()
    method = models.TextField()
    metric = models.TextField()
    value = models.FloatField(null=True)

    class Meta(_View.Meta):  # noqa: D106
        db_table = '"recsys"."version_metric"'
        ordering = ("model", "-number", "slice", "method", "metric")
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.method} {self.metric}"


class Rollout(_View):
    """Which share of the users a version answers: recsys.rollout_status."""

    key = row_key("model", "number")
    model = models.TextField()
    number = models.IntegerField("version")
    role = models.TextField()
    percent = models.DecimalField("users in %", max_digits=5, decimal_places=2)
    ramp_step = models.IntegerField("steps taken", null=True)
    ramp_every = models.DurationField("time between steps", null=True)
    ramp_next_at = models.DateTimeField("next step", null=True)

    class Meta(_View.Meta):  # noqa: D106
        db_table = '"recsys"."rollout_status"'
        ordering = ("model", "role")
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.model}: {self.percent} % {self.role} {self.number}"


class Backlog(_View):
    """What waits for the workers of a model: recsys.change_status."""

    model = models.TextField(primary_key=True)
    backlog = models.BigIntegerField("changes waiting")
    backlog_capped = models.BooleanField()
    oldest_change = models.DateTimeField(null=True)
    lag = models.DurationField(null=True)
    capture = models.TextField()
    triggers = models.BigIntegerField()
    reconcile_pending = models.BooleanField()
    swept_to = models.DateTimeField("compared with the source", null=True)
    retrying = models.BigIntegerField()
    dead_letters = models.BigIntegerField()
    workers = models.BigIntegerField()

    class Meta(_View.Meta):  # noqa: D106
        db_table = '"recsys"."change_status"'
        ordering = ("model",)
        default_permissions = ("view",)
        verbose_name_plural = "backlog"

    def __str__(self) -> str:
        return f"{self.model}: {self.backlog}"


class Experiment(_View):
    """An experiment with its arms: recsys.experiment_status."""

    experiment = models.TextField(primary_key=True)
    model = models.TextField()
    state = models.TextField()
    traffic = models.DecimalField("traffic in %", max_digits=5, decimal_places=2)
    arms = models.TextField()
    primary_metric = models.TextField()
    alpha = models.FloatField("significance level")
    expected_users = models.BigIntegerField(null=True)
    hypothesis = models.TextField()
    created_at = models.DateTimeField()
    created_by = models.TextField()
    started_at = models.DateTimeField(null=True)
    stopped_at = models.DateTimeField(null=True)
    reason = models.TextField(null=True)

    class Meta(_View.Meta):  # noqa: D106
        db_table = '"recsys"."experiment_status"'
        ordering = ("-created_at", "experiment")
        default_permissions = ("view",)

    def __str__(self) -> str:
        return self.experiment


class AuditEntry(_View):
    """A transition of a model: recsys.audit_log."""

    id = models.BigIntegerField(primary_key=True)
    at = models.DateTimeField("when")
    model = models.TextField()
    number = models.IntegerField("version", null=True)
    kind = models.TextField("what")
    before = cast("Any", models.JSONField(null=True))
    after = cast("Any", models.JSONField(null=True))
    reason = models.TextField()
    who = models.TextField("database role")
    application = models.TextField()
    numbers = cast("Any", models.JSONField())

    class Meta(_View.Meta):  # noqa: D106
        db_table = '"recsys"."audit_log"'
        ordering = ("-id",)
        default_permissions = ("view",)
        verbose_name_plural = "audit entries"

    def __str__(self) -> str:
        return f"{self.model} {self.kind}"
