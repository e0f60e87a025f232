"""Middleware: every request knows its visitor."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from typing import Any, cast

from django.http import HttpRequest
from django.utils.decorators import sync_and_async_middleware

from recsys.django._visitor import visitor_of

_Get = Callable[[HttpRequest], Any]


@sync_and_async_middleware
def RecsysMiddleware(get_response: _Get) -> _Get:
    """Give every request ``request.recsys``: who asks, and their session's history.

    Put it after SessionMiddleware and AuthenticationMiddleware.
    """
    if iscoroutinefunction(get_response):
        get = cast("Callable[[HttpRequest], Awaitable[Any]]", get_response)

        async def answer(request: HttpRequest) -> Any:
            visitor_of(request)
            return await get(request)

        return answer

    def respond(request: HttpRequest) -> Any:
        visitor_of(request)
        return get_response(request)

    return respond
