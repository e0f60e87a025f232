"""The view of the interactions that a fit works on: query rows over trained items."""

from recsys.training.rows.build import fit_rows, query_rows
from recsys.training.rows.view import QueryRows

__all__ = ["QueryRows", "fit_rows", "query_rows"]
