-- recsys._promote: let one version answer every user of a model
--
--   p_number  a ready or retired version with its tables; null stops serving
--   p_reason  kept in recsys.promotion, as is
--   p_kind    'promote', 'rollback' or 'drop'
--   -> number of the version that served before, null when none did
--   raises 22023 unknown model or version, 55000 wrong state, 55P03 a lock was not to be had for 5 seconds
--
-- One row lock on recsys.model orders concurrent promotions; generation, states, rollout and the log change
-- in one commit, which is what request processes see.
--
-- tests: tests/db/test_versions.py

create function recsys._promote(p_model text, p_number integer, p_reason text default '', p_kind text default 'promote')
returns integer
language plpgsql
set search_path from current
set lock_timeout = '5s'
as $function$
declare
    target   recsys.model_version;
    previous integer;
begin
    perform from recsys.model where name = p_model for update;
    if not found then
        raise exception 'unknown model %', p_model using errcode = 'invalid_parameter_value';
    end if;
    select r.number into previous from recsys.rollout as r where r.model = p_model
    order by r.percent desc limit 1;

    if p_number is not null then
        select * into target from recsys.model_version
        where model = p_model and number = p_number for update;
        if not found then
            raise exception 'model % has no version %', p_model, p_number
                using errcode = 'invalid_parameter_value';
        end if;
        if target.state not in ('ready', 'serving') then
            raise exception 'version % of model % is %, not ready', p_number, p_model, target.state
                using errcode = 'object_not_in_prerequisite_state',
                      hint = format('Run ''recsys backfill %s %s'' first.', p_model, p_number);
        end if;
    end if;
    if previous is not distinct from p_number then
        return previous;
    end if;

    update recsys.model_version set state = 'ready'
    where model = p_model and state = 'serving' and number is distinct from p_number;
    delete from recsys.rollout where model = p_model;
    if p_number is not null then
        update recsys.model_version set state = 'serving' where model = p_model and number = p_number;
        insert into recsys.rollout (model, number, percent) values (p_model, p_number, 100);
    end if;
    update recsys.model set generation = generation + 1 where name = p_model;
    insert into recsys.promotion (model, number, from_number, kind, reason)
    values (p_model, p_number, previous, p_kind, p_reason);
    return previous;
end
$function$;
