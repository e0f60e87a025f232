-- recsys._experiment_stop: from this commit on, everybody is served by the rollout again
--
--   raises 22023 unknown experiment; 55000 a draft; 55P03 a lock was not to be had for 5 seconds
--
-- A stopped experiment stays as it is: whoever stops it again wants its results kept, which had failed.
--
-- Reads no results: stopping must be quick. recsys._experiment_keep stores them afterwards.
--
-- tests: tests/db/test_experiment_store.py

create function recsys._experiment_stop(p_name text, p_reason text default '')
returns void
language plpgsql
set search_path from current
set lock_timeout = '5s'
as $function$
declare
    e recsys.experiment;
begin
    perform from recsys.model as m
    where m.name = (select x.model from recsys.experiment as x where x.name = p_name) for update;
    select * into e from recsys.experiment where name = p_name for update;
    if not found then
        raise exception 'unknown experiment %', p_name
            using errcode = 'invalid_parameter_value', hint = '''recsys experiment list'' lists them.';
    elsif e.state = 'stopped' then
        return;
    elsif e.state = 'draft' then
        raise exception 'experiment % is %, not running', p_name, e.state
            using errcode = 'object_not_in_prerequisite_state',
                  hint = format('Start it: recsys experiment start %s', p_name);
    end if;
    update recsys.experiment set state = 'stopped', stopped_at = now(), reason = coalesce(p_reason, '')
    where name = p_name;
    -- The clean-up waits from then on, as after a rollout.
    update recsys.model_version as v set last_served_at = now()
    from recsys.experiment_arm as a
    where a.experiment = p_name and v.model = e.model and v.number = a.number;
    update recsys.model set generation = generation + 1 where name = e.model;
    perform recsys._audit(
        e.model, null, 'experiment', '{"state": "running"}',
        jsonb_build_object('experiment', p_name, 'state', 'stopped'), p_reason, '{}');
end
$function$;
