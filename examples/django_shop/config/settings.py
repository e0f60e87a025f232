"""Settings of the example shop. What recsys needs is marked with "recsys:"."""

import os
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from recsys import embedded

BASE_DIR = Path(__file__).resolve().parent.parent

# A shop of your own names its server here. This one starts the embedded Postgres, in
# the nearest .recsys at or above this folder.
DSN = os.environ.get("SHOP_DSN") or embedded.start(
    embedded.near(BASE_DIR), database="django_shop"
)
_server = conninfo_to_dict(DSN)

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _server["dbname"],
        "USER": _server.get("user", ""),
        "PASSWORD": _server.get("password", ""),
        "HOST": _server.get("host", ""),
        "PORT": _server.get("port", ""),
    }
}

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "recsys.django",  # recsys: admin pages, 'manage.py recsys', migrations
    "shop",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "recsys.django.middleware.RecsysMiddleware",  # recsys: request.recsys
    "django.contrib.messages.middleware.MessageMiddleware",
]

# recsys: where the models are declared, and how long a page may wait for an answer.
RECSYS = {"CONFIG": BASE_DIR / "recsys.toml", "TIMEOUT_MS": 300}

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "shop.views.departments",
            ],
        },
    }
]

SECRET_KEY = os.environ.get("SHOP_SECRET_KEY", "only for trying things out")
DEBUG = True
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
STATIC_URL = "static/"
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "home"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
