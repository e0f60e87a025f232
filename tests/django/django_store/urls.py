from django.contrib import admin
from django.http import HttpRequest, JsonResponse
from django.urls import path

from django_store.recommenders import shop


def home(request: HttpRequest) -> JsonResponse:
    page = shop.recommend(request, k=5)
    return JsonResponse(
        {"ids": page.ids, "unit": request.recsys.unit, "degraded": page.degraded}
    )


def click(request: HttpRequest, item: int) -> JsonResponse:
    shop.record(request, item, request.GET.get("kind", "view"))
    if request.GET.get("then") == "fail":
        raise RuntimeError("after the click")
    return JsonResponse({"history": request.recsys.history("shop")})


urlpatterns = [
    path("admin/", admin.site.urls),
    path("", home),
    path("click/<int:item>/", click),
]
