-- recsys._grant_part_impressions: privileges on impressions, outcomes and guardrails
--
-- Request processes only insert: a stolen web login must not read what others were shown. The partitions have no
-- grants of their own; everybody goes through their parents.
--
-- tests: tests/db/test_impression_tables.py

create function recsys._grant_part_impressions()
returns void
language plpgsql
set search_path from current
as $function$
begin
    if to_regrole('recsys_app') is not null then
        grant insert on recsys.impression, recsys.outcome to recsys_app;
        grant execute on function recsys._log_answers(json, json) to recsys_app;
    end if;
    if to_regrole('recsys_analyst') is not null then
        grant select on recsys.impression_item, recsys.version_outcome to recsys_analyst;
    end if;
    if to_regrole('recsys_trainer') is not null then
        grant select, insert, update, delete on
            recsys.impression, recsys.outcome, recsys.retention, recsys.guardrail to recsys_trainer;
        grant select on recsys.impression_item, recsys.version_outcome to recsys_trainer;
        -- The partitions are made and dropped by a definer, who must not meet a trainer's trigger.
        revoke trigger, truncate, references on
            recsys.impression, recsys.outcome, recsys.retention, recsys.guardrail,
            recsys.impression_default, recsys.outcome_default from recsys_trainer;
        grant execute on function
            recsys._log_answers(json, json), recsys._make_partitions(integer),
            recsys._drop_old_partitions(interval),
            recsys._guard_moments(text, integer[], timestamptz, real) to recsys_trainer;
    end if;
end
$function$;
