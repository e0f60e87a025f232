-- recsys._grant_core: every privilege on the core objects; each area brings its own part
--
-- Differs from grants.v1.sql: a trainer may write the core tables but puts no trigger on them, and the functions
-- _grant_part_<area> grant what their area made. Administrators call it again after creating the roles: it runs as
-- them, so it calls only the areas there are, never whatever a trainer, who may create here, named like that.
--
--   raises 42501 when an area's function belongs to somebody whom the caller has no reason to trust
--
-- tests: tests/db/test_privileges.py

create or replace function recsys._grant_core()
returns void
language plpgsql
set search_path from current
as $function$
declare
    routine regprocedure;
    part    regprocedure;
    wanted  text;
    -- pgvector may be in a schema of its own, which is nobody's at first.
    place   regnamespace := (select e.extnamespace from pg_catalog.pg_extension as e where e.extname = 'vector');
begin
    foreach wanted in array array['recsys_app', 'recsys_analyst', 'recsys_trainer'] loop
        if to_regrole(wanted) is not null and not has_schema_privilege(wanted, place, 'usage')
           and has_schema_privilege(place, 'usage with grant option') then
            execute format('grant usage on schema %s to %I', place, wanted);
        end if;
    end loop;
    -- Functions are executable by everybody unless that is taken back.
    revoke all on all functions in schema recsys from public;
    if to_regrole('recsys_app') is not null then
        grant usage on schema recsys to recsys_app;
        grant select on recsys.model, recsys.model_version, recsys.rollout, recsys.artifact to recsys_app;
        grant select, insert on recsys.interaction to recsys_app;
        grant execute on function recsys.schema_version(), recsys._direction(halfvec) to recsys_app;
    end if;
    if to_regrole('recsys_analyst') is not null then
        grant usage on schema recsys to recsys_analyst;
        grant select on recsys.version_status, recsys.version_metric, recsys.switch_log to recsys_analyst;
        grant execute on function
            recsys.schema_version(),
            recsys.nearest_items(text, halfvec, integer, text[]),
            recsys.similar_items(text, text, integer),
            recsys.similar_items(text, bigint, integer),
            recsys.similar_items(text, uuid, integer),
            recsys.recommend(text, text, integer),
            recsys.recommend(text, bigint, integer),
            recsys.recommend(text, uuid, integer),
            recsys.coverage(text, integer)
        to recsys_analyst;
    end if;
    if to_regrole('recsys_trainer') is not null then
        grant usage, create on schema recsys to recsys_trainer;
        grant select, insert, update, delete on all tables in schema recsys to recsys_trainer;
        -- A trigger of a trainer would run with the rights of whoever writes, such as a definer.
        revoke trigger, truncate, references on
            recsys.model, recsys.model_version, recsys.rollout, recsys.artifact, recsys.promotion, recsys.interaction
        from recsys_trainer;
        grant execute on all functions in schema recsys to recsys_trainer;
        if pg_has_role('recsys_trainer', 'usage') and pg_has_role('recsys_trainer', 'set') then
            for routine in
                select p.oid::regprocedure from pg_catalog.pg_proc as p
                where p.pronamespace = 'recsys'::regnamespace and p.prosecdef
                  and p.proname in ('coverage', 'recommend', 'similar_items', 'nearest_items')
                  and p.proowner <> to_regrole('recsys_trainer')
            loop
                execute format('alter function %s owner to recsys_trainer', routine);
            end loop;
        else
            raise notice 'the functions for analysts run as %, not as recsys_trainer: % is no member of it',
                current_user, current_user
                using hint = format('grant recsys_trainer to %I; select recsys._grant_core();', current_user);
        end if;
    end if;
    foreach wanted in array array['live', 'comparison', 'impressions', 'experiments', 'web', 'learning'] loop
        part := to_regprocedure(format('recsys._grant_part_%s()', wanted));
        continue when part is null;  -- its migration has not come yet
        if not exists (
            select from pg_catalog.pg_proc as p
            join pg_catalog.pg_proc as core on core.oid = 'recsys._grant_core()'::regprocedure
            join pg_catalog.pg_roles as r on r.oid = p.proowner
            where p.oid = part and (p.proowner = core.proowner or r.rolname = current_user or r.rolsuper)
        ) then
            raise exception '% belongs neither to the owner of recsys._grant_core() nor to %', part, current_user
                using errcode = 'insufficient_privilege', hint = format('Drop it, or: alter function %s owner to ...', part);
        end if;
        execute format('select %s', part);
    end loop;
end
$function$;

-- Functions that run as their owner must not find a caller's temporary table, view or type before ours or the
-- application's; a path that does not name pg_temp begins with it.

do $block$
declare
    routine regprocedure;
begin
    for routine in
        select p.oid::regprocedure from pg_catalog.pg_proc as p
        where p.pronamespace = 'recsys'::regnamespace and p.proconfig::text like '%search_path=%'
    loop
        execute format('alter function %s set search_path = %s', routine,
                       concat_ws(', ', nullif(current_setting('search_path'), ''), 'pg_temp'));
    end loop;
end
$block$;

select recsys._grant_core();
