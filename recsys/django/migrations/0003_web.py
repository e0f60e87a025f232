"""The recsys schema inside web applications, and the views as models without tables.

Safe before new code: no.
"""

from __future__ import annotations

from django.db import migrations, models

from recsys.django.operations import UpgradeSchema


def _view(name: str, view: str, **options: object) -> migrations.CreateModel:
    """Say that a model exists; Django follows neither table nor columns of it."""
    return migrations.CreateModel(
        name=name,
        fields=[("key", models.CharField(primary_key=True, max_length=255))],
        options={
            "db_table": f'"recsys"."{view}"',
            "managed": False,
            "default_permissions": ("view",),
            **options,
        },
    )


class Migration(migrations.Migration):
    """Core revision 0003."""

    # recsys upgrades on a connection of its own.
    atomic = False
    dependencies = [("recsys", "0002_live")]  # noqa: RUF012
    operations = [  # noqa: RUF012
        UpgradeSchema("0003", before="0002"),
        _view(
            "Version",
            "version_status",
            ordering=("model", "-number"),
            permissions=(
                ("promote_version", "Can let a version serve a share of the users"),
                ("rollback_version", "Can take the users back from a version"),
            ),
        ),
        _view(
            "VersionMetric",
            "version_metric",
            ordering=("model", "-number", "slice", "method", "metric"),
        ),
        _view("Rollout", "rollout_status", ordering=("model", "role")),
        _view(
            "Backlog",
            "change_status",
            ordering=("model",),
            verbose_name_plural="backlog",
        ),
        _view(
            "Experiment",
            "experiment_status",
            ordering=("-created_at", "experiment"),
        ),
        _view(
            "AuditEntry",
            "audit_log",
            ordering=("-id",),
            verbose_name_plural="audit entries",
        ),
    ]
