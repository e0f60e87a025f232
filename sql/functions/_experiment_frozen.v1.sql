-- recsys._experiment_frozen: once an experiment has started, what it compares and measures stays
--
--   raises 55000
--
-- Shares moved under way mix users of different times (Simpson's paradox), and metrics chosen after a look at the
-- data are no test.
--
-- tests: tests/db/test_experiment_store.py

create function recsys._experiment_frozen()
returns trigger
language plpgsql
set search_path from current
as $function$
declare
    changed text := coalesce(to_jsonb(new), to_jsonb(old)) ->> case tg_table_name when 'experiment' then 'name' else 'experiment' end;
begin
    if exists (select from recsys.experiment as e where e.name = changed and e.state <> 'draft') then
        raise exception 'experiment % has started: its arms, metrics and settings stay as they are', changed
            using errcode = 'object_not_in_prerequisite_state',
                  hint = 'Stop it and create another one.';
    end if;
    return coalesce(new, old);
end
$function$;

create trigger experiment_arm_frozen before insert or update or delete on recsys.experiment_arm
for each row execute function recsys._experiment_frozen();

create trigger experiment_metric_frozen before insert or update or delete on recsys.experiment_metric
for each row execute function recsys._experiment_frozen();

create trigger experiment_frozen
before update of name, model, salt, traffic, alpha, primary_metric, expected_users, covariate_days on recsys.experiment
for each row execute function recsys._experiment_frozen();
