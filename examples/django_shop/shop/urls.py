"""Addresses of the shop."""

from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from shop import views
from shop.catalogue import SHOPPERS

login = LoginView.as_view(
    template_name="shop/login.html", extra_context={"shoppers": SHOPPERS}
)

urlpatterns = [
    path("", views.home, name="home"),
    path("product/<int:pk>/", views.product, name="product"),
    path("product/<int:pk>/basket/", views.basket, name="basket"),
    path("department/<slug:slug>/", views.department, name="department"),
    path("search/", views.search, name="search"),
    path("login/", login, name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
]
