"""Live versions: change capture, rollouts, comparison, impressions, experiments.

Safe before new code: no
"""

from recsys import _ddl

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

LIVE = (
    "tables/live_columns.v1.sql",
    "tables/audit.v1.sql",
    "tables/ramp.v1.sql",
    "tables/capture.v1.sql",
    "tables/item_change.v1.sql",
    "tables/item_lookup.v1.sql",
    "tables/item_failure.v1.sql",
    "tables/item_gone.v1.sql",
    "tables/worker.v1.sql",
    "functions/_bucket.v1.sql",
    "functions/_audit.v1.sql",
    "functions/_numbers.v1.sql",
    "functions/_rollout.v1.sql",
    "functions/_audit_state.v1.sql",
    "functions/_check_promotable.v1.sql",
    "functions/_check_gate.v1.sql",
    "functions/_check_unused.v1.sql",
    "functions/_end_ramp.v1.sql",
    "functions/_previous_version.v2.sql",
    "functions/_promote.v2.sql",
    "functions/_hand_over.v1.sql",
    "functions/_retire_for_drop.v2.sql",
    "functions/_rollback.v1.sql",
    "functions/_retire.v1.sql",
    "functions/_register_version.v2.sql",
    "functions/_superfluous.v1.sql",
    "functions/_assign.v1.sql",
    "functions/_serving.v2.sql",
    "functions/_plan.v1.sql",
    "functions/recommend.v2.sql",
    "functions/_item_bucket.v1.sql",
    "functions/_lock_buckets.v1.sql",
    "functions/_claim_changes.v1.sql",
    "functions/_queue_items.v1.sql",
    "functions/_request_reconcile.v1.sql",
    "functions/set_capture.v1.sql",
    "views/version_status.v2.sql",
    "views/audit_log.v1.sql",
    "views/dead_letter.v1.sql",
    "views/change_status.v1.sql",
    "views/rollout_status.v1.sql",
    "functions/_grant_part_live.v1.sql",
)
REPLACED = (
    "functions/_previous_version.v1.sql",
    "functions/_promote.v1.sql",
    "functions/_retire_for_drop.v1.sql",
    "functions/_register_version.v1.sql",
    "functions/_serving.v1.sql",
    "functions/recommend.v1.sql",
    "views/version_status.v1.sql",
)
COMPARISON = (
    "tables/comparison.v1.sql",
    "views/version_comparison.v1.sql",
    "functions/_grant_part_comparison.v1.sql",
)
IMPRESSIONS = (
    "tables/impression.v1.sql",
    "tables/outcome.v1.sql",
    "tables/retention.v1.sql",
    "tables/guardrail.v1.sql",
    "views/impression_item.v1.sql",
    "views/version_outcome.v1.sql",
    "functions/_log_answers.v1.sql",
    "functions/_log_outcome.v1.sql",
    "functions/_make_partitions.v1.sql",
    "functions/_drop_old_partitions.v1.sql",
    "functions/_guard_moments.v1.sql",
    "functions/_grant_part_impressions.v1.sql",
)
EXPERIMENTS = (
    "tables/experiment.v1.sql",
    "tables/experiment_arm.v1.sql",
    "tables/experiment_metric.v1.sql",
    "tables/exposure.v1.sql",
    "functions/_experiment_frozen.v1.sql",
    "functions/_experiment_unit.v1.sql",
    "functions/_experiment_moment.v1.sql",
    "functions/_bilinear.v1.sql",
    "functions/_critical_value.v1.sql",
    "functions/_chi_square_tail.v1.sql",
    "functions/_lift.v1.sql",
    "functions/_experiment_kept.v1.sql",
    "functions/experiment_result_at.v1.sql",
    "functions/experiment_health_at.v1.sql",
    "functions/_experiment_uses.v1.sql",
    "functions/_check_experiment.v1.sql",
    "functions/_experiment_start.v1.sql",
    "functions/_experiment_stop.v1.sql",
    "functions/_experiment_keep.v1.sql",
    "views/experiment_status.v1.sql",
    "views/experiment_result.v1.sql",
    "views/experiment_health.v1.sql",
    "functions/_grant_part_experiments.v1.sql",
)


def upgrade() -> None:
    """Make the tables, functions, views and grants of every area."""
    for name in (*LIVE, *COMPARISON, *IMPRESSIONS, *EXPERIMENTS):
        _ddl.run(name)
    _ddl.run("functions/schema_version.v2.sql")
    _ddl.run("functions/_grant_core.v2.sql")


def downgrade() -> None:
    """Remove them, the last area first."""
    for area in ("experiments", "impressions", "comparison", "live"):
        _ddl.run(f"drop_{area}.v1.sql")
    for name in REPLACED:
        _ddl.run(name)
    _ddl.run("functions/schema_version.v1.sql")
    _ddl.run_text("drop function recsys._grant_core(), recsys._grant_version(text);")
    _ddl.run("grants.v1.sql")
