"""Migrations of the app: one per core revision of the recsys schema."""
