-- recsys.change_status: per model, what waits for the workers and how long
--
-- backlog         queue rows and rows of joined tables to look up, counted up to 10,000
-- backlog_capped  there are more
-- oldest_change   when the change was made that waits longest
-- capture         'triggers', 'off' (switched off), 'sweep' (by updated_at or by ids only)
-- triggers        those that are enabled; a trigger that is disabled captures nothing
-- workers         seen within the last minute

create view recsys.change_status as
select
    m.name                                                            as model,
    least(waiting.n, 10000)                                           as backlog,
    waiting.n > 10000                                                 as backlog_capped,
    oldest.changed_at                                                 as oldest_change,
    clock_timestamp() - oldest.changed_at                             as lag,
    case when triggers.n = 0 then 'sweep' when not coalesce(c.enabled, true) then 'off' else 'triggers' end as capture,
    triggers.n                                                        as triggers,
    c.reconcile_after is not null                                     as reconcile_pending,
    c.swept_to,
    (select count(*) from recsys.item_failure as f where f.model = m.name and f.retry_at is not null) as retrying,
    (select count(*) from recsys.item_failure as f where f.model = m.name and f.retry_at is null)     as dead_letters,
    (select count(*) from recsys.worker as w where w.seen_at > now() - interval '1 minute')           as workers
from recsys.model as m
left join recsys.capture as c on c.model = m.name
cross join lateral (
    select count(*) as n from (
        (select from recsys.item_change as i where i.model = m.name limit 10001)
        union all
        (select from recsys.item_lookup as l where l.model = m.name limit 10001)
    ) as i
) as waiting
cross join lateral (
    select min(first.changed_at) as changed_at
    from generate_series(0, 63) as g
    cross join lateral (
        select i.changed_at from recsys.item_change as i
        where i.model = m.name and i.bucket = g::smallint order by i.id limit 1
    ) as first
) as oldest
cross join lateral (
    select count(*) as n
    from pg_catalog.pg_trigger as t
    join pg_catalog.pg_proc as p on p.oid = t.tgfoid
    where p.pronamespace = 'recsys'::regnamespace and p.proname ~ ('^_capture__' || m.name || '__[0-9a-f]{8}$')
      and t.tgparentid = 0 and t.tgenabled in ('O', 'A')
) as triggers;

comment on view recsys.change_status is
    'Per model: how many changes wait for the workers, how long the oldest has waited, failures, workers.';
