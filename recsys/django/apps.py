"""The Django app."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.contrib.auth.signals import user_logged_in
from django.core.signals import setting_changed
from django.utils.module_loading import autodiscover_modules

from recsys.django import _cores, _visitor


class RecsysConfig(AppConfig):
    """recsys as a Django app, label "recsys"."""

    name = "recsys.django"
    label = "recsys"
    verbose_name = "Recommendations"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register checks and signals, and import every app's recommenders.py."""
        from recsys.django import checks

        checks.register_all()
        user_logged_in.connect(_visitor.hand_over, dispatch_uid="recsys.hand_over")
        setting_changed.connect(_forget, dispatch_uid="recsys.forget")
        autodiscover_modules("recommenders")


def _forget(*, setting: str, **_: Any) -> None:
    """Read the settings anew after a test changed them."""
    if setting in ("RECSYS", "DATABASES"):
        _cores.reset()
