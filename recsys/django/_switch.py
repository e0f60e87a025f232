"""What the admin asks before it switches versions, and how it switches."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from decimal import Decimal

import psycopg
from django import forms
from django.db import Error as DjangoError
from django.db import connections, transaction
from psycopg import errors as pg

from recsys import rollout
from recsys._db import Connection
from recsys.django import conf
from recsys.django._source import DjangoSource
from recsys.django._terms import TERMS
from recsys.django.models import Rollout, Version
from recsys.errors import RecsysError, VersionStateError

WITHOUT = "Without a passed comparison"
"""Label of the box that does what --force does."""

_IN_A_FORM = {
    "with --force --reason '...'": f"with “{WITHOUT}” ticked",
    "--force --reason '...'": f"“{WITHOUT}” ticked",
}


class PromoteForm(forms.Form):
    """What a promotion needs to know."""

    percent = forms.DecimalField(
        label="Share of the users",
        initial=100,
        min_value=Decimal("0.01"),
        max_value=100,
        decimal_places=2,
        help_text="In percent. Below 100 the version is a candidate.",
    )
    reason = forms.CharField(
        widget=forms.Textarea(attrs={"rows": 2, "cols": 60}),
        help_text="The audit keeps it, with your name.",
    )
    force = forms.BooleanField(
        required=False, label=WITHOUT, help_text="The audit says so."
    )


class RollbackForm(forms.Form):
    """What a roll-back needs to know."""

    reason = forms.CharField(
        widget=forms.Textarea(attrs={"rows": 2, "cols": 60}),
        help_text="The audit keeps it, with your name.",
    )


def serving(model: str) -> str:
    """Return who serves a model now, as a sentence's part; empty when nobody does."""
    return ", ".join(
        f"version {one.number} {one.percent.normalize():f} %"
        + (" as the candidate" if one.role == "candidate" else "")
        for one in Rollout.objects.filter(model=model)
    )


def outlook(version: Version) -> str:
    """Return who serves after a promotion of a version."""
    numbers = _numbers(version)
    base, candidate = numbers.get("base"), numbers.get("candidate")
    if base is None:
        return "At 100 % it serves everybody; with less there is no version beside it."
    if base != version.number:
        return (
            f"At 100 % it serves everybody; below that version {base} answers the rest."
        )
    if candidate is not None:
        return f"At 100 % it serves everybody again, and version {candidate} nobody."
    return "It serves everybody already."


def heir(version: Version) -> int:
    """Return the version that serves everybody after a roll-back from this one.

    Raises:
        VersionStateError: There is nothing to take back from this version.
    """
    numbers = _numbers(version)
    if version.number not in numbers.values():
        raise VersionStateError(f"{version} serves nobody")
    candidate, base = numbers.get("candidate"), numbers["base"]
    if candidate == version.number:
        return base
    if candidate is not None:
        raise VersionStateError(
            f"{version} is the base of a rollout",
            hint=f"Choose {version.model} {candidate}, the candidate, to take its "
            "users back; or let another version serve them.",
        )
    with _borrowed() as conn:
        row = conn.execute(
            "select recsys._previous_version(%s, %s)", (version.model, version.number)
        ).fetchone()
    if row is None or row[0] is None:
        raise VersionStateError(
            f"no version that served before {version} could serve again",
            hint="Let another version serve instead.",
        )
    return int(row[0])


@contextmanager
def switching(model: str, seen: str) -> Generator[Connection]:
    """One transaction on the database of recsys, in which a model is locked.

    Args:
        model: Name of the model.
        seen: Who served when the page was shown.

    Raises:
        VersionStateError: That has changed since.
    """
    with _borrowed() as conn:
        with rollout.locking(conn, model):
            conn.execute(
                "select from recsys.model where name = %s for update", (model,)
            )
        now = serving(model)
        if now != seen:
            raise VersionStateError(
                f"another switch came first: now {now or 'nobody'} serves",
                hint="Look at the state above; if you still want it, send it again.",
            )
        yield conn


@contextmanager
def told() -> Generator[None]:
    """Turn what a database refuses into an error that a form can show.

    Raises:
        RecsysError: With a hint for somebody in the admin.
    """
    try:
        yield
    except RecsysError as exc:
        exc.reword(_in_a_form(exc.hint))
        raise
    except pg.InsufficientPrivilege as exc:
        role = _role()
        raise VersionStateError(
            f"the database role {role} may not do that: {exc.diag.message_primary}",
            hint=f"As the role that migrates: grant recsys_trainer to {role};",
        ) from exc
    except (psycopg.Error, DjangoError) as exc:
        first = str(exc).strip().partition("\n")[0]
        raise VersionStateError(
            f"the database failed: {first}",
            hint="Nothing was changed; look at its log, then try again.",
        ) from exc


def text(exc: RecsysError) -> str:
    """Return an error and its hint as sentences."""
    message = str(exc)
    return f"{message[:1].upper()}{message[1:]}. {exc.hint}".rstrip()


def _numbers(version: Version) -> dict[str, int]:
    """Return the version in each role of the rollout of a model."""
    rows = Rollout.objects.filter(model=version.model)
    return {one.role: one.number for one in rows}


def _in_a_form(hint: str) -> str:
    for ours, theirs in _IN_A_FORM.items():
        hint = hint.replace(ours, theirs)
    return TERMS.of(hint)


def _role() -> str:
    """Return the role that Django is in the database of recsys."""
    wrapper = connections[conf.current().database]
    assumed = wrapper.settings_dict.get("OPTIONS", {}).get("assume_role")
    held: psycopg.Connection | None = wrapper.connection
    return str(assumed or (held.info.user if held else wrapper.settings_dict["USER"]))


@contextmanager
def _borrowed() -> Generator[Connection]:
    alias = conf.current().database
    with transaction.atomic(using=alias), DjangoSource(alias).use() as conn:
        yield conn
