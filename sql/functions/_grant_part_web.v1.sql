-- recsys._grant_part_web: privileges on the search and on the slow requests
--
-- A request process adds through _keep_slow_request only: a stolen web login must not read what others asked for.
--
-- tests: tests/db/test_slow_requests.py

create function recsys._grant_part_web()
returns void
language plpgsql
set search_path from current
as $function$
begin
    if to_regrole('recsys_app') is not null then
        grant execute on function recsys._keep_slow_request(json),
            recsys._cost(text, halfvec, anyarray, real, integer),
            recsys._candidates(text, halfvec, anyarray, anyarray, anyarray, anyarray, anyarray, integer, integer, integer,
                               boolean, text, real, text, integer, integer, text, text, boolean)
        to recsys_app;
    end if;
    if to_regrole('recsys_analyst') is not null then
        grant select on recsys.slow_log to recsys_analyst;
    end if;
    if to_regrole('recsys_trainer') is not null then
        grant select, insert, update, delete on recsys.slow_request to recsys_trainer;
        grant select on recsys.slow_log to recsys_trainer;
        revoke trigger, truncate, references on recsys.slow_request from recsys_trainer;
        grant execute on function recsys._keep_slow_request(json) to recsys_trainer;
        if pg_has_role('recsys_trainer', 'usage') and pg_has_role('recsys_trainer', 'set') then
            alter function recsys._keep_slow_request(json) owner to recsys_trainer;
        end if;
    end if;
end
$function$;
