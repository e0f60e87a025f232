-- recsys._check_promotable: refuse a version that is not ready, and say what to do
--
--   raises 22023 unknown version, 55000 wrong state

create function recsys._check_promotable(p_model text, p_number integer)
returns void
language plpgsql
set search_path from current
as $function$
declare
    target recsys.model_version;
begin
    select * into target from recsys.model_version where model = p_model and number = p_number for update;
    if not found then
        raise exception 'model % has no version %', p_model, p_number
            using errcode = 'invalid_parameter_value',
                  hint = format('''recsys versions %s'' lists them.', p_model);
    end if;
    if target.state not in ('ready', 'serving') then
        raise exception 'version % of model % is %, not ready', p_number, p_model, target.state
            using errcode = 'object_not_in_prerequisite_state',
                  hint = case target.state
                      when 'failed' then format('%s. Train a new one: recsys train %s', coalesce(target.error, 'Its artifacts are wrong'), p_model)
                      when 'retired' then format('It no longer follows the source; ''recsys backfill %s %s'' brings it back.', p_model, p_number)
                      else format('Run ''recsys backfill %s %s'' first.', p_model, p_number) end;
    end if;
end
$function$;
