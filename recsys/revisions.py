"""Write the revision file of a model version into the application's own folder."""

from __future__ import annotations

import os
import pprint
import re
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from alembic.config import Config
from alembic.script import Script, ScriptDirectory

from recsys._db import Connection
from recsys.errors import ConfigError
from recsys.schema import CORE_REVISION
from recsys.versions import VersionPlan

BRANCH = "model"

_TEMPLATE = '''\
"""Model {model}, version {number}.

{summary}

Safe before new code: yes. The version is only built here; nobody is served by it
before 'recsys promote {model} {number}'.
"""

from alembic import op

import recsys.operations  # noqa: F401  registers op.create_model_version

revision = {revision!r}
down_revision = {down_revision!r}
branch_labels = {branch_labels!r}
depends_on = {depends_on!r}

SPEC = {spec}

ARTIFACTS = {artifacts}

METRICS = {metrics}


def upgrade() -> None:
    op.create_model_version(
        {model!r}, {number}, spec=SPEC, artifacts=ARTIFACTS, metrics=METRICS
    )


def downgrade() -> None:
    op.drop_model_version(
        {model!r}, {number}, item_id=SPEC["item_id"], user_id=SPEC["user_id"]
    )
'''


def numbers(folder: Path, model: str) -> set[int]:
    """Return the numbers of a model's versions that have a file in the folder.

    Files are named by us, but may have been renamed since; none of them is run.
    """
    name = re.compile(rf"{re.escape(model)}_([0-9]{{1,6}})\.py")
    line = re.compile(
        rf"^revision\b[^=\n]*=\s*['\"]{re.escape(model)}_([0-9]{{1,6}})['\"]",
        re.MULTILINE,
    )
    found: set[int] = set()
    for path in folder.glob("*.py") if folder.is_dir() else ():
        text = path.read_text(encoding="utf-8", errors="replace")
        matches = (name.fullmatch(path.name), line.search(text))
        found.update(int(match[1]) for match in matches if match)
    return found


def waiting(conn: Connection, folder: Path, model: str) -> list[int]:
    """Return the versions whose file ``recsys upgrade`` was not run on yet.

    A file older than a registered version counts as applied: its version may have been
    dropped since.
    """
    row = conn.execute(
        "select coalesce(max(number), 0) from recsys.model_version where model = %s",
        (model,),
    ).fetchone()
    newest = row[0] if row else 0
    return sorted(number for number in numbers(folder, model) if number > newest)


def check_folder(config: Config, folder: Path) -> None:
    """Find out before a training whether its file can be written after it.

    Args:
        config: Alembic configuration that includes ``folder``.
        folder: The application's folder of model revisions; it need not exist.

    Raises:
        ConfigError: It is no folder, is not writable, or has a file that is broken.
    """
    existing = next(
        path for path in (folder, *folder.absolute().parents) if path.exists()
    )
    if not existing.is_dir():
        raise ConfigError(
            f"the folder of revision files cannot be made: {existing} is a file",
            hint="Correct 'versions' in recsys.toml.",
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(
            f"the folder of revision files is not writable: {existing}",
            hint="Correct its permissions, or 'versions' in recsys.toml.",
        )
    _load(config, folder)


def _load(config: Config, folder: Path) -> list[Script]:
    """Return the revisions of the folder."""
    try:
        script = ScriptDirectory.from_config(config)
        return [
            revision
            for revision in script.walk_revisions()
            if Path(revision.path).resolve().parent == folder.resolve()
        ]
    except Exception as exc:  # a revision file may raise anything
        raise ConfigError(
            f"{_culprit(exc, folder)} is broken: {type(exc).__name__}: {exc}",
            hint="Mend or remove the file: every upgrade reads all of them.",
        ) from exc


def _culprit(exc: Exception, folder: Path) -> str:
    """Return the file that made alembic fail, else the folder."""
    frames = [frame.filename for frame in traceback.extract_tb(exc.__traceback__)]
    if isinstance(exc, SyntaxError) and exc.filename:
        frames.append(exc.filename)
    ours = [name for name in frames if Path(name).resolve().parent == folder.resolve()]
    return ours[-1] if ours else f"a revision file in {folder}"


def write(plan: VersionPlan, config: Config, folder: Path) -> Path:
    """Write the revision file of a version.

    Args:
        plan: The version.
        config: Alembic configuration that includes ``folder``.
        folder: The application's folder of model revisions; made when missing.

    Returns:
        The file, complete: it is written beside its name and then renamed.

    Raises:
        ConfigError: The version has a revision file already, or another is broken.
    """
    revisions = _load(config, folder)
    path = folder / f"{plan.model}_{plan.number:04d}.py"
    same = [Path(r.path) for r in revisions if r.revision == plan.suffix]
    if same or path.exists():
        raise ConfigError(
            f"revision {plan.suffix} exists already: {same[0] if same else path}",
            hint=f"Train again: recsys train {plan.model}",
        )
    folder.mkdir(parents=True, exist_ok=True)
    heads = [revision.revision for revision in revisions if revision.is_head]
    down = None if not heads else heads[0] if len(heads) == 1 else tuple(heads)
    text = _TEMPLATE.format(
        model=plan.model,
        number=plan.number,
        summary=_summary(plan),
        revision=plan.suffix,
        down_revision=down,
        branch_labels=None if heads else (BRANCH,),
        depends_on=None if heads else (CORE_REVISION,),
        spec=_literal(dict(plan.spec)),
        artifacts=_literal(dict(plan.artifacts)),
        metrics=_literal(dict(plan.metrics)),
    )
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    return path


def _literal(value: object) -> str:
    return pprint.pformat(value, width=88, sort_dicts=False)


def _summary(plan: VersionPlan) -> str:
    lines = [f"{plan.config.train.dim} dimensions; validation slice:"]
    validation: Mapping[str, Any] = plan.metrics.get("validation", {})
    for method, metrics in validation.items():
        if isinstance(metrics, Mapping):
            numbers = ", ".join(
                f"{k} {v:.4f}" for k, v in cast(Mapping[str, float], metrics).items()
            )
            lines.append(f"  {method}: {numbers}")
    return "\n".join(lines)
