"""Django looks here when INSTALLED_APPS names "recsys"; the app is "recsys.django"."""

from __future__ import annotations

from typing import Any, NoReturn

from django.apps import AppConfig
from django.core.exceptions import ImproperlyConfigured


class MisnamedConfig(AppConfig):
    """Says which name was meant."""

    name = "recsys"
    label = "recsys_misnamed"

    def __init__(self, *_: Any) -> NoReturn:
        raise ImproperlyConfigured(
            "INSTALLED_APPS names 'recsys'; the Django app is 'recsys.django'"
        )
