-- recsys._keep_slow_request: keep one slow request, forget the oldest beyond 200 of its model
--
--   p_row   a JSON object with the columns of recsys.slow_request; longer text is cut
--   -> true kept; false: no such model, or a lock was not to be had for 200 ms
--
-- Runs as its owner: a request process may add to the table but neither read nor empty it.
--
-- tests: tests/db/test_slow_requests.py

create function recsys._keep_slow_request(p_row json)
returns boolean
language plpgsql security definer
set search_path from current
set lock_timeout = '200ms'
as $function$
declare
    kept text;
begin
    insert into recsys.slow_request (
        model, version, request_id, channel, user_id, k, returned, total_ms, connection_ms, state_ms, tower_ms,
        candidates_ms, degraded, error, filter, plan, plan_error)
    select
        m.name, r.version, r.request_id, left(r.channel, 100), left(r.user_id, 200), r.k, r.returned, r.total_ms,
        coalesce(r.connection_ms, 0), coalesce(r.state_ms, 0), coalesce(r.tower_ms, 0), coalesce(r.candidates_ms, 0),
        left(r.degraded, 200), left(r.error, 500), left(r.filter, 4000), left(r.plan, 20000), left(r.plan_error, 500)
    from json_to_record(p_row) as r (
        model text, version integer, request_id uuid, channel text, user_id text, k integer, returned integer,
        total_ms real, connection_ms real, state_ms real, tower_ms real, candidates_ms real, degraded text, error text,
        filter text, plan text, plan_error text)
    join recsys.model as m on m.name = r.model
    returning model into kept;
    if kept is null then
        return false;
    end if;
    delete from recsys.slow_request as old
    where old.id in (
        select s.id from recsys.slow_request as s
        where s.model = kept order by s.id desc offset 200 for update skip locked);
    return true;
exception
    when lock_not_available then
        return false;
end
$function$;
