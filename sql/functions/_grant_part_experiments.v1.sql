-- recsys._grant_part_experiments: privileges on experiments
--
-- Request processes read who is in which arm and add exposures. Results run as recsys_trainer, as the other
-- functions for analysts do.
--
-- tests: tests/db/test_experiment_result.py

create function recsys._grant_part_experiments()
returns void
language plpgsql
set search_path from current
as $function$
declare
    routine regprocedure;
begin
    if to_regrole('recsys_app') is not null then
        grant select on recsys.experiment, recsys.experiment_arm to recsys_app;
        grant insert on recsys.exposure to recsys_app;
    end if;
    if to_regrole('recsys_analyst') is not null then
        grant select on recsys.experiment_status, recsys.experiment_result, recsys.experiment_health to recsys_analyst;
        grant execute on function
            recsys.experiment_result_at(text, timestamptz), recsys.experiment_health_at(text, timestamptz)
        to recsys_analyst;
    end if;
    if to_regrole('recsys_trainer') is not null then
        grant select, insert, update, delete on
            recsys.experiment, recsys.experiment_arm, recsys.experiment_metric, recsys.exposure to recsys_trainer;
        -- A trigger of a trainer would run with the rights of whoever writes.
        revoke trigger, truncate, references on
            recsys.experiment, recsys.experiment_arm, recsys.experiment_metric, recsys.exposure from recsys_trainer;
        if pg_has_role('recsys_trainer', 'usage') and pg_has_role('recsys_trainer', 'set') then
            for routine in
                select p.oid::regprocedure from pg_catalog.pg_proc as p
                where p.pronamespace = 'recsys'::regnamespace
                  and p.proname in ('experiment_result_at', 'experiment_health_at')
                  and p.proowner <> to_regrole('recsys_trainer')
            loop
                execute format('alter function %s owner to recsys_trainer', routine);
            end loop;
        end if;
    end if;
end
$function$;
