-- recsys._experiment_uses: the running experiment that assigns users to a version
--
--   -> its name, null when there is none
--
-- tests: tests/db/test_experiment_store.py

create function recsys._experiment_uses(p_model text, p_number integer)
returns text
language sql stable
as $function$
    select e.name from recsys.experiment as e
    join recsys.experiment_arm as a on a.experiment = e.name
    where e.model = p_model and e.state = 'running' and a.number = p_number
    limit 1
$function$;
