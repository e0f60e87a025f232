-- recsys._queue_items: say that items changed, as the capture triggers do
--
--   p_items  item ids as text
--   -> rows queued

create function recsys._queue_items(p_model text, p_items text[])
returns bigint
language sql
as $function$
    with queued as (
        insert into recsys.item_change (model, bucket, item_id)
        select p_model, recsys._item_bucket(i), i from (select distinct unnest(p_items) as i) as d where i is not null
        returning 1
    ) select count(*) from queued
$function$;
