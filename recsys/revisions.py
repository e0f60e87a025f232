"""Write the revision file of a model version into the application's own folder."""

from __future__ import annotations

import pprint
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from alembic.config import Config
from alembic.script import ScriptDirectory

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


def write(plan: VersionPlan, config: Config, folder: Path) -> Path:
    """Write the revision file of a version.

    Args:
        plan: The version.
        config: Alembic configuration that includes ``folder``.
        folder: The application's folder of model revisions; made when missing.

    Returns:
        The file, complete: it is written beside its name and then renamed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    script = ScriptDirectory.from_config(config)
    heads = [
        revision.revision
        for revision in script.walk_revisions()
        if revision.is_head and Path(revision.path).parent == folder
    ]
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
    path = folder / f"{plan.model}_{plan.number:04d}.py"
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
