"""The shop's part of the admin; recsys brings its own."""

from django.contrib import admin

from shop.models import Category, Event, Product


@admin.register(Product)
class ProductAdmin(admin.ModelAdmin):
    """Products: a change reaches the recommendations through 'recsys worker'."""

    list_display = ("name", "brand", "category", "colour", "price", "in_stock")
    list_filter = ("in_stock", "category__department", "colour")
    list_select_related = ("category",)
    list_editable = ("in_stock",)
    search_fields = ("name", "brand")


@admin.register(Category)
class CategoryAdmin(admin.ModelAdmin):
    """Categories."""

    list_display = ("name", "department")


@admin.register(Event)
class EventAdmin(admin.ModelAdmin):
    """What customers did; to look at only."""

    list_display = ("created_at", "customer", "kind", "product")
    list_select_related = ("customer", "product")
    show_full_result_count = False

    def has_add_permission(self, request):
        return False

    def has_change_permission(self, request, obj=None):
        return False
