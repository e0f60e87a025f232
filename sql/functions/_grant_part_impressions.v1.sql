-- recsys._grant_part_impressions: privileges on impressions, outcomes and guardrails
--
-- Request processes only insert: a stolen web login must not read what others were shown. The partitions have no
-- grants of their own; everybody goes through their parents.
--
-- Only the owner of a partitioned table may attach to it and drop from it. So the tables and the two functions that do
-- belong to recsys_trainer, like the tables of versions: a definer is no stronger than the trainers, and whoever runs
-- the worker, the partitions have one owner. Where the migrating role is none of them, only itself can maintain.
--
-- tests: tests/db/test_impression_tables.py

create function recsys._grant_part_impressions()
returns void
language plpgsql
set search_path from current
as $function$
declare
    relation regclass;
    routine  regprocedure;
begin
    if to_regrole('recsys_app') is not null then
        grant insert on recsys.impression, recsys.outcome to recsys_app;
        grant execute on function
            recsys._log_answers(json, json),
            recsys._log_outcome(uuid, text, text, text, text, numeric, timestamptz) to recsys_app;
    end if;
    if to_regrole('recsys_analyst') is not null then
        grant select on recsys.impression_item, recsys.version_outcome to recsys_analyst;
    end if;
    if to_regrole('recsys_trainer') is not null then
        grant select, insert, update, delete on
            recsys.impression, recsys.outcome, recsys.retention, recsys.guardrail to recsys_trainer;
        grant select on recsys.impression_item, recsys.version_outcome to recsys_trainer;
        revoke trigger, truncate, references on recsys.retention, recsys.guardrail from recsys_trainer;
        grant execute on function
            recsys._log_answers(json, json),
            recsys._log_outcome(uuid, text, text, text, text, numeric, timestamptz), recsys._make_partitions(integer),
            recsys._drop_old_partitions(interval, integer),
            recsys._guard_moments(text, integer[], timestamptz, real) to recsys_trainer;
        if pg_has_role('recsys_trainer', 'usage') and pg_has_role('recsys_trainer', 'set') then
            for relation in
                select c.oid::regclass
                from unnest(array['recsys.impression'::regclass, 'recsys.outcome'::regclass]) as p (parent)
                cross join lateral pg_partition_tree(p.parent) as t
                join pg_catalog.pg_class as c on c.oid = t.relid
                where c.relowner <> to_regrole('recsys_trainer')
            loop
                execute format('alter table %s owner to recsys_trainer', relation);
            end loop;
            for routine in
                select p.oid::regprocedure from pg_catalog.pg_proc as p
                where p.pronamespace = 'recsys'::regnamespace
                  and p.proname in ('_make_partitions', '_drop_old_partitions')
                  and p.proowner <> to_regrole('recsys_trainer')
            loop
                execute format('alter function %s owner to recsys_trainer', routine);
            end loop;
        end if;
    end if;
end
$function$;
