-- recsys._end_ramp: end the ramp of a model, if there is one; the audit keeps why
--
--   -> whether there was one

create function recsys._end_ramp(p_model text, p_reason text)
returns boolean
language plpgsql
set search_path from current
as $function$
declare
    ended recsys.ramp;
begin
    delete from recsys.ramp where model = p_model returning * into ended;
    if ended.model is null then
        return false;
    end if;
    perform recsys._audit(p_model, ended.number, 'ramp', to_jsonb(ended), null, p_reason);
    return true;
end
$function$;
