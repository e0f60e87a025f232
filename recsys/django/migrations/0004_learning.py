"""The recsys schema with incremental updates of the learned rows.

Safe before new code: no.
"""

from __future__ import annotations

from django.db import migrations

from recsys.django.operations import UpgradeSchema


class Migration(migrations.Migration):
    """Core revision 0004."""

    # recsys upgrades on a connection of its own.
    atomic = False
    dependencies = [("recsys", "0003_web")]  # noqa: RUF012
    operations = [  # noqa: RUF012
        UpgradeSchema("0004", before="0003"),
    ]
