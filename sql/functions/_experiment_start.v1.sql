-- recsys._experiment_start: from this commit on, users are assigned to the arms
--
--   p_force  without the comparisons that its versions need; needs a reason, and the audit says so
--   raises 22023 unknown experiment, force without a reason; 55000 not a draft, another one runs, arms or versions
--          not in order or not compared; 55P03 a lock was not to be had for 5 seconds
--
-- tests: tests/db/test_experiment_store.py

create function recsys._experiment_start(p_name text, p_reason text default '', p_force boolean default false)
returns void
language plpgsql
set search_path from current
set lock_timeout = '5s'
as $function$
declare
    e      recsys.experiment;
    other  text;
begin
    if p_force and coalesce(p_reason, '') !~ '\S' then
        raise exception 'a forced start needs a reason'
            using errcode = 'invalid_parameter_value',
                  hint = '--reason ''...'': whoever reads the audit wants to know why.';
    end if;
    -- The model's row orders this with every switch of the model.
    perform from recsys.model as m
    where m.name = (select x.model from recsys.experiment as x where x.name = p_name) for update;
    select * into e from recsys.experiment where name = p_name for update;
    if not found then
        raise exception 'unknown experiment %', p_name
            using errcode = 'invalid_parameter_value', hint = '''recsys experiment list'' lists them.';
    elsif e.state <> 'draft' then
        raise exception 'experiment % is % already', p_name, e.state
            using errcode = 'object_not_in_prerequisite_state',
                  hint = 'An experiment runs once; create another one to measure again.';
    end if;
    select x.name into other from recsys.experiment as x where x.model = e.model and x.state = 'running';
    if other is not null then
        raise exception 'experiment % of model % is running', other, e.model
            using errcode = 'object_not_in_prerequisite_state',
                  hint = format('Stop it first: recsys experiment stop %s', other);
    end if;
    perform recsys._check_experiment(p_name, p_force);
    update recsys.experiment set state = 'running', started_at = now() where name = p_name;
    update recsys.model set generation = generation + 1 where name = e.model;
    perform recsys._audit(
        e.model, null, 'experiment', '{"state": "draft"}',
        jsonb_build_object('experiment', p_name, 'state', 'running', 'traffic', e.traffic, 'arms',
            (select jsonb_object_agg(a.arm, jsonb_build_object('number', a.number, 'share', a.share))
             from recsys.experiment_arm as a where a.experiment = p_name)),
        case when p_force then 'forced: ' else '' end || coalesce(p_reason, ''), '{}');
end
$function$;
