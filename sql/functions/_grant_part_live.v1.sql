-- recsys._grant_part_live: privileges on what change capture, the workers and the rollout made

create function recsys._grant_part_live()
returns void
language plpgsql
set search_path from current
as $function$
declare
    routine regprocedure;
begin
    if to_regrole('recsys_app') is not null then
        grant execute on function recsys._plan(text) to recsys_app;
        grant select on recsys.capture, recsys.item_change to recsys_app;
        -- Through _queue_items only, which checks what it is given.
        revoke insert on recsys.item_change from recsys_app;
        grant execute on function recsys._queue_items(text, text[]), recsys._item_bucket(text) to recsys_app;
    end if;
    if to_regrole('recsys_analyst') is not null then
        grant select on recsys.audit_log, recsys.dead_letter, recsys.change_status, recsys.rollout_status to recsys_analyst;
    end if;
    if to_regrole('recsys_trainer') is not null then
        -- What is written stays, under the name of who wrote it, at the time of writing.
        revoke insert, update, delete on recsys.audit, recsys.promotion from recsys_trainer;
        grant insert (model, number, kind, before, after, reason, numbers) on recsys.audit to recsys_trainer;
        grant insert (model, number, from_number, kind, reason, percent) on recsys.promotion to recsys_trainer;
        grant usage, select on sequence recsys.capture_failure to recsys_trainer;
        -- A trigger function of 'recsys watch' runs as its owner: on a table of a trainer's own, whose columns have
        -- types of theirs, it would call their casts.
        for routine in
            select p.oid::regprocedure from pg_catalog.pg_proc as p
            where p.pronamespace = 'recsys'::regnamespace and p.proname ~ '^_capture__'
              and pg_has_role(p.proowner, 'usage') and p.proowner <> to_regrole('recsys_trainer')
        loop
            execute format('revoke all on function %s from recsys_trainer', routine);
        end loop;
        if pg_has_role('recsys_trainer', 'usage') and pg_has_role('recsys_trainer', 'set') then
            alter function recsys._queue_items(text, text[]) owner to recsys_trainer;
        end if;
    end if;
end
$function$;
