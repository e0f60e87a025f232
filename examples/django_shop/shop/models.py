"""The shop's own tables. None of them knows anything of recommendations."""

from django.conf import settings
from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.search import SearchVector
from django.db import models
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import mark_safe

from shop.art import draw

SEARCHED = SearchVector("name", "brand", "colour", "description", config="english")


class Category(models.Model):
    """A shelf of a department."""

    slug = models.SlugField(unique=True)
    name = models.CharField(max_length=50)
    department = models.SlugField()

    class Meta:
        ordering = ("name",)
        verbose_name_plural = "categories"

    def __str__(self) -> str:
        return self.name


class Product(models.Model):
    """Something for sale."""

    category = models.ForeignKey(Category, models.PROTECT)
    name = models.CharField(max_length=100)
    brand = models.CharField(max_length=50)
    colour = models.CharField(max_length=20)
    swatch = models.CharField(max_length=7, help_text="The colour as #rrggbb.")
    style = models.CharField(max_length=20)
    description = models.TextField()
    price = models.DecimalField(max_digits=8, decimal_places=2)
    in_stock = models.BooleanField(default=True)
    created_at = models.DateTimeField(default=timezone.now)
    picture = models.CharField(
        max_length=30, help_text="A drawing of art.py; your shop has an ImageField."
    )

    class Meta:
        indexes = (GinIndex(SEARCHED, name="shop_product_search"),)

    def __str__(self) -> str:
        return f"{self.brand} {self.name}, {self.colour.lower()}"

    @property
    def art(self) -> str:
        """The picture, as a page takes it."""
        label = f"{self.name}, {self.colour.lower()}"
        return mark_safe(draw(self.picture, self.swatch, label))

    def get_absolute_url(self) -> str:
        return reverse("product", args=[self.pk])


class Event(models.Model):
    """What a customer did with a product."""

    customer = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE)
    product = models.ForeignKey(Product, models.CASCADE)
    kind = models.CharField(
        max_length=10, choices=[(k, k) for k in ("view", "cart", "purchase")]
    )
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        # A customer's latest events are what a recommendation reads first.
        indexes = (models.Index(fields=["customer", "-created_at"]),)

    def __str__(self) -> str:
        return f"{self.kind} of {self.product_id}"
