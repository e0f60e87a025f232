"""The recsys schema follows the application: change capture, workers, impressions.

Safe before new code: no.
"""

from __future__ import annotations

from django.db import migrations

from recsys.django.operations import UpgradeSchema


class Migration(migrations.Migration):
    """Core revision 0002."""

    # recsys upgrades on a connection of its own.
    atomic = False
    dependencies = [("recsys", "0001_core")]  # noqa: RUF012
    operations = [UpgradeSchema("0002", before="0001")]  # noqa: RUF012
