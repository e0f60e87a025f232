-- recsys._rollback: take the users back, in one commit
--
--   p_reason  kept in the logs
--   -> the number that serves everybody now: the base when a candidate was being rolled out, else the version that
--      served before
--   raises 22023 unknown model; 55000 nothing serves, nothing served before; 55P03 a lock was not to be had
--
-- tests: tests/db/test_rollout.py

create function recsys._rollback(p_model text, p_reason text default 'rollback')
returns integer
language plpgsql
set search_path from current
set lock_timeout = '5s'
as $function$
declare
    base     integer;
    previous integer;
begin
    perform from recsys.model where name = p_model for update;
    if not found then
        raise exception 'unknown model %', p_model using errcode = 'invalid_parameter_value';
    end if;
    select r.number into base from recsys.rollout as r where r.model = p_model and not r.candidate;
    if base is null then
        raise exception 'no version of model % is serving', p_model
            using errcode = 'object_not_in_prerequisite_state',
                  hint = format('Run ''recsys promote %s NUMBER''.', p_model);
    end if;
    if exists (select from recsys.rollout where model = p_model and candidate) then
        previous := base;
    else
        previous := recsys._previous_version(p_model, base);
        if previous is null then
            raise exception 'no version of model % that could serve again served before version %', p_model, base
                using errcode = 'object_not_in_prerequisite_state',
                      hint = format('Run ''recsys promote %s NUMBER'' with one that is ready.', p_model);
        end if;
    end if;
    perform recsys._promote(p_model, previous, 100, p_reason, 'rollback');
    return previous;
end
$function$;
