"""The recsys schema: models, versions, artifacts, rollouts, experiments.

Safe before new code: yes.
"""

from __future__ import annotations

from django.db import migrations

from recsys.django.operations import UpgradeSchema


class Migration(migrations.Migration):
    """Core revision 0001."""

    # recsys upgrades on a connection of its own.
    atomic = False
    initial = True
    operations = [UpgradeSchema("0001", before="base")]  # noqa: RUF012
