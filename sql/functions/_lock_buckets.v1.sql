-- recsys._lock_buckets: keep the workers off some items until the transaction ends
--
--   p_buckets  in any order; waits, at most for lock_timeout, until the workers that hold them have committed
--
-- A worker tries and never waits, and does not get a bucket that somebody waits for.

create function recsys._lock_buckets(p_model text, p_buckets smallint[])
returns void
language plpgsql
as $function$
declare
    wanted smallint;
begin
    for wanted in select distinct b from unnest(p_buckets) as b order by b loop
        perform pg_advisory_xact_lock(hashtext('recsys.items.' || p_model), wanted);
    end loop;
end
$function$;
