"""Note which products change, so that 'recsys worker' keeps their vectors right."""

from django.db import migrations

from recsys.django.operations import WatchModel


class Migration(migrations.Migration):
    """The capture triggers of the model "shop" on the shop's tables."""

    dependencies = [("shop", "0001_initial"), ("recsys", "0005_lean")]
    operations = [WatchModel("shop")]
