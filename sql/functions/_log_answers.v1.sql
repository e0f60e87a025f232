-- recsys._log_answers: store answers and first exposures
--
--   p_answers    a JSON array of objects with the columns of recsys.impression
--   p_exposures  a JSON array of objects {experiment, unit, arm}, or null
--                occurred_at or first_at: else stamped, the writer's reckoning of this server's clock; else now
--   -> false     the answers are stored, the exposures are not: a lock was not to be had for 200 ms
--   raises       55P03 when the answers were not to be stored for 200 ms
--
-- What is stored already is passed over, so a batch may be sent again with the same times. Two sessions that expose
-- the same unit wait for one another; the lock_timeout keeps a request of the application from waiting for a
-- stranger's transaction, and the answer is stored whatever becomes of the exposure. Time is the server's, because
-- the start of an experiment or of a ramp's step is: a process whose clock is behind would answer before it began.
--
-- tests: tests/db/test_impressions.py

create function recsys._log_answers(p_answers json, p_exposures json default null)
returns boolean
language plpgsql
set search_path from current
set lock_timeout = '200ms'
as $function$
begin
    insert into recsys.impression (
        request_id, model, version, user_id, unit, occurred_at, item_ids, scores, channels, page_offset, k,
        experiment, arm, context, took_ms, degraded, error)
    select
        a.request_id, a.model, a.version, a.user_id, a.unit,
        coalesce(a.occurred_at, a.stamped, clock_timestamp()), coalesce(a.item_ids, '{}'),
        coalesce(a.scores, '{}'), coalesce(a.channels, '{}'), coalesce(a.page_offset, 0), a.k,
        a.experiment, a.arm, a.context, a.took_ms, a.degraded, a.error
    from json_to_recordset(p_answers) as a (
        request_id uuid, model text, version integer, user_id text, unit text, occurred_at timestamptz,
        stamped timestamptz, item_ids text[], scores real[], channels text[], page_offset integer, k integer,
        experiment text, arm text, context jsonb, took_ms real, degraded text, error text)
    on conflict do nothing;
    if p_exposures is null then
        return true;
    end if;
    begin
        -- In one order, so that two batches cannot wait for each other.
        insert into recsys.exposure (experiment, unit, arm, first_at)
        select e.experiment, e.unit, e.arm, coalesce(e.first_at, e.stamped, clock_timestamp())
        from json_to_recordset(p_exposures) as e (
            experiment text, unit text, arm text, first_at timestamptz, stamped timestamptz)
        order by e.experiment, e.unit
        on conflict do nothing;
        return true;
    exception
        when lock_not_available then
            return false;
    end;
end
$function$;
