-- recsys._queue_items: say that items changed, as the capture triggers do
--
--   p_items  item ids as text; longer ones than 2,000 bytes, which no version can hold, are left out
--   -> rows queued; none for a model that is not registered
--
-- The only way for request processes, which may not write the queue themselves. It runs as recsys_trainer, so every
-- function is named in full.
--
-- tests: tests/db/test_privileges.py

create function recsys._queue_items(p_model text, p_items text[])
returns bigint
language sql security definer
set search_path from current
as $function$
    with queued as (
        insert into recsys.item_change (model, bucket, item_id)
        select m.name, recsys._item_bucket(d.i), d.i
        from (select distinct given.i from pg_catalog.unnest(p_items) as given (i)) as d
        join recsys.model as m on m.name = p_model
        where d.i is not null and pg_catalog.octet_length(d.i) <= 2000
        returning 1
    ) select pg_catalog.count(*) from queued
$function$;
