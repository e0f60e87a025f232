"""The commented recsys.toml that 'recsys init' writes."""

from __future__ import annotations

from pathlib import Path

from recsys.config import from_mapping
from recsys.errors import ConfigError

_TEMPLATE = """\
# Folder of the model revisions: one reviewed alembic file per model version.
versions = "recsys_versions"

[model.{model}]
item_id = "bigint"   # bigint, uuid or text: the type of your ids
user_id = "bigint"

[model.{model}.items]
# One row per item that may be recommended; item_id must be unique.
sql = "select id as item_id, title, brand, price, created_at from product"
# Which item a changed row concerns, for 'recsys watch': table = "its column with the
# item id". For joined tables: brand = "select product.id from product join changed on
# product.brand_id = changed.id".
watch = {{ product = "id" }}

[model.{model}.items.features]
# Columns of items.sql the model learns from. Types: category, categories, text,
# number, time, vector. An item nobody has touched yet is placed by them.
title = {{ type = "text" }}
brand = {{ type = "category" }}
price = {{ type = "number", scale = "log" }}
created_at = {{ type = "time" }}

# Optional: what is known about users, for those without a history.
# [model.{model}.users]
# sql = "select id as user_id, country from customer"
# [model.{model}.users.features]
# country = {{ type = "category" }}

[model.{model}.interactions]
# occurred_at and kind are optional. An index on the user column keeps requests fast.
sql = '''
select customer_id as user_id, product_id as item_id, created_at as occurred_at, kind
from event
'''
# Weight per kind; 0 means: seen, but says nothing about taste.
weights = {{ view = 1, cart = 3, purchase = 5 }}
# Where record() writes; without it, the table recsys.interaction.
# record = '''
# insert into event (customer_id, product_id, kind, created_at)
# values (%(user_id)s, %(item_id)s, %(kind)s, %(occurred_at)s)
# '''

# [model.{model}.train]
# dim = 128          # length of the learned vectors; small catalogues may get 256
# budget_s = 180     # seconds for choosing the settings and fitting

# [model.{model}.index]
# recall_target = 0.95
"""


def write(path: Path, model: str) -> None:
    """Write a recsys.toml; never over an existing file.

    Raises:
        ConfigError: The file exists, or the model's name is not usable.
    """
    from_mapping(
        {
            "model": {
                model: {
                    "items": {"sql": "select"},
                    "interactions": {"sql": "select"},
                }
            }
        }
    )
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(_TEMPLATE.format(model=model))
    except FileExistsError as exc:
        raise ConfigError(
            f"{path} exists", hint="Edit it, or name another with --config FILE."
        ) from exc
    except OSError as exc:
        raise ConfigError(f"cannot write {path}: {exc.strerror}") from exc
