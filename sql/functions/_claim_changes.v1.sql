-- recsys._claim_changes: take changed items out of the queue, for this transaction
--
--   p_limit  at most about so many queue rows
--   -> item_id     distinct; null: everything changed
--   -> changed_at  of its oldest change
--
-- Buckets come oldest first. A deep queue fills the limit from one bucket, so that several workers work on several;
-- a shallow one is emptied by one worker. The rows are deleted here and come back when the transaction fails.
-- Whoever reads the source after this call, in a new snapshot, sees the changes that the rows stand for.
--
-- tests: tests/db/test_worker.py

create function recsys._claim_changes(p_model text, p_limit integer)
returns table (item_id text, changed_at timestamptz)
language plpgsql
set search_path from current
as $function$
#variable_conflict use_column
declare
    next_bucket smallint;
    ids         text[] := '{}';
    times       timestamptz[] := '{}';
    taken       text[];
    taken_at    timestamptz[];
begin
    for next_bucket in
        select b.bucket
        from (select g::smallint as bucket,
                     (select min(c.id) from recsys.item_change as c where c.model = p_model and c.bucket = g::smallint) as oldest
              from generate_series(0, 63) as g) as b
        where b.oldest is not null
        order by b.oldest
    loop
        continue when not pg_try_advisory_xact_lock(hashtext('recsys.items.' || p_model), next_bucket);
        with due as (
            select c.ctid as place
            from recsys.item_change as c
            where c.model = p_model and c.bucket = next_bucket
            order by c.id
            limit p_limit - cardinality(ids)
            for update skip locked
        ), deleted as (
            delete from recsys.item_change as c using due where c.ctid = due.place
            returning c.item_id, c.changed_at
        )
        select array_agg(d.item_id), array_agg(d.changed_at) into taken, taken_at from deleted as d;
        ids := ids || coalesce(taken, '{}');
        times := times || coalesce(taken_at, '{}');
        exit when cardinality(ids) >= p_limit;
    end loop;
    return query
    select u.item_id, min(u.changed_at) from unnest(ids, times) as u(item_id, changed_at) group by u.item_id;
end
$function$;
