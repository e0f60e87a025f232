-- recsys.model_version: the registry of model versions
--
-- state       building -> ready -> serving, and back to ready when another takes over; failed: its artifacts are
--             wrong, and a backfill after their repair makes it ready; retired is reserved for gradual rollouts
-- dim         length of the stored item vectors: the learned unit vector plus the popularity dimension
-- spec        what recsys.toml said when the version was trained; requests and backfill read only this
-- artifacts   name -> sha256: item_tower, query_tower, embeddings, report
-- phase       what the backfill is doing; rows_done of rows_total

create table recsys.model_version (
    model            text not null references recsys.model (name),
    number           integer not null
                     constraint model_version_number_is_positive check (number > 0),
    state            text not null default 'building'
                     constraint model_version_state_is_known
                     check (state in ('building', 'ready', 'serving', 'retired', 'failed')),
    dim              integer not null
                     constraint model_version_dim_is_indexable check (dim between 2 and 4000),
    spec             jsonb not null,
    artifacts        jsonb not null,
    metrics          jsonb not null default '{}',
    default_query    real[],
    phase            text not null default 'created'
                     constraint model_version_phase_is_known
                     check (phase in ('created', 'loading', 'indexing', 'verifying', 'done')),
    rows_done        bigint not null default 0,
    rows_total       bigint,
    phase_started_at timestamptz not null default now(),
    item_count       bigint,
    source_count     bigint,
    ef_search        integer,
    ann_recall       real,
    error            text,
    created_at       timestamptz not null default now(),
    created_by       text not null default current_user,
    ready_at         timestamptz,
    primary key (model, number)
);

comment on table recsys.model_version is
    'The registry of model versions: state, specification, artifacts, backfill progress, index calibration.';
