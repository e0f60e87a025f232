"""A Django project in one file: python site_django.py runserver PORT."""

from __future__ import annotations

import os
import sys

import django
from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpRequest, JsonResponse
from django.urls import re_path

settings.configure(
    DEBUG=True,
    SECRET_KEY="test",
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["127.0.0.1"],
    USE_TZ=True,
)
django.setup()

import served  # noqa: E402

# Edited by the test: the server must notice and start anew.
EDITION = int(os.environ.get("EDITION", "0")) or 1


def view(request: HttpRequest) -> JsonResponse:
    """Every path is answered by the application of the other servers."""
    found = served.answer(request.path, request.META["QUERY_STRING"])
    return JsonResponse({**found, "edition": EDITION})


urlpatterns = [re_path("", view)]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
