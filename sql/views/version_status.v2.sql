-- recsys.version_status: every model version with its state, backfill progress, coverage and calibration
--
-- eta is a straight line from the rows done in this phase; null when nothing can be said.

create or replace view recsys.version_status as
select
    v.model,
    v.number,
    v.state,
    coalesce(r.percent, 0)                                             as percent,
    v.phase,
    v.rows_done,
    v.rows_total,
    round(100.0 * v.rows_done / nullif(v.rows_total, 0), 1)            as progress_percent,
    case when v.state = 'building' and v.rows_done > 0 and v.rows_total > v.rows_done
         then (clock_timestamp() - v.phase_started_at) * ((v.rows_total - v.rows_done)::float8 / v.rows_done)
    end                                                                as eta,
    v.dim,
    v.item_count,
    v.source_count,
    round(100.0 * v.item_count / nullif(v.source_count, 0), 2)         as coverage_percent,
    v.ef_search,
    v.ann_recall,
    pg_relation_size(to_regclass(format('recsys.item_vector_%s_%s', v.model, v.number)))
                                                                       as table_bytes,
    pg_indexes_size(to_regclass(format('recsys.item_vector_%s_%s', v.model, v.number)))
                                                                       as index_bytes,
    v.created_at,
    v.created_by,
    v.ready_at,
    v.error,
    coalesce(r.candidate, false)                                       as candidate,
    v.trained_until,
    v.last_served_at,
    v.retired_at,
    (select count(*) from recsys.item_failure as f where f.model = v.model and f.number = v.number) as failed_items
from recsys.model_version as v
left join recsys.rollout as r on r.model = v.model and r.number = v.number;

comment on view recsys.version_status is
    'Every model version: state, share of users, backfill progress, coverage, index calibration, size.';
