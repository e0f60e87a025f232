"""The recsys schema with recommendations from SQL alone that lean as the towers do.

Safe before new code: no.
"""

from __future__ import annotations

from django.db import migrations

from recsys.django.operations import UpgradeSchema


class Migration(migrations.Migration):
    """Core revision 0005."""

    # recsys upgrades on a connection of its own.
    atomic = False
    dependencies = [("recsys", "0004_learning")]  # noqa: RUF012
    operations = [  # noqa: RUF012
        UpgradeSchema("0005", before="0004"),
    ]
