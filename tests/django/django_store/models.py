from django.db import models


class Product(models.Model):
    title = models.TextField()
    brand = models.TextField()
    price = models.FloatField()
    created_at = models.DateTimeField()
    shelf = models.IntegerField()

    class Meta:
        managed = False
        db_table = "product"
        ordering = ("title",)


class Event(models.Model):
    customer_id = models.BigIntegerField(primary_key=True)
    product = models.ForeignKey(
        Product, on_delete=models.CASCADE, related_name="events"
    )
    kind = models.TextField()
    created_at = models.DateTimeField()

    class Meta:
        managed = False
        db_table = "event"
