"""Addresses of the project."""

from django.contrib import admin
from django.urls import include, path

admin.site.site_header = admin.site.site_title = "Pine & Kettle"

urlpatterns = [path("admin/", admin.site.urls), path("", include("shop.urls"))]
