-- recsys._serving: the version that answers a unit, or most users, of a model
--
--   p_unit  the user id as text; null: the base
--   -> suffix of its per-version objects, id types, calibrated ef_search
--   raises 22023 when the model is unknown, 55000 when nothing serves
--
-- tests: tests/db/test_sql_functions.py, tests/db/test_assignment.py

drop function recsys._serving(text);

create function recsys._serving(p_model text, p_unit text default null)
returns table (suffix text, number integer, item_type text, user_type text, ef_search integer)
language plpgsql stable
set search_path from current
as $function$
begin
    return query
    select format('%s_%s', m.name, v.number), v.number, m.item_type, m.user_type,
           coalesce(v.ef_search, 100)
    from recsys.model as m
    join recsys.model_version as v on v.model = m.name and v.number = recsys._assign(p_model, p_unit)
    where m.name = p_model;
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
