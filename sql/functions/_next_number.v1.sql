-- recsys._next_number: give out the next version number of a model
--
--   model, item_type, user_type  registered on first use; other types are an error once a version exists
--   -> the number; committed by the caller before training starts, so that a crash burns it
--   raises 22023 when the model is registered with other id types
--
-- tests: tests/db/test_versions.py

create function recsys._next_number(p_model text, p_item_type text, p_user_type text)
returns integer
language plpgsql
set search_path from current
as $function$
declare
    found recsys.model;
begin
    insert into recsys.model (name, item_type, user_type)
    values (p_model, p_item_type, p_user_type)
    on conflict (name) do nothing;
    update recsys.model set last_number = last_number + 1
    where name = p_model
    returning * into found;
    if (found.item_type, found.user_type) is distinct from (p_item_type, p_user_type) then
        if not exists (select from recsys.model_version where model = p_model) then
            -- Nothing was built on the types yet: a first attempt may have been mistaken.
            update recsys.model set item_type = p_item_type, user_type = p_user_type where name = p_model;
            return found.last_number;
        end if;
        raise exception 'model % is registered with item ids % and user ids %, not % and %',
            p_model, found.item_type, found.user_type, p_item_type, p_user_type
            using errcode = 'invalid_parameter_value',
                  hint = 'Use the registered types, or another model name.';
    end if;
    return found.last_number;
end
$function$;
