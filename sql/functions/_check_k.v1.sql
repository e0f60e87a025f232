-- recsys._check_k: refuse list lengths outside 1..1000
--
--   raises 22023

create function recsys._check_k(k integer)
returns void
language plpgsql immutable parallel safe
set search_path from current
as $function$
begin
    if k is null or k not between 1 and 1000 then
        raise exception 'k must be between 1 and 1000, got %', k
            using errcode = 'invalid_parameter_value';
    end if;
end
$function$;
