-- recsys._promote: let a version answer a share of the users of a model, in one commit
--
--   p_number   a ready or serving version; null stops serving
--   p_percent  share of the users, above 0 to 100, two decimals; below 100 the version is the candidate and the
--              base answers the rest
--   p_reason   kept in recsys.promotion and recsys.audit, as is
--   p_kind     'promote', 'rollback' or 'drop'
--   p_force    without the comparison that a first percent needs; the audit says so
--   p_ramp     a step of recsys.ramp; any other switch ends the ramp
--   -> number of the base before, null when none was
--   raises 22023 unknown model or version, percent out of range; 55000 wrong state, another candidate, not
--          compared; 55P03 a lock was not to be had for 5 seconds
--
-- One row lock on recsys.model orders concurrent promotions; generation, states, rollout and the logs change
-- in one commit, which is what request processes see. A candidate's users are those whose bucket is below its
-- percent: raising it moves nobody away from it, and a new candidate brings a new salt.
--
-- tests: tests/db/test_versions.py, tests/db/test_rollout.py

drop function recsys._promote(text, integer, text, text);

create function recsys._promote(
    p_model   text,
    p_number  integer,
    p_percent numeric default 100,
    p_reason  text default '',
    p_kind    text default 'promote',
    p_force   boolean default false,
    p_ramp    boolean default false
)
returns integer
language plpgsql
set search_path from current
set lock_timeout = '5s'
as $function$
declare
    base      integer;
    last_served integer;
    candidate recsys.rollout;
    before    jsonb := recsys._rollout(p_model);
    whole     boolean := p_number is null or p_percent = 100;
begin
    perform from recsys.model where name = p_model for update;
    if not found then
        raise exception 'unknown model %', p_model using errcode = 'invalid_parameter_value';
    end if;
    if p_percent is null or p_percent <= 0 or p_percent > 100 or p_percent <> round(p_percent, 2) then
        raise exception 'percent must be above 0 and up to 100, with at most two decimals, got %', p_percent
            using errcode = 'invalid_parameter_value',
                  hint = format('''recsys rollback %s'' takes the users back from a candidate.', p_model);
    end if;
    if p_number is null and p_percent <> 100 then
        raise exception 'stopping to serve is for everybody, not for % %% of the users', p_percent
            using errcode = 'invalid_parameter_value', hint = 'Leave out the percentage.';
    end if;
    before := recsys._rollout(p_model);
    select r.number into base from recsys.rollout as r where r.model = p_model and not r.candidate;
    select * into candidate from recsys.rollout as r where r.model = p_model and r.candidate;
    if p_number is not null then
        perform recsys._check_promotable(p_model, p_number);
    end if;
    if p_kind = 'promote' and p_number is not null then
        if not whole and base is null then
            raise exception 'no version of model % serves, so version % has nobody to share the users with', p_model, p_number
                using errcode = 'object_not_in_prerequisite_state',
                      hint = format('Promote it to everybody: recsys promote %s %s', p_model, p_number);
        elsif not whole and p_number = base then
            raise exception 'version % is the base of model % and answers whom the candidate leaves', p_number, p_model
                using errcode = 'object_not_in_prerequisite_state',
                      hint = 'Give the percentage to the other version.';
        elsif candidate.number is not null and p_number not in (candidate.number, base) then
            raise exception 'version % of model % is being rolled out (% %%)', candidate.number, p_model, candidate.percent
                using errcode = 'object_not_in_prerequisite_state',
                      hint = format('Finish it, ''recsys promote %s %s'', or end it, ''recsys rollback %s''.', p_model, candidate.number, p_model);
        elsif base is not null and p_number <> base and candidate.number is distinct from p_number and not p_force then
            perform recsys._check_gate(p_model, p_number, base);
        elsif base is null and not p_force then
            -- Nothing serves, but something did: a break is no way around the comparison.
            select p.number into last_served from recsys.promotion as p
            where p.model = p_model and p.number is not null order by p.id desc limit 1;
            if last_served <> p_number then
                perform recsys._check_gate(p_model, p_number, last_served);
            end if;
        end if;
    end if;
    if p_number = base and p_kind = 'promote' then
        p_kind := 'rollback';  -- from the candidate
    end if;
    if not p_ramp then
        perform recsys._end_ramp(p_model, format('ended by a %s', p_kind));
    end if;
    if before = (case when p_number is null then '{}'
                      when whole then jsonb_build_object(p_number, 100)
                      else jsonb_build_object(base, 100 - p_percent, p_number, p_percent) end) then
        return base;
    end if;

    if whole then
        update recsys.model_version set state = 'ready', last_served_at = now()
        where model = p_model and state = 'serving' and number is distinct from p_number;
        delete from recsys.rollout where model = p_model;
        if p_number is not null then
            insert into recsys.rollout (model, number, percent) values (p_model, p_number, 100);
        end if;
    else
        if candidate.number is null then
            update recsys.model set salt = left(gen_random_uuid()::text, 8) where name = p_model;
        end if;
        insert into recsys.rollout (model, number, percent, candidate) values (p_model, p_number, p_percent, true)
        on conflict (model, number) do update set percent = excluded.percent;
        update recsys.rollout set percent = 100 - p_percent where model = p_model and number = base;
    end if;
    update recsys.model_version set state = 'serving', last_served_at = now()
    where model = p_model and number = p_number;
    update recsys.model set generation = generation + 1 where name = p_model;
    insert into recsys.promotion (model, number, from_number, kind, percent, reason)
    values (p_model, p_number, base, case when p_kind = 'promote' and not whole then 'percent' else p_kind end, p_percent, p_reason);
    perform recsys._audit(
        p_model, p_number, case when p_kind = 'promote' and not whole then 'percent' else p_kind end, before, recsys._rollout(p_model),
        case when p_force then 'forced: ' else '' end || coalesce(p_reason, ''), recsys._numbers(p_model, p_number));
    return base;
end
$function$;
