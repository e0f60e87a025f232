"""The shop's pages."""

from __future__ import annotations

from collections.abc import Sequence

from django.contrib import messages
from django.contrib.postgres.search import SearchQuery, SearchRank
from django.db.models import QuerySet, Value
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_GET, require_POST

from recsys.errors import UnknownItem
from recsys.rules import Rules
from shop.catalogue import DEPARTMENTS
from shop.models import SEARCHED, Category, Event, Product
from shop.recommenders import shop

PER_PAGE = 24
PRICES = ("25", "50", "100", "250")
# Whose pictures stand on the home page.
STAGE = (16, 49, 6)
TILES = {
    "trail": 1,
    "coffee": 54,
    "desk": 106,
    "plants": 133,
    "kitchen": 67,
    "ride": 93,
}
# Some of everything: at most two of a category on the home page.
VARIED = Rules(at_most=2, per=Product.objects.values_list("id", "category_id"))


def departments(request: HttpRequest) -> dict[str, object]:
    """Return what every page shows (a context processor)."""
    return {"departments": DEPARTMENTS}


@require_GET
def home(request: HttpRequest) -> HttpResponse:
    """Show what this visitor may like: it changes with every product they look at."""
    in_stock = Product.objects.filter(in_stock=True)
    seen = _seen(request)
    return render(
        request,
        "shop/home.html",
        {
            "for_you": shop.recommend(request, k=12, among=in_stock, rules=VARIED),
            "seen": seen,
            "new": in_stock.order_by("-created_at")[:6],
            "stage": _products(STAGE),
            "tiles": _tiles(),
        },
    )


@require_GET
def product(request: HttpRequest, pk: int) -> HttpResponse:
    """Show one product, products like it, and what else this visitor may like."""
    shown = get_object_or_404(Product.objects.select_related("category"), pk=pk)
    # For a visitor who is not logged in, it is remembered in the session.
    shop.record(request, shown, "view", request_id=request.GET.get("from"))
    in_stock = Product.objects.filter(in_stock=True)
    try:
        similar = shop.similar(
            shown, who=request, k=6, among=in_stock, boost=_same_shelf(shown)
        )
    except UnknownItem:  # so new that the worker has not come to it
        similar = None
    exclude = [shown, *(similar or ())]
    for_you = shop.recommend(request, k=6, among=in_stock, exclude=exclude)
    return render(
        request,
        "shop/product.html",
        {
            "product": shown,
            "department": DEPARTMENTS[shown.category.department][0],
            "similar": similar,
            "for_you": for_you,
        },
    )


@require_POST
def basket(request: HttpRequest, pk: int) -> HttpResponse:
    """Put a product into the basket: a stronger sign of taste than a view."""
    wanted = get_object_or_404(Product, pk=pk)
    shop.record(request, wanted, "cart", request_id=request.POST.get("from"))
    messages.success(request, f"{wanted.name} is in your basket.")
    return HttpResponseRedirect(wanted.get_absolute_url())


@require_GET
def department(request: HttpRequest, slug: str) -> HttpResponse:
    """Show a department, in the order of this visitor's taste."""
    if slug not in DEPARTMENTS:
        raise Http404
    title, line = DEPARTMENTS[slug]
    products = Product.objects.filter(category__department=slug)
    categories = Category.objects.filter(department=slug)
    chosen = request.GET.get("category", "")
    if chosen in {category.slug for category in categories}:
        products = products.filter(category__slug=chosen)
    else:
        chosen = ""
    context = {"title": title, "line": line, "categories": categories, "chosen": chosen}
    return _listing(request, products, context)


@require_GET
def search(request: HttpRequest) -> HttpResponse:
    """Show what matches some words: Postgres finds, the visitor's taste sorts."""
    words = request.GET.get("q", "").replace("\0", "").strip()[:200]
    query = SearchQuery(words, search_type="websearch", config="english")
    products = Product.objects.annotate(document=SEARCHED).filter(document=query)
    context = {"title": f"“{words}”" if words else "Search", "words": words}
    return _listing(request, products, context, match=SearchRank(SEARCHED, query))


def _tiles() -> list[dict[str, object]]:
    """Return the departments, each with one of its products."""
    found = Product.objects.in_bulk(TILES.values())
    return [
        {"slug": slug, "title": title, "line": line, "product": found.get(TILES[slug])}
        for slug, (title, line) in DEPARTMENTS.items()
    ]


def _listing(
    request: HttpRequest,
    products: QuerySet[Product],
    context: dict[str, object],
    match: SearchRank | None = None,
) -> HttpResponse:
    """Filter and sort a list of products; each page knows what those before showed."""
    if request.GET.get("stock"):
        products = products.filter(in_stock=True)
    below = request.GET.get("below", "")
    if below in PRICES:
        products = products.filter(price__lt=int(below))
    shown = _numbers(request.GET.get("shown", ""))
    orders = {"price": "price", "new": "-created_at"}
    if match is not None:
        orders["match"] = match.desc()
    sort = request.GET.get("sort", "")
    if sort in orders:
        first = len(shown)
        ordered = products.select_related("category").order_by(orders[sort], "pk")
        page = ordered[first : first + PER_PAGE]
    else:
        page = shop.recommend(
            request, k=PER_PAGE, among=products, exclude_seen=False, after=shown
        )
    so_far = [*shown, *(product.pk for product in page)]
    total = products.count()
    context |= {
        "page": page,
        "total": total,
        "below": below,
        "prices": PRICES,
        "sort": sort,
        "more": "-".join(map(str, so_far)) if len(so_far) < total else "",
    }
    return render(request, "shop/listing.html", context)


def _numbers(text: str) -> list[int]:
    """Read what a page says of those before it; anybody may write anything there."""
    return [int(n) for n in text.split("-") if n.isdecimal() and len(n) < 10]


def _same_shelf(shown: Product) -> QuerySet:
    """Return a little extra for its own kind: beside a kettle, kettles come first."""
    shelf = Product.objects.filter(category=shown.category_id)
    return shelf.values_list("pk", Value(0.15))


def _seen(request: HttpRequest) -> list[Product]:
    """Return what this visitor looked at last, newest first."""
    if request.user.is_authenticated:
        events = Event.objects.filter(customer=request.user).order_by("-created_at")
        ids = list(dict.fromkeys(events.values_list("product_id", flat=True)[:30]))
    else:
        ids = [int(pk) for pk in request.recsys.history("shop")]
    return _products(ids[:6])


def _products(ids: Sequence[int]) -> list[Product]:
    """Return products in the order of their ids."""
    found = Product.objects.select_related("category").in_bulk(ids)
    return [found[pk] for pk in ids if pk in found]
