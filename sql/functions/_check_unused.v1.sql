-- recsys._check_unused: refuse to take away a version that a running experiment assigns users to
--
--   raises 55000

create function recsys._check_unused(p_model text, p_number integer)
returns void
language plpgsql stable
set search_path from current
as $function$
declare
    experiment text := recsys._experiment_uses(p_model, p_number);
begin
    if experiment is not null then
        raise exception 'experiment % assigns users to version % of model %', experiment, p_number, p_model
            using errcode = 'object_not_in_prerequisite_state',
                  hint = format('Stop it first: recsys experiment stop %s', experiment);
    end if;
end
$function$;
