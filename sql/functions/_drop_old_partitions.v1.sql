-- recsys._drop_old_partitions: drop the days of recsys.impression and recsys.outcome that are over for good
--
--   p_keep   at least a day
--   p_most   partitions to drop in this transaction; null all
--   -> number of partitions dropped
--
-- Dropping a partition locks the parent until the transaction ends, and every writer queues behind it, who waits 200 ms
-- himself: so the caller drops one per transaction, it waits 50 ms, and otherwise leaves the rest for the next run. Rows older than p_keep in the default partitions, or as far in the future, are
-- deleted.
--
-- Runs as its owner, the owner of the tables: nobody else may drop from a partitioned table.
--
-- tests: tests/db/test_impression_tables.py

create function recsys._drop_old_partitions(p_keep interval, p_most integer default null)
returns integer
language plpgsql security definer
set search_path from current
set lock_timeout = '50ms'
set timezone = 'UTC'
as $function$
declare
    dropped integer := 0;
    place   text;
begin
    if p_keep is null or p_keep < interval '1 day' then
        raise exception 'impressions are kept for at least a day, got %', p_keep
            using errcode = 'invalid_parameter_value';
    end if;
    begin
        delete from recsys.impression_default where occurred_at not between now() - p_keep and now() + p_keep;
        delete from recsys.outcome_default where occurred_at not between now() - p_keep and now() + p_keep;
    exception
        when lock_not_available or deadlock_detected then
            return 0;  -- another worker makes partitions at this moment
    end;
    for place in
        select c.relname
        from pg_catalog.pg_inherits as i
        join pg_catalog.pg_class as c on c.oid = i.inhrelid
        where i.inhparent in ('recsys.impression'::regclass, 'recsys.outcome'::regclass)
          and c.relname ~ '^(impression|outcome)_[0-9]{8}$'
          and to_date(right(c.relname, 8), 'YYYYMMDD') + 1 <= now() - p_keep
        order by right(c.relname, 8), c.relname
    loop
        exit when dropped >= p_most;
        begin
            execute format('drop table recsys.%I', place);
            dropped := dropped + 1;
        exception
            when lock_not_available or deadlock_detected then
                exit;
            when insufficient_privilege then
                raise warning 'partition recsys.% belongs to another role and stays', place
                    using hint = 'select recsys._grant_core(); as the role that migrates.';
        end;
    end loop;
    return dropped;
end
$function$;
