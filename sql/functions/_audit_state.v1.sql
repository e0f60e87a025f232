-- recsys._audit_state: the trigger that no change of a version's state can get past

create function recsys._audit_state()
returns trigger
language plpgsql
set search_path from current
as $function$
declare
    before recsys.model_version := case when tg_op <> 'INSERT' then old end;
    after  recsys.model_version := case when tg_op <> 'DELETE' then new end;
begin
    if after.state is distinct from before.state then
        perform recsys._audit(
            coalesce(after.model, before.model), coalesce(after.number, before.number), 'state',
            to_jsonb(before.state), to_jsonb(after.state), coalesce(after.error, ''),
            recsys._numbers(coalesce(after.model, before.model), coalesce(after.number, before.number)));
    end if;
    return null;
end
$function$;

create trigger audit_state after insert or delete or update of state on recsys.model_version
    for each row execute function recsys._audit_state();
