-- recsys._serving: the version that answers most users of a model
--
--   -> suffix of its per-version objects, id types, calibrated ef_search
--   raises 22023 when the model is unknown, 55000 when nothing serves
--
-- tests: tests/db/test_sql_functions.py

create function recsys._serving(p_model text)
returns table (suffix text, number integer, item_type text, user_type text, ef_search integer)
language plpgsql stable
set search_path from current
as $function$
begin
    return query
    select format('%s_%s', m.name, v.number), v.number, m.item_type, m.user_type,
           coalesce(v.ef_search, 100)
    from recsys.model as m
    join recsys.rollout as r on r.model = m.name
    join recsys.model_version as v on v.model = r.model and v.number = r.number
    where m.name = p_model
    order by r.percent desc
    limit 1;
    if not found then
        if exists (select from recsys.model where name = p_model) then
            raise exception 'no version of model % is serving', p_model
                using errcode = 'object_not_in_prerequisite_state',
                      hint = format('Run ''recsys promote %s NUMBER''.', p_model);
        end if;
        raise exception 'unknown model %', p_model
            using errcode = 'invalid_parameter_value',
                  hint = 'select model, number, state from recsys.version_status';
    end if;
end
$function$;
