-- Every privilege in one place.
--
--   recsys_app      what a request process needs: read versions, run their functions, record outcomes
--   recsys_analyst  functions and views, never tables
--   recsys_trainer  trains, backfills, promotes
--
-- They are group roles: grant recsys_app to web_user. Where the migrating role may not create roles they are
-- left out with a notice; create them and run 'select recsys._grant_core()' and, per version,
-- 'select recsys._grant_version(''shop_1'')'. The application role also needs SELECT on the tables that the
-- sources read: recsys cannot grant what belongs to the application.
--
-- The analysts' functions are SECURITY DEFINER and call the versions' functions, which any trainer can replace. So
-- they belong to recsys_trainer, never to the role that migrates, which may be a superuser: a definer is no stronger
-- than the code it runs. recsys_trainer therefore needs SELECT on what the sources read, which training needs anyway.
--
-- tests: tests/db/test_privileges.py

do $block$
declare
    wanted text;
begin
    foreach wanted in array array['recsys_app', 'recsys_analyst', 'recsys_trainer'] loop
        if not exists (select from pg_catalog.pg_roles where rolname = wanted) then
            begin
                execute format('create role %I nologin', wanted);
                if wanted = 'recsys_trainer'
                   and not (pg_has_role(wanted, 'usage') and pg_has_role(wanted, 'set')) then
                    -- Its maker may then hand it the functions and versions below, and drop them again.
                    execute format('grant %I to current_user with inherit true, set true', wanted);
                end if;
            exception
                when insufficient_privilege then
                    raise notice 'role % was not created: no CREATEROLE privilege', wanted;
                when duplicate_object or unique_violation then
                    null;  -- another database of this server migrates at the same time
            end;
        end if;
    end loop;
end
$block$;

create function recsys._grant_core()
returns void
language plpgsql
set search_path from current
as $function$
declare
    routine regprocedure;
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
        grant all on all tables in schema recsys to recsys_trainer;
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
end
$function$;

create function recsys._grant_version(p_suffix text)
returns void
language plpgsql
set search_path from current
as $function$
declare
    routine regprocedure;
    relation text;
    -- The analysts' functions run as their owner, who must be able to read what a trainer made.
    keeper regrole := (select p.proowner from pg_catalog.pg_proc as p
                       where p.oid = 'recsys.coverage(text, integer)'::regprocedure);
begin
    -- Only an owner may build an index or drop: a version belongs to the trainers, whoever made it, unless the
    -- migrating role is none of them.
    if to_regrole('recsys_trainer') is not null and pg_has_role('recsys_trainer', 'usage')
       and pg_has_role('recsys_trainer', 'set') then
        for routine in
            select p.oid::regprocedure from pg_catalog.pg_proc as p
            where p.pronamespace = 'recsys'::regnamespace and p.proname ~ ('^_[a-z]+_' || p_suffix || '$')
        loop
            execute format('alter function %s owner to recsys_trainer', routine);
        end loop;
        foreach relation in array array['item_vector_', 'item_embedding_', 'id_embedding_'] loop
            execute format('alter table recsys.%I owner to recsys_trainer', relation || p_suffix);
        end loop;
    end if;
    for routine in
        select p.oid::regprocedure from pg_catalog.pg_proc as p
        where p.pronamespace = 'recsys'::regnamespace
          and p.proname in ('_state_' || p_suffix, '_session_' || p_suffix, '_search_' || p_suffix,
                            '_query_' || p_suffix, '_rerank_' || p_suffix, '_vectors_' || p_suffix,
                            '_coverage_' || p_suffix)
    loop
        execute format('revoke all on function %s from public', routine);
        execute format('grant execute on function %s to %s', routine, keeper);
        if to_regrole('recsys_app') is not null then
            execute format('grant execute on function %s to recsys_app', routine);
        end if;
        if to_regrole('recsys_trainer') is not null then
            execute format('grant execute on function %s to recsys_trainer', routine);
        end if;
    end loop;
    foreach relation in array array['item_vector_', 'item_embedding_', 'id_embedding_'] loop
        execute format('grant select on recsys.%I to %s', relation || p_suffix, keeper);
        if to_regrole('recsys_app') is not null then
            execute format('grant select on recsys.%I to recsys_app', relation || p_suffix);
        end if;
        if to_regrole('recsys_trainer') is not null then
            execute format('grant all on recsys.%I to recsys_trainer', relation || p_suffix);
        end if;
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
