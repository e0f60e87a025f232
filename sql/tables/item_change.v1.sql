-- recsys.item_change: which items changed, append-only; the workers delete what they have applied
--
-- bucket   0..63, by the item id: one worker at a time works on a bucket, so that no item is read and written by two
-- item_id  as text; null: everything changed (a table was truncated)
--
-- No unique key: two transactions of the application that change one item must not wait for each other here.

create table recsys.item_change (
    id         bigint generated always as identity,
    model      text not null,
    bucket     smallint not null,
    item_id    text,
    changed_at timestamptz not null default clock_timestamp(),
    -- As recsys._item_bucket says, which is not here yet: no worker would find another bucket.
    constraint item_change_bucket_is_the_items
    check (bucket = coalesce((hashtextextended(item_id collate "C", 0) & 63)::smallint, 0))
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0,
        autovacuum_vacuum_insert_scale_factor = 0.5);

create index item_change_claim on recsys.item_change (model, bucket, id);

comment on table recsys.item_change is 'Which items changed and wait for a worker; append-only.';
