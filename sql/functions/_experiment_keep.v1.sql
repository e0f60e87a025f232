-- recsys._experiment_keep: copy the results of a stopped experiment to the audit
--
-- Impressions and outcomes are forgotten one day, the audit is not.
--
-- tests: tests/db/test_experiment_store.py

create function recsys._experiment_keep(p_name text)
returns void
language sql
as $function$
    select recsys._audit(
        e.model, null, 'experiment', jsonb_build_object('state', e.state),
        jsonb_build_object('experiment', e.name, 'state', e.state), 'results',
        (select jsonb_object_agg(r.metric || ' ' || r.arm, jsonb_strip_nulls(to_jsonb(r) - 'metric' - 'arm'))
         from recsys.experiment_result_at(e.name, now()) as r))
    from recsys.experiment as e where e.name = p_name
$function$;
