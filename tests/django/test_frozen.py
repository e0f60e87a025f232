"""Django's connection when the server behind it answers nobody."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.db import Error, connection, transaction
from django_store.models import Product
from django_store.recommenders import shop
from world import Shop


@contextmanager
def frozen() -> Iterator[None]:
    """Stop the server's process of this connection; later ones go on."""
    connection.ensure_connection()
    backend = connection.connection.info.backend_pid
    os.kill(backend, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(backend, signal.SIGCONT)


@pytest.fixture
def kept(store: Shop) -> Iterator[None]:
    """Connections outlive their request."""
    connection.close()
    connection.settings_dict["CONN_MAX_AGE"] = None
    yield
    connection.settings_dict["CONN_MAX_AGE"] = 0
    connection.close()


def test_what_follows_a_frozen_server_connects_anew(kept: None) -> None:
    assert shop.recommend(7, k=5).degraded is None
    with frozen():
        page = shop.recommend(7, k=5, timeout_ms=80)
        assert Product.objects.count() == 200  # in the same request

    assert (len(page), page.degraded) == (5, "timeout")
    assert shop.recommend(7, k=5).degraded is None


def _ask_and_go_on() -> None:
    assert shop.recommend(7, k=5, timeout_ms=80).degraded == "timeout"
    assert connection.errors_occurred
    Product.objects.count()


def test_a_transaction_that_lost_its_server_ends_with_an_error(kept: None) -> None:
    shop.recommend(7, k=5)
    with frozen():
        with pytest.raises(Error, match="closed"), transaction.atomic():
            _ask_and_go_on()
        assert Product.objects.count() == 200
